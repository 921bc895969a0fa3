"""The source of a task's examples: anything that the `datasets` package reads.

Splits have the names that people use: `dev.jsonl`, `heldout.csv`, a folder `val/`. `datasets` knows some of
these by itself. It puts `dev.csv` and `val.csv` into one split, takes `eval.csv` for test data, and does not
see `heldout.csv` at all: so it is given the files of each split.
"""

from __future__ import annotations

import logging
import mimetypes
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset, DatasetDict, Features, ReadInstruction, load_dataset, load_from_disk

from soupkitchen.errors import DataError, MachineError, first_line
from soupkitchen.options.kinds import Inside, Seed, Splits, check_fields
from soupkitchen.store.files import NO_ROOM, open_regular
from soupkitchen.tasks.files import DELIMITED, cache_folder, load_delimited, local_files

log = logging.getLogger(__name__)

_UNKNOWN = re.compile("Unknown split|Unrecognized instruction|Requested slice|was saved with", re.IGNORECASE)
"""Errors of `datasets` for an unknown split or slice."""

AUTO = "auto"
HELDOUT, TEST, TRAIN = "heldout", "test", "train"

FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
"""Builders of `datasets` by suffix."""

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
_SAID = {
    HELDOUT: "split that decides (task.data.heldout)",
    TEST: "test split (task.data.test)",
    TRAIN: "training split (task.data.train)",
}


class DataSource:
    """Gives a task its examples."""

    def load_splits(self, stratify: str | None = None) -> dict[str, Dataset]:
        """The splits by role: "heldout", and "test" if there is one."""
        raise NotImplementedError

    def load_training(self, stratify: str | None = None) -> Dataset:
        """The training data."""
        raise DataError("tasks of this kind have no training data; leave method.recalibrate_batchnorm at 0")

    def training_beside(self) -> Dataset | None:
        """Training data that no split was drawn from, if any."""
        return None

    def found_test(self) -> Dataset | None:
        """The test split, if found by its name and not named by the user."""
        return None

    def features(self) -> Features:
        """The columns of the deciding examples, with their types."""
        return Features()


