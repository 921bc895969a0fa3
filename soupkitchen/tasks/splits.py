"""Splits by the names that people use: `dev.jsonl`, `heldout.csv`, a folder `val/`.

`datasets` knows some of these by itself. It puts `dev.csv` and `val.csv` into one split, takes `eval.csv`
for test data, and does not see `heldout.csv` at all: there the files are told to it one by one.
"""

from __future__ import annotations

import mimetypes
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from glob import escape
from itertools import islice
from pathlib import Path

from soupkitchen.errors import DataError
from soupkitchen.tasks.files import local_files

HELDOUT, TEST, TRAIN = "heldout", "test", "train"

FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
"""The builder of `datasets` by what a file's name ends in."""

_NAMES = {
    HELDOUT: ("validation", "valid", "val", "dev", "heldout", "held_out", "eval", "evaluation"),
    TEST: ("test", "testing"),
    TRAIN: ("train", "training"),
}
_ROLES = {name: role for role, names in _NAMES.items() for name in names}
_OURS = ("heldout", "held_out", "eval", "evaluation")
"""Names that `datasets` does not know, or takes for those of test data."""
_WORD = re.compile(
    "(?<![^\\W\\d_])("
    + "|".join(sorted(_ROLES, key=len, reverse=True)).replace("_", "[-_ ]")
    + ")(?![^\\W\\d_])",
    re.IGNORECASE,
)
_ASKED = re.compile(r"(^|\+)([\w-]+)")
_DEEPEST = 4


def plain(name: str) -> str:
    """The name of a split with what `datasets` has no place for as an underscore: ``held_out``."""
    return re.sub(r"[-\s]", "_", name)


def role_of(name: str) -> str | None:
    """What a split of that name is for; None where the name does not say.

    MNLI has two of each, ``validation_matched`` and ``validation_mismatched``.
    """
    return _ROLES.get(re.sub("_(mis)?matched$", "", plain(name).lower()))


def canonical(name: str) -> str:
    """What `datasets` calls the split of a file of that name."""
    return "validation" if role_of(name) == HELDOUT else role_of(name) or name


def files_by_split(folder: Path) -> dict[str, list[str]]:
    """The files in `folder` by the split that they are named for, as patterns.

    A folder is named for all that is in it. The split is called as the files are, in small letters: "dev",
    "held_out".
    """
    return {
        name: [escape(str(path.relative_to(folder))) + "/**" * path.is_dir() for path in paths]
        for name, paths in paths_by_split(folder).items()
    }


def paths_by_split(folder: Path) -> dict[str, list[Path]]:
    """The files and folders in `folder` by the split that they are named for, as in `files_by_split`."""
    found: dict[str, list[Path]] = {}
    for path, name in _named(folder, _DEEPEST):
        found.setdefault(plain(name.lower()), []).append(path)
    return found


def tables_of(paths: Sequence[Path]) -> list[Path]:
    """The files of tables at `paths` and in folders there; none if images or sounds are there.

    A folder beside a table of that name (``train.csv``, ``train/``) is what the table speaks of.
    """
    tables = []
    for file in local_files([path for path in paths if not path.is_dir()] or paths):
        kind, _ = mimetypes.guess_type(file.name)
        if kind is not None and kind.startswith(("image/", "audio/", "video/")):
            return []
        if file.suffix.lower() in FORMATS and not file.name.startswith((".", "__")):
            tables.append(file)
    return tables


def is_told_alike(folder: Path) -> bool:
    """Whether `datasets` finds the same splits in `folder` by itself, one name each."""
    names = {name for _, name in _named(folder, _DEEPEST)}
    roles = [role_of(name) for name in {plain(name.lower()) for name in names}]
    return len(roles) == len(set(roles)) and all(n == n.lower() and plain(n) not in _OURS for n in names)


def says_itself(folder: Path) -> bool:
    """Whether `folder` has a card that tells its splits, as data sets of the hub do."""
    card = folder / "README.md"
    if not card.is_file():
        return False
    with card.open(encoding="utf-8", errors="replace") as file:
        lines = list(islice(file, 500))
    return lines[:1] == ["---\n"] and "configs:\n" in lines


def _named(folder: Path, depth: int) -> Iterator[tuple[Path, str]]:
    """Files and folders that are named for a split, with the word that says so; not what is inside them."""
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.name.startswith((".", "__")):
            continue
        path, is_folder = Path(entry.path), entry.is_dir()
        stem = entry.name if is_folder else entry.name.partition(".")[0]
        words = _WORD.findall(stem) if is_folder or path.suffix.lower() in FORMATS else []
        if len({role_of(word) for word in words}) == 1:
            yield path, words[0]
        elif is_folder and not words and depth:
            yield from _named(path, depth - 1)


def of_role(role: str, names: Sequence[str], path: object, files: Mapping[str, list[str]]) -> str | None:
    """The split of `names` that serves for `role`; None where there is none.

    Args:
        path: where the splits are, for the message.
        files: those of each split where it is called as its files are.

    Raises:
        DataError: where several would do.
    """
    there = [name for name in names if role_of(name) == role]
    if len(there) > 1 and (files or canonical(there[0]) not in there):
        told = [" ".join(_shown(files[name])) if name in files else name for name in there]
        raise DataError(
            f"task.data.path={path}: {' and '.join(told)} may each be the {_SAID[role]}; say which is, as "
            f"task.data.{role}={there[0]}"
        )
    return canonical(there[0]) if len(there) > 1 else next(iter(there), None)


_SAID = {
    HELDOUT: "split that decides (task.data.heldout)",
    TEST: "test split (task.data.test)",
    TRAIN: "training split (task.data.train)",
}


def _shown(patterns: Sequence[str]) -> list[str]:
    shown = [re.sub(r"\[(.)\]", r"\1", pattern).removesuffix("**") for pattern in patterns]
    return shown if len(shown) <= 2 else [shown[0], "…", shown[-1]]


def splits_in(split: str) -> set[str]:
    """The names of splits in what is asked for, such as ``train[:20%]+dev``."""
    return {name for _, name in _ASKED.findall(split)}


def called(split: str, names: Sequence[str], files: Mapping[str, list[str]]) -> str:
    """A split, or a slice of one, that the user asks for, by the name that `datasets` has for it."""

    def one(match: re.Match[str]) -> str:
        name = plain(match[2])
        if match[2] in names:
            return match[0]
        if name in names:
            return f"{match[1]}{name}"
        if name in files:  # the split is called otherwise than the file
            return f"{match[1]}{canonical(name)}"
        if files and canonical(name) == name:  # the other way about; "test" was the name of eval.csv
            there = [other for other in names if role_of(other) == role_of(name)]
            there = there or [other for other in names if name == TEST and other.startswith("eval")]
            return f"{match[1]}{there[0]}" if len(there) == 1 else match[0]
        return match[0]

    return _ASKED.sub(one, split)
