"""The source of a task's examples: anything that the `datasets` package reads."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from glob import escape
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset, DatasetDict, Features, ReadInstruction, load_dataset, load_from_disk

from soupkitchen.errors import DataError, MachineError
from soupkitchen.options.kinds import Inside, Seed, Splits, check_fields
from soupkitchen.store.files import NO_ROOM, open_regular
from soupkitchen.tasks import delimited, splits
from soupkitchen.tasks.base import DataSource
from soupkitchen.tasks.cells import first_line
from soupkitchen.tasks.files import cache_folder, local_files

log = logging.getLogger(__name__)

_UNKNOWN = re.compile("Unknown split|Unrecognized instruction|Requested slice", re.IGNORECASE)
"""Errors of `datasets` for a split, or a slice of one, that is not there."""

AUTO = "auto"


@dataclass(frozen=True)
class Data(DataSource):
    """A dataset, and the roles of its splits.

    Attributes:
        path: a folder of csv, json, parquet or image files named by split, as people name them
            (`soupkitchen.tasks.splits`); one such file; a folder written by `save_to_disk`; a dataset's name
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
            stratify: the column whose values keep their proportions if a split is drawn.

        Raises:
            DataError: if the source or a split is not there, or is empty.
        """
        heldout = self._heldout(stratify)
        test = self.test if self.test != AUTO else self._of_role(splits.TEST)
        return {"heldout": heldout} if test is None else {"heldout": heldout, "test": self.load(test)}

    def found_test(self) -> Dataset | None:
        name = self._of_role(splits.TEST) if self.test == AUTO else None
        return None if name is None else self.load(name)

    def load_training(self, stratify: str | None = None) -> Dataset:
        """The training data, without what `load_splits` draws from it.

        Raises:
            DataError: if there is none.
        """
        if self.train != AUTO:
            return self.load(self.train)
        if (name := self._of_role(splits.TRAIN)) is None:
            raise DataError(f"task.data.path={self.path} has no training split; name one as task.data.train")
        split = self.load(name)
        if not self._deciding()[1]:
            return split
        drawn, _ = _draw(split, self.heldout_share, self.seed, stratify)
        return split.select(sorted(set(range(len(split))) - set(drawn)))

    def training_beside(self) -> Dataset | None:
        if self.train != AUTO:
            return self.load(self.train)
        if (name := self._of_role(splits.TRAIN)) is None:
            return None
        heldout = self._of_role(splits.HELDOUT) if self.heldout == AUTO else self._called(self.heldout)
        return None if heldout is None or heldout.split("[")[0] == name else self.load(name)

    def features(self) -> Features:
        return self.load(self._deciding()[0]).features

    def _heldout(self, stratify: str | None) -> Dataset:
        name, is_drawn = self._deciding()
        split = self.load(name)
        if not is_drawn:
            return split
        drawn, how = _draw(split, self.heldout_share, self.seed, stratify)
        log.warning(
            "no validation split: %d examples of %s decide, drawn with seed %d%s. If the runs were trained "
            "on them, scores are too good; task.data.heldout names another split",
            len(drawn),
            name,
            self.seed,
            how,
        )
        return split.select(drawn)

    def _deciding(self) -> tuple[str, bool]:
        """The split that decides, and whether only a share of it does."""
        if self.heldout != AUTO:
            return self.heldout, False
        if (validation := self._of_role(splits.HELDOUT)) is not None:
            return validation, False
        if (train := self._of_role(splits.TRAIN)) is None:
            raise DataError(
                f"task.data.path={self.path} has no validation and no training split, only "
                f"{', '.join(self._names)}; name the one that decides as task.data.heldout"
            )
        return train, True

    def _of_role(self, role: str) -> str | None:
        """The name of the split that serves for `role`.

        Raises:
            DataError: if several would do.
        """
        return splits.of_role(role, self._names, self.path, self._paths)

    def _called(self, split: str) -> str:
        """A split, or a slice of one, by the name that it has here."""
        if not self._paths and not isinstance(self.path, Mapping):
            return split
        return splits.called(split, self._names, by_role=bool(self._paths))

    def load(self, split: str) -> Dataset:
        """Loads one split.

        Raises:
            DataError: if the source or the split is not there, or is empty.
        """
        with _explained(self.path, split):
            loaded = self._load(self._called(split))
        if len(loaded) == 0:
            raise _empty(self.path, split)
        return loaded

    @property
    def _path(self) -> Path:
        """The path of what is here; of a name on the hub and of a mapping nothing is."""
        return Path("" if isinstance(self.path, Mapping) else self.path).expanduser()

    @property
    def _is_saved(self) -> bool:
        """Tells whether `save_to_disk` wrote what is there."""
        if isinstance(self.path, Mapping):
            return False
        return any((self._path / marker).exists() for marker in ("dataset_dict.json", "state.json"))

    @cached_property
    def _folder(self) -> Path | None:
        """The folder of files; None if the path is none, or if a card or `save_to_disk` tells its splits."""
        if isinstance(self.path, Mapping) or self.name is not None or not self._path.is_dir():
            return None
        return None if self._is_saved or splits.says_itself(self._path) else self._path

    @cached_property
    def _paths(self) -> dict[str, list[Path]]:
        """Files and folders in the folder by the split that they are named for."""
        return {} if self._folder is None else splits.paths_by_split(self._folder)

    @cached_property
    def _tables(self) -> dict[str, list[Path]]:
        """The local files of tables by split; none if the source is something else."""
        if isinstance(self.path, Mapping):
            named = {splits.plain(name): [Path(file).expanduser()] for name, file in self.path.items()}
            is_local = not any("://" in str(file) for file in self.path.values())
            return (
                {name: splits.tables_of(files) or files for name, files in named.items()} if is_local else {}
            )
        if self._path.is_file():
            return {splits.TRAIN: [self._path]}
        if self._folder is None:
            return {}
        paths = self._paths or {splits.TRAIN: [self._folder]}
        tables = {name: splits.tables_of(files) for name, files in paths.items()}
        return tables if all(tables.values()) else {}

    @cached_property
    def _names(self) -> list[str]:
        """The splits of the source."""
        if self._tables:
            return list(self._tables)
        if isinstance(self.path, Mapping):
            return [splits.plain(name) for name in self.path]
        if self._paths:
            return list(self._paths)
        with _explained(self.path):
            if self._is_saved:
                return list(self._saved())
            return list(datasets.get_dataset_split_names(self._source, self.name, revision=self.revision))

    @property
    def _source(self) -> str:
        """The folder, or the name on the hub, that `datasets` is to load."""
        return str(self._path if self._path.is_dir() else self.path)

    def _saved(self) -> Mapping[str, Dataset]:
        """The splits that `save_to_disk` wrote; one that was saved alone may know its name."""
        saved = load_from_disk(str(self._path))
        if isinstance(saved, DatasetDict):
            return saved
        name = re.match(r"\w+", str(saved.split or ""))
        return {name[0] if name else splits.TRAIN: saved}

    def _load(self, split: str) -> Dataset:
        names = splits.splits_in(split)
        if self._tables and (names <= self._tables.keys() or not self._path.is_dir()):
            loaded = {name: _read(self._tables[name]) for name in names & self._tables.keys()}
            sizes = {name: len(table) for name, table in loaded.items()}
            parts = [
                loaded[part.splitname].select(range(part.from_, part.to))
                for part in ReadInstruction.from_spec(split).to_absolute(sizes)
            ]
            return datasets.concatenate_datasets(parts) if len(parts) > 1 else parts[0]
        if isinstance(self.path, Mapping):  # of addresses
            files = {splits.plain(name): str(file) for name, file in self.path.items()}
            return load_dataset(**_format(list(files.values())), data_files=files, split=split)
        if self._is_saved:
            saved = self._saved()
            if split not in saved:
                raise KeyError(f"it was saved with {', '.join(saved)}, of which no slices can be taken")
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
    """The rows of tables that are one split."""
    for file in files:
        open_regular(file, DataError).close()
    if all(file.suffix.lower() in delimited.SUFFIXES for file in files):
        return delimited.load(files)
    patterns = [escape(str(file)) for file in files]
    return load_dataset(
        **_format(files), data_files=patterns, split=splits.TRAIN, cache_dir=cache_folder(files)
    )


def _draw(split: Dataset, share: float, seed: int, stratify: str | None) -> tuple[list[int], str]:
    """The numbers of the examples in a share of `split`, in order, and how they were drawn, for the log."""
    size = max(1, round(share * len(split)))
    if stratify in split.column_names:
        from sklearn.model_selection import train_test_split  # slow to import

        values = list(map(str, split[stratify][:]))
        try:
            _, chosen = train_test_split(
                range(len(split)), test_size=size, random_state=seed, shuffle=True, stratify=values
            )
            return sorted(chosen), f", each {stratify} in its proportion"
        except ValueError as error:
            log.info("the draw of held-out examples is not stratified by %s: %s", stratify, error)
    chosen = np.random.default_rng(seed).permutation(len(split))[:size]
    return sorted(map(int, chosen)), ""


def folders_of(data: object) -> list[Path]:
    """The folders that may hold files which data names: beside its tables, and the working directory."""
    if not isinstance(data, Data):
        return [Path.cwd()]
    root = [] if isinstance(data.path, Mapping) or not data._path.is_dir() else [data._path]
    beside = [file.parent for files in data._tables.values() for file in files]
    return list(dict.fromkeys([*root, *beside, Path.cwd()]))


def _format(files: Sequence[str | Path]) -> dict[str, Any]:
    """The arguments with which `datasets` reads files of one kind.

    Raises:
        DataError: if they are of several, or of another.
    """
    suffixes = {Path(file).suffix.lower() for file in files}
    if len(suffixes) != 1 or not suffixes <= splits.FORMATS.keys():
        raise DataError(
            f"task.data.path: {', '.join(map(str, files))} should be of one kind, one of "
            f"{', '.join(splits.FORMATS)}"
        )
    suffix = suffixes.pop()
    cells = {"sep": "\t" if suffix == ".tsv" else ",", "keep_default_na": False, "na_values": [""]}
    return {"path": splits.FORMATS[suffix], **(cells if suffix in delimited.SUFFIXES else {})}


@contextmanager
def _explained(path: str | Mapping[str, str], split: str | None = None) -> Iterator[None]:
    """Turns errors of loading into a `DataError` that says in which file, and why.

    What `datasets` logs as an error names the file, and its exceptions do not: it becomes the reason, and is
    not logged.
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
    """The innermost cause of an error, in one line."""
    error = _innermost(error)
    if isinstance(error, datasets.table.CastError):
        table, requested = map(", ".join, (error.table_column_names, error.requested_column_names))
        return f"its files differ in columns: one has {table}, another {requested}"
    return first_line(error)


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