@dataclass(frozen=True)
class Data(DataSource):
    """A dataset, and the roles of its splits.

    Attributes:
        path: a folder of csv, json, parquet or image files named by split, as people name them
            (`soupkitchen.tasks.data`); one such file; a folder written by `save_to_disk`; a dataset's name
            on the hub; or a mapping from split to file.
        heldout: the split that decides. "auto" is the validation split, or, if there is none, a share of the
            training data, drawn with a seed and with labels in proportion. Slices such as ``train[:20%]``
            are allowed for all but saved datasets.
        test: the split that is scored at the end and decides nothing; "auto" for the test split if there is
            one, None for none.
        train: the training data, if something is computed on it; "auto" for the training split.
        heldout_share: how much of the training data "auto" draws.
        seed: of that draw.
        name: the configuration of a dataset of the hub.
        revision: the revision of a dataset of the hub.
    """

    path: Splits
    heldout: str = AUTO
    test: str | None = AUTO
    train: str = AUTO
    heldout_share: Inside = 0.2
    seed: Seed = 0
    name: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "task.data")

    def load_splits(self, stratify: str | None = None) -> dict[str, Dataset]:
        """The splits by role: "heldout", and "test" if there is one.

        Args:
            stratify: the column whose proportions a drawn split keeps.

        Raises:
            DataError: if the source or a split is missing or empty.
        """
        heldout = self._heldout(stratify)
        test = self.test if self.test != AUTO else self._of_role(TEST)
        return {"heldout": heldout} if test is None else {"heldout": heldout, "test": self.load(test)}

    def found_test(self) -> Dataset | None:
        name = self._of_role(TEST) if self.test == AUTO else None
        return None if name is None else self.load(name)

    def load_training(self, stratify: str | None = None) -> Dataset:
        """The training data, without the share that `load_splits` draws.

        Raises:
            DataError: if there is none.
        """
        if self.train != AUTO:
            return self.load(self.train)
        if (name := self._of_role(TRAIN)) is None:
            raise DataError(f"task.data.path={self.path} has no training split; name one as task.data.train")
        split = self.load(name)
        drawn = self._draw(split, stratify)[0] if self._deciding()[1] else []
        return split.select(sorted(set(range(len(split))) - set(drawn))) if drawn else split

    def training_beside(self) -> Dataset | None:
        if self.train != AUTO:
            return self.load(self.train)
        if (name := self._of_role(TRAIN)) is None:
            return None
        heldout = self._of_role(HELDOUT) if self.heldout == AUTO else self._called(self.heldout)
        return None if heldout is None or heldout.split("[")[0] == name else self.load(name)

    def features(self) -> Features:
        return self.load(self._deciding()[0]).features

    def _heldout(self, stratify: str | None) -> Dataset:
        name, is_drawn = self._deciding()
        split = self.load(name)
        if not is_drawn:
            return split
        drawn, how = self._draw(split, stratify)
        log.warning(
            "no validation split: %d examples of %s decide, drawn with seed %d%s. If the runs were trained "
            "on them, scores are too good; task.data.heldout names another split",
            len(drawn),
            name,
            self.seed,
            how,
        )
        return split.select(drawn)

    def _draw(self, split: Dataset, stratify: str | None) -> tuple[list[int], str]:
        """The numbers of the examples in the held-out share of `split`, in order, and how they were drawn."""
        size = max(1, round(self.heldout_share * len(split)))
        if stratify in split.column_names:
            from sklearn.model_selection import train_test_split  # slow to import

            values = list(map(str, split[stratify][:]))
            try:
                _, chosen = train_test_split(
                    range(len(split)), test_size=size, random_state=self.seed, shuffle=True, stratify=values
                )
                return sorted(chosen), f", each {stratify} in its proportion"
            except ValueError as error:
                log.info("the draw of held-out examples is not stratified by %s: %s", stratify, error)
        chosen = np.random.default_rng(self.seed).permutation(len(split))[:size]
        return sorted(map(int, chosen)), ""

    def _deciding(self) -> tuple[str, bool]:
        """The deciding split, and True if only a share of it decides."""
        if self.heldout != AUTO:
            return self.heldout, False
        if (validation := self._of_role(HELDOUT)) is not None:
            return validation, False
        if (train := self._of_role(TRAIN)) is None:
            raise DataError(
                f"task.data.path={self.path} has no validation and no training split, only "
                f"{', '.join(self._names)}; name the one that decides as task.data.heldout"
            )
        return train, True

    def _of_role(self, role: str) -> str | None:
        matches = [name for name in self._names if role_of(name) == role]
        if len(matches) < 2:
            return next(iter(matches), None)
        if not self._paths and canonical(matches[0]) in matches:
            return canonical(matches[0])
        raise DataError(
            f"task.data.path={self.path}: {' and '.join(map(self._shown, matches))} may each be the "
            f"{_SAID[role]}; say which is, as task.data.{role}={matches[0]}"
        )

    def _shown(self, split: str) -> str:
        """The split's files in the folder, for messages; its name if it is not named by files."""
        paths = self._paths.get(split, ())
        names = [f"{path.relative_to(self._path)}{'/' * path.is_dir()}" for path in paths] or [split]
        return " ".join(names if len(names) <= 2 else [names[0], "…", names[-1]])

    def _called(self, split: str) -> str:
        """A request as ``train[:20%]+dev`` by the names of splits here; "validation" may stand for "dev"."""
        if not self._paths and not isinstance(self.path, Mapping):
            return split

        def known(match: re.Match[str]) -> str:
            name = plain(match[2])
            there = [name for name in (match[2], name) if name in self._names]
            same = [other for other in self._names if self._paths and role_of(other) == role_of(name)]
            if not there and canonical(name) == name and len(same) == 1:
                there = same
            return f"{match[1]}{(there or [match[2]])[0]}"

        return _ASKED.sub(known, split)

    def load(self, split: str) -> Dataset:
        """Loads one split.

        Raises:
            DataError: if it is missing or empty.
        """
        with _explained(self.path, split):
            loaded = self._load(self._called(split))
        if len(loaded) == 0:
            raise _empty(self.path, split)
        return loaded

    @property
    def _path(self) -> Path:
        """The path, if it is local."""
        return Path("" if isinstance(self.path, Mapping) else self.path).expanduser()

    @property
    def _is_saved(self) -> bool:
        """True if `save_to_disk` wrote it."""
        if isinstance(self.path, Mapping):
            return False
        return any((self._path / marker).exists() for marker in ("dataset_dict.json", "state.json"))

    @cached_property
    def _folder(self) -> Path | None:
        """The folder of files, if any, unless a card or `save_to_disk` names its splits."""
        if isinstance(self.path, Mapping) or self.name is not None or not self._path.is_dir():
            return None
        return None if self._is_saved or says_itself(self._path) else self._path

    @cached_property
    def _paths(self) -> dict[str, list[Path]]:
        """Files and folders in the folder by the split that they are named for; a folder counts as a whole.

        The split is called as the files are, in small letters: "dev", "held_out".
        """
        paths: dict[str, list[Path]] = {}
        for path, name in () if self._folder is None else _named(self._folder, _DEEPEST):
            paths.setdefault(plain(name.lower()), []).append(path)
        return paths

    @cached_property
    def _tables(self) -> dict[str, list[Path]]:
        """Local table files by split; empty for other sources."""
        if isinstance(self.path, Mapping):
            named = {plain(name): [Path(file).expanduser()] for name, file in self.path.items()}
            is_local = not any("://" in str(file) for file in self.path.values())
            return {name: tables_of(files) or files for name, files in named.items()} if is_local else {}
        if self._path.is_file():
            return {TRAIN: [self._path]}
        if self._folder is None:
            return {}
        paths = self._paths or {TRAIN: [self._folder]}
        tables = {name: tables_of(files) for name, files in paths.items()}
        return tables if all(tables.values()) else {}

    @cached_property
    def _names(self) -> list[str]:
        if self._tables:
            return list(self._tables)
        if isinstance(self.path, Mapping):
            return [plain(name) for name in self.path]
        if self._paths:
            return list(self._paths)
        with _explained(self.path):
            if self._is_saved:
                return list(self._saved())
            return list(datasets.get_dataset_split_names(self._source, self.name, revision=self.revision))

    @property
    def _source(self) -> str:
        return str(self._path if self._path.is_dir() else self.path)

    def _saved(self) -> Mapping[str, Dataset]:
        saved = load_from_disk(str(self._path))
        if isinstance(saved, DatasetDict):
            return saved
        name = re.match(r"\w+", str(saved.split or ""))
        return {name[0] if name else TRAIN: saved}

    def _load(self, split: str) -> Dataset:
        names = {name for _, name in _ASKED.findall(split)}
        if self._tables and (names <= self._tables.keys() or not self._path.is_dir()):
            loaded = {name: _read(self._tables[name]) for name in names & self._tables.keys()}
            sizes = {name: len(table) for name, table in loaded.items()}
            parts = [
                loaded[part.splitname].select(range(part.from_, part.to))
                for part in ReadInstruction.from_spec(split).to_absolute(sizes)
            ]
            return datasets.concatenate_datasets(parts) if len(parts) > 1 else parts[0]
        if isinstance(self.path, Mapping):  # of addresses
            files = {plain(name): str(file) for name, file in self.path.items()}
            return load_dataset(**_format(list(files.values())), data_files=files, split=split)
        if self._is_saved:
            saved = self._saved()
            if split not in saved:
                raise ValueError(f"it was saved with {', '.join(saved)}, of which no slices can be taken")
            return saved[split]
        cache = cache_folder([self._path]) if self._path.exists() else None
        if self._paths:
            patterns = {
                name: [escape(str(path.absolute())) + "/**" * path.is_dir() for path in paths]
                for name, paths in self._paths.items()
            }
            return load_dataset(str(self._path), data_files=patterns, split=split, cache_dir=cache)
        return load_dataset(self._source, self.name, revision=self.revision, split=split, cache_dir=cache)


