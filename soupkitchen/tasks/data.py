"""Where a task's examples come from: any source that the `datasets` package reads."""

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

from soupkitchen.errors import ConfigError, DataError, MachineError, did_you_mean
from soupkitchen.options.kinds import Inside, Seed, Splits
from soupkitchen.store.documents import open_regular
from soupkitchen.store.files import NO_ROOM
from soupkitchen.tasks import delimited
from soupkitchen.tasks.local_files import cache_folder, local_files
from soupkitchen.tasks.splits import (
    FORMATS,
    HELDOUT,
    TEST,
    TRAIN,
    called,
    files_by_split,
    is_told_alike,
    of_role,
    paths_by_split,
    plain,
    says_itself,
    splits_in,
    tables_of,
)

log = logging.getLogger(__name__)

_SAVED = ("dataset_dict.json", "state.json")

_UNKNOWN = re.compile("Unknown split|Unrecognized instruction|Requested slice", re.IGNORECASE)
"""How `datasets` says that there is no such split, or no such slice of one."""

AUTO = "auto"


@dataclass(frozen=True)
class Data:
    """A dataset and which of its splits serve for what.

    Attributes:
        path: a folder of csv, json, parquet or image files named by split, as people name
            them (`soupkitchen.tasks.splits`); one such file; a folder written by
            `save_to_disk`; a dataset's name on the hub; or a mapping from split to file.
        heldout: the split that decides. "auto" is the validation split, or, where there is
            none, a share of the training data, drawn with a seed and with labels in
            proportion. Slices such as ``train[:20%]`` are allowed for all but saved datasets.
        test: the split that is scored at the end and decides nothing; "auto" for the test
            split where there is one, None for none.
        train: the training data, where something is computed on it; "auto" for the
            training split.
        heldout_share: how much of the training data "auto" draws.
        seed: of that draw.
        name: which configuration of the dataset, for the hub's.
        revision: which revision of the dataset, for the hub's.

    Raises:
        ConfigError: for a share that is none.
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
        if not 0 < self.heldout_share < 1:
            raise ConfigError(f"task.data.heldout_share={self.heldout_share} should lie between 0 and 1")

    def load_splits(self, stratify: str | None = None) -> dict[str, datasets.Dataset]:
        """The held-out split and, where there is one, the test split, by role.

        Args:
            stratify: the column whose values keep their proportions where a split is drawn.

        Raises:
            DataError: where the source or a split is not there, or is empty.
        """
        splits = {"heldout": self._heldout(stratify)}
        test = self.test if self.test != AUTO else self._of_role(TEST)
        return splits if test is None else {**splits, "test": self.load(test)}

    def found_test(self) -> datasets.Dataset | None:
        """The test split that "auto" finds; None if there is none, or the option says something else."""
        name = self._of_role(TEST) if self.test == AUTO else None
        return None if name is None else self.load(name)

    def load_training(self, stratify: str | None = None) -> datasets.Dataset:
        """The training data, without what `load_splits` draws from it.

        Raises:
            DataError: where there is none.
        """
        if self.train != AUTO:
            return self.load(self.train)
        if (name := self._of_role(TRAIN)) is None:
            raise DataError(f"task.data.path={self.path} has no training split; name one as task.data.train")
        split = self.load(name)
        if self.heldout != AUTO or self._of_role(HELDOUT) is not None:
            return split
        drawn, _ = _draw(split, self.heldout_share, self.seed, stratify)
        return split.select(sorted(set(range(len(split))) - set(drawn)))

    def training_beside(self) -> datasets.Dataset | None:
        """Training data that lies beside the splits and that none was drawn from, if there is any."""
        if self.train != AUTO:
            return self.load(self.train)
        if (name := self._of_role(TRAIN)) is None:
            return None
        heldout = self._of_role(HELDOUT) if self.heldout == AUTO else self._called(self.heldout)
        return None if heldout is None or heldout.split("[")[0] == name else self.load(name)

    def features(self) -> datasets.Features:
        """The columns, and of what kind each is, of the examples that decide.

        Raises:
            DataError: where the source or the split is not there, or is empty.
        """
        return self.load(self._deciding()[0]).features

    def _heldout(self, stratify: str | None) -> datasets.Dataset:
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
        if (validation := self._of_role(HELDOUT)) is not None:
            return validation, False
        if (train := self._of_role(TRAIN)) is None:
            raise DataError(
                f"task.data.path={self.path} has no validation and no training split, only "
                f"{', '.join(self._names)}; name the one that decides as task.data.heldout"
            )
        return train, True

    def _of_role(self, role: str) -> str | None:
        """The split of the source that serves for `role`, by its name.

        Raises:
            DataError: where several would do.
        """
        names, files = self._names, self._files()
        return of_role(role, names, self.path, files if names and set(names) <= files.keys() else {})

    def _called(self, split: str) -> str:
        """A split that is asked for, as `datasets` has it: it may call one otherwise than its files are."""
        files = self._files()
        return called(split, self._names, files) if files or isinstance(self.path, Mapping) else split

    def _files(self) -> dict[str, list[str]]:
        """The files by split, where the path is a folder of files that are named so."""
        if isinstance(self.path, Mapping) or self.name is not None:
            return {}
        path = Path(self.path).expanduser()
        if not path.is_dir() or _is_saved(path) or says_itself(path):
            return {}
        return files_by_split(path)

    @cached_property
    def _names(self) -> list[str]:
        """The splits of the source."""
        if self._tables:
            return list(self._tables)
        if isinstance(self.path, Mapping):
            return [plain(name) for name in self.path]
        path = Path(self.path).expanduser()
        with _explained(self.path):
            if (path / "dataset_dict.json").exists():
                return list(datasets.load_from_disk(str(path)))
            if (path / "state.json").exists():
                return [_name_of(datasets.load_from_disk(str(path)))]
            if (files := self._files()) and not is_told_alike(path):
                return list(files)
            source = str(path) if path.is_dir() else str(self.path)
            return list(datasets.get_dataset_split_names(source, self.name, revision=self.revision))

    def load(self, split: str) -> datasets.Dataset:
        """Loads one split.

        Raises:
            DataError: where the source or the split is not there, or is empty.
        """
        with _explained(self.path, split):
            loaded = self._load(self._called(split))
        if len(loaded) == 0:
            raise _empty(self.path, split)
        return loaded

    @cached_property
    def _tables(self) -> dict[str, list[Path]]:
        """The local files of tables by split; none if the source is something else."""
        if isinstance(self.path, Mapping):
            named = {plain(name): [Path(file).expanduser()] for name, file in self.path.items()}
            is_local = not any("://" in str(file) for file in self.path.values())
            return {name: tables_of(files) or files for name, files in named.items()} if is_local else {}
        path = Path(self.path).expanduser()
        if path.is_file():
            return {TRAIN: [path]}
        if self.name is not None or not path.is_dir() or _is_saved(path) or says_itself(path):
            return {}
        tables = {n: tables_of(p) for n, p in (paths_by_split(path) or {TRAIN: [path]}).items()}
        return tables if all(tables.values()) else {}

    def _load(self, split: str) -> datasets.Dataset:
        names = splits_in(split)
        path = Path("" if isinstance(self.path, Mapping) else self.path).expanduser()
        if self._tables and (names <= self._tables.keys() or not path.is_dir()):
            loaded = {name: _read(self._tables[name]) for name in names & self._tables.keys()}
            sizes = {name: len(table) for name, table in loaded.items()}
            parts = [
                loaded[part.splitname].select(range(part.from_, part.to))
                for part in datasets.ReadInstruction.from_spec(split).to_absolute(sizes)
            ]
            return datasets.concatenate_datasets(parts) if len(parts) > 1 else parts[0]
        if isinstance(self.path, Mapping):  # of addresses
            files = {plain(name): str(file) for name, file in self.path.items()}
            return datasets.load_dataset(**_format(list(files.values())), data_files=files, split=split)
        if _is_saved(path):
            saved = datasets.load_from_disk(str(path))
            there = saved if isinstance(saved, datasets.DatasetDict) else {_name_of(saved): saved}
            if split not in there:
                raise KeyError(f"it was saved with {', '.join(there)}, of which no slices can be taken")
            return there[split]
        cache = cache_folder([path]) if path.exists() else None
        if (named := self._files()) and not is_told_alike(path):
            return datasets.load_dataset(str(path), data_files=named, split=split, cache_dir=cache)
        source = str(path) if path.is_dir() else str(self.path)
        return datasets.load_dataset(source, self.name, revision=self.revision, split=split, cache_dir=cache)


def _read(files: Sequence[Path]) -> datasets.Dataset:
    """The rows of tables that are one split."""
    for file in files:
        open_regular(file, DataError).close()
    if all(file.suffix.lower() in delimited.SUFFIXES for file in files):
        return delimited.load(files)
    told = {"data_files": [escape(str(file)) for file in files], "cache_dir": cache_folder(files)}
    return datasets.load_dataset(**_format(files), split=TRAIN, **told)


def _is_saved(path: Path) -> bool:
    """Whether `save_to_disk` wrote what is there."""
    return any((path / marker).exists() for marker in _SAVED)


def _name_of(saved: datasets.Dataset) -> str:
    """What a dataset that was saved alone is a split of, as far as it knows: "train" where it doesn't."""
    match = re.match(r"\w+", str(saved.split or ""))
    return match[0] if match else TRAIN


