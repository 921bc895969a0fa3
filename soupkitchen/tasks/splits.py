"""Splits by the names that people use: `dev.jsonl`, `heldout.csv`, a folder `val/`.

`datasets` knows some of these by itself. It puts `dev.csv` and `val.csv` into one split, takes `eval.csv`
for test data, and does not see `heldout.csv` at all: so it is given the files of each split.
"""

from __future__ import annotations

import mimetypes
import os
import re
from collections.abc import Iterator, Mapping, Sequence
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
_WORD = re.compile(
    "(?<![^\\W\\d_])("
    + "|".join(sorted(_ROLES, key=len, reverse=True)).replace("_", "[-_ ]")
    + ")(?![^\\W\\d_])",
    re.IGNORECASE,
)
_ASKED = re.compile(r"(^|\+)([\w-]+)")
_DEEPEST = 4


def plain(name: str) -> str:
    """The name of a split with underscores for what `datasets` does not take: ``held_out``."""
    return re.sub(r"[-\s]", "_", name)


def role_of(name: str) -> str | None:
    """The role of a split of that name; None if the name does not say.

    MNLI has two of each, ``validation_matched`` and ``validation_mismatched``.
    """
    return _ROLES.get(re.sub("_(mis)?matched$", "", plain(name).lower()))


def canonical(name: str) -> str:
    """The name of `datasets` for the split of a file of that name."""
    return "validation" if role_of(name) == HELDOUT else role_of(name) or name


def paths_by_split(folder: Path) -> dict[str, list[Path]]:
    """The files and folders in `folder` by the split that they are named for; a folder counts as a whole.

    The split is called as the files are, in small letters: "dev", "held_out".
    """
    paths: dict[str, list[Path]] = {}
    for path, name in _named(folder, _DEEPEST):
        paths.setdefault(plain(name.lower()), []).append(path)
    return paths


def tables_of(paths: Sequence[Path]) -> list[Path]:
    """The files of tables at `paths` and in folders there; none if images or sounds are there.

    A folder beside a table of that name (``train.csv``, ``train/``) holds files that the table names.
    """
    tables = []
    for file in local_files([path for path in paths if not path.is_dir()] or paths):
        kind, _ = mimetypes.guess_type(file.name)
        if kind is not None and kind.startswith(("image/", "audio/", "video/")):
            return []
        if file.suffix.lower() in FORMATS and not file.name.startswith((".", "__")):
            tables.append(file)
    return tables


def says_itself(folder: Path) -> bool:
    """Tells whether `folder` has a card with a list of its splits, as data sets of the hub do."""
    card = folder / "README.md"
    if not card.is_file():
        return False
    with card.open(encoding="utf-8", errors="replace") as file:
        lines = list(islice(file, 500))
    return lines[:1] == ["---\n"] and "configs:\n" in lines


def _named(folder: Path, depth: int) -> Iterator[tuple[Path, str]]:
    """Files and folders that are named for a split, with the word in the name; not what is inside them."""
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


_SAID = {
    HELDOUT: "split that decides (task.data.heldout)",
    TEST: "test split (task.data.test)",
    TRAIN: "training split (task.data.train)",
}


def of_role(
    role: str, names: Sequence[str], source: object, paths: Mapping[str, Sequence[Path]]
) -> str | None:
    """The split of `names` that serves for `role`; None if there is none.

    Args:
        source: what the splits are of, for the message.
        paths: of each split, if it is called as its files are.

    Raises:
        DataError: if several would do.
    """
    matches = [name for name in names if role_of(name) == role]
    if len(matches) < 2:
        return next(iter(matches), None)
    if not paths and canonical(matches[0]) in matches:
        return canonical(matches[0])
    shown = [_shown(paths[name], source) if paths else name for name in matches]
    raise DataError(
        f"task.data.path={source}: {' and '.join(shown)} may each be the {_SAID[role]}; say which is, as "
        f"task.data.{role}={matches[0]}"
    )


def _shown(paths: Sequence[Path], source: object) -> str:
    folder = Path(str(source)).expanduser()
    names = [f"{path.relative_to(folder)}{'/' * path.is_dir()}" for path in paths]
    return " ".join(names if len(names) <= 2 else [names[0], "…", names[-1]])


def splits_in(split: str) -> set[str]:
    """The names of splits in a request such as ``train[:20%]+dev``."""
    return {name for _, name in _ASKED.findall(split)}


def called(split: str, names: Sequence[str], by_role: bool) -> str:
    """A request for a split, or slices of some, by `names`; `by_role` if "validation" may stand for "dev"."""

    def known(match: re.Match[str]) -> str:
        name = plain(match[2])
        if match[2] in names:
            return match[0]
        if name in names:
            return f"{match[1]}{name}"
        same = [other for other in names if role_of(other) == role_of(name)]
        return f"{match[1]}{same[0]}" if by_role and canonical(name) == name and len(same) == 1 else match[0]

    return _ASKED.sub(known, split)