def _read(files: Sequence[Path]) -> Dataset:
    for file in files:
        open_regular(file, DataError).close()
    if all(file.suffix.lower() in DELIMITED for file in files):
        return load_delimited(files)
    patterns = [escape(str(file)) for file in files]
    return load_dataset(**_format(files), data_files=patterns, split=TRAIN, cache_dir=cache_folder(files))


def folders_of(data: object) -> list[Path]:
    """Folders for files named in the data: its tables', and the working directory."""
    if not isinstance(data, Data):
        return [Path.cwd()]
    root = [] if isinstance(data.path, Mapping) or not data._path.is_dir() else [data._path]
    beside = [file.parent for files in data._tables.values() for file in files]
    return list(dict.fromkeys([*root, *beside, Path.cwd()]))


def _format(files: Sequence[str | Path]) -> dict[str, Any]:
    """The arguments of `load_dataset` for files of one kind.

    Raises:
        DataError: if kinds differ or are unknown.
    """
    suffixes = {Path(file).suffix.lower() for file in files}
    if len(suffixes) != 1 or not suffixes <= FORMATS.keys():
        raise DataError(
            f"task.data.path: {', '.join(map(str, files))} should be of one kind, one of {', '.join(FORMATS)}"
        )
    suffix = suffixes.pop()
    cells = {"sep": "\t" if suffix == ".tsv" else ",", "keep_default_na": False, "na_values": [""]}
    return {"path": FORMATS[suffix], **(cells if suffix in DELIMITED else {})}