def _draw(split: datasets.Dataset, share: float, seed: int, stratify: str | None) -> tuple[list[int], str]:
    """Which examples make up a share of `split`, in order, and what to say of how they were drawn."""
    size = max(1, round(share * len(split)))
    if stratify in split.column_names:
        from sklearn.model_selection import train_test_split  # whoever has a held-out split need not wait

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
    """Where files that data names are looked for: beside its tables, and in the working directory."""
    if not isinstance(data, Data):
        return [Path.cwd()]
    root = [] if isinstance(data.path, Mapping) else [Path(data.path).expanduser()]
    files = [file.parent for files in data._tables.values() for file in files]
    return list(dict.fromkeys([*(one for one in root if one.is_dir()), *files, Path.cwd()]))


def check_columns(split: datasets.Dataset, columns: Mapping[str, str]) -> None:
    """Checks that each column exists; `columns` maps the option that names it to its name.

    Raises:
        DataError: naming the option, the column and the columns that there are.
    """
    for option, column in columns.items():
        if column not in split.column_names:
            raise DataError(
                f"{option}={column}: the data has no such column; it has {', '.join(split.column_names)}"
                f"{did_you_mean(column, split.column_names)}"
            )


def _format(files: Sequence[str | Path]) -> dict[str, Any]:
    """What `datasets` is told so that it reads files by themselves; of those in folders it knows it."""
    suffixes = {Path(file).suffix.lower() for file in files}
    if len(suffixes) != 1 or not suffixes <= FORMATS.keys():
        raise DataError(
            f"task.data.path: {', '.join(map(str, files))} should be of one kind, one of {', '.join(FORMATS)}"
        )
    suffix = suffixes.pop()
    sep = {"sep": "\t"} if suffix == ".tsv" else {}
    empty = {"keep_default_na": False, "na_values": [""]} if suffix in delimited.SUFFIXES else {}
    return {"path": FORMATS[suffix], **sep, **empty}