@contextmanager
def _explained(path: str | Mapping[str, str], split: str | None = None) -> Iterator[None]:
    """Turns errors of loading into a `DataError` with file and reason.

    Only the errors that `datasets` logs name the file, so they become the reason.
    """
    logged: list[str] = []

    def is_no_error(record: logging.LogRecord) -> bool:
        if record.levelno < logging.ERROR or not record.name.startswith("datasets"):
            return True
        logged.append(" ".join(record.getMessage().split()))
        return False

    handlers = [*logging.getLogger("datasets").handlers, *logging.getLogger().handlers]
    for handler in handlers:
        handler.filters.insert(0, is_no_error)
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, datasets.exceptions.DatasetsError) as error:
        if split is not None and "corresponds to no data" in str(error):
            raise _empty(path, split) from error
        if getattr(_innermost(error), "errno", None) in NO_ROOM:
            raise MachineError(
                f"`datasets` cannot write its copy of {path} to {datasets.config.HF_DATASETS_CACHE} "
                f"({_reason(error)}). Nothing is lost: make room, and the same command continues"
            ) from error
        reason = logged[-1] if logged else _reason(error)
        if split is not None and (isinstance(error, KeyError) or _UNKNOWN.search(str(error))):
            raise DataError(
                f"task.data.path={path} gives no split {split!r} ({first_line(error)}); "
                "set task.data.heldout and task.data.test to splits that it has (null for no test split)"
            ) from error
        paths = list(path.values()) if isinstance(path, Mapping) else [path]
        if empty := [file for file in local_files(paths) if not file.stat().st_size]:
            reason = f"{empty[0]} is empty: it has 0 bytes"
        raise DataError(
            f"task.data.path={path}: cannot be loaded ({reason}); it should be a folder of csv, json, "
            "parquet or image files named by split, all with the same columns and types, or one such file"
        ) from error
    finally:
        for handler in handlers:
            handler.removeFilter(is_no_error)


def _empty(path: str | Mapping[str, str], split: str) -> DataError:
    return DataError(
        f"the split {split!r} of task.data.path={path} is empty: it has no examples; fill it, or name "
        "another as task.data.heldout or task.data.test"
    )


def _reason(error: BaseException) -> str:
    error = _innermost(error)
    if isinstance(error, datasets.table.CastError):
        table, requested = map(", ".join, (error.table_column_names, error.requested_column_names))
        return f"its files differ in columns: one has {table}, another {requested}"
    return first_line(error)


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def plain(name: str) -> str:
    """A split's name for `datasets`, with underscores: ``held_out``."""
    return re.sub(r"[-\s]", "_", name)


def role_of(name: str) -> str | None:
    """The role of a split by its name, or None.

    MNLI has two of each: ``validation_matched`` and ``validation_mismatched``.
    """
    return _ROLES.get(re.sub("_(mis)?matched$", "", plain(name).lower()))


def canonical(name: str) -> str:
    """`datasets`' name of a split."""
    return "validation" if role_of(name) == HELDOUT else role_of(name) or name


def tables_of(paths: Sequence[Path]) -> list[Path]:
    """The table files at `paths` and inside; none if there are images or sounds.

    A folder beside a table of its name (``train.csv``, ``train/``) holds files that the table names.
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
    """True if a card in `folder` lists its splits."""
    card = folder / "README.md"
    if not card.is_file():
        return False
    with card.open(encoding="utf-8", errors="replace") as file:
        lines = list(islice(file, 500))
    return lines[:1] == ["---\n"] and "configs:\n" in lines


def _named(folder: Path, depth: int) -> Iterator[tuple[Path, str]]:
    """Files and folders named for a split, with that word; not their contents."""
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