@contextmanager
def _explained(path: str | Mapping[str, str], split: str | None = None) -> Iterator[None]:
    """Turns what goes wrong with loading into a `DataError` that says in which file, and why."""
    logger = logging.getLogger("datasets")
    told, propagated, handlers = _Told(), logger.propagate, list(logger.handlers)
    for handler in handlers:
        handler.addFilter(_is_no_error)
    logger.addHandler(told)
    logger.propagate = False
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
        reason = told.lines[-1] if told.lines else _reason(error)
        if split is not None and (isinstance(error, KeyError) or _UNKNOWN.search(str(error))):
            raise DataError(
                f"task.data.path={path} gives no split {split!r} ({first_line(error)}); "
                "set task.data.heldout and task.data.test to splits that it has (null for no test split)"
            ) from error
        empty = [file for file in local_files(_listed(path)) if not file.stat().st_size]
        if empty:
            reason = f"{empty[0]} is empty: it has 0 bytes"
        raise DataError(
            f"task.data.path={path}: cannot be loaded ({reason}); it should be a folder of csv, json, "
            "parquet or image files named by split, all with the same columns and types, or one such file"
        ) from error
    finally:
        logger.propagate = propagated
        logger.removeHandler(told)
        for handler in handlers:
            handler.removeFilter(_is_no_error)


def _empty(path: str | Mapping[str, str], split: str) -> DataError:
    return DataError(
        f"the split {split!r} of task.data.path={path} is empty: it has no examples; fill it, or name "
        "another as task.data.heldout or task.data.test"
    )


def _is_no_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


class _Told(logging.Handler):
    """Keeps what `datasets` logs as errors: there, and not in its exceptions, it names the file.

    All else goes on to where logs go.
    """

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.ERROR:
            self.lines.append(" ".join(record.getMessage().split()))
        else:
            logging.getLogger().handle(record)


def _listed(path: str | Mapping[str, str]) -> list[str]:
    return list(path.values()) if isinstance(path, Mapping) else [path]


def _reason(error: BaseException) -> str:
    """The innermost of what caused `error`, in one line."""
    error = _innermost(error)
    if isinstance(error, datasets.table.CastError):
        one, other = (", ".join(names) for names in (error.table_column_names, error.requested_column_names))
        return f"its files differ in columns: one has {one}, another {other}"
    return first_line(error)


def _innermost(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def first_line(error: BaseException) -> str:
    """The first line of what an error says; its name where it says nothing."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0]
