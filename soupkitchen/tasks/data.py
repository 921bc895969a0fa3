"""Where a task's examples come from: any source that the `datasets` package reads."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from sklearn.model_selection import train_test_split

from soupkitchen.errors import ConfigError, DataError

log = logging.getLogger(__name__)

_FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_SAVED = ("dataset_dict.json", "state.json")

AUTO = "auto"
_VALIDATION, _TEST, _TRAIN = ("validation", "valid", "dev", "val"), ("test",), ("train",)


@dataclass(frozen=True)
class Data:
    """A dataset and which of its splits serve for what.

    Attributes:
        path: a folder of csv, json, parquet or image files named by split; one
            such file; a folder written by `save_to_disk`; a dataset's name on the
            hub; or a mapping from split to file.
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

    path: str | Mapping[str, str]
    heldout: str = AUTO
    test: str | None = AUTO
    train: str = AUTO
    heldout_share: float = 0.2
    seed: int = 0
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
        test = self._first_of(_TEST) if self.test == AUTO else self.test
        if test is not None:
            splits["test"] = self.load(test)
        return splits

    def load_training(self, stratify: str | None = None) -> datasets.Dataset:
        """The training data, without what `load_splits` draws from it.

        Raises:
            DataError: where there is none.
        """
        if self.train != AUTO:
            return self.load(self.train)
        if (name := self._first_of(_TRAIN)) is None:
            raise DataError(f"task.data.path={self.path} has no training split; name one as task.data.train")
        split = self.load(name)
        if self.heldout != AUTO or self._first_of(_VALIDATION) is not None:
            return split
        drawn, _ = _draw(split, self.heldout_share, self.seed, stratify)
        return split.select(sorted(set(range(len(split))) - set(drawn)))

    def training_beside(self) -> datasets.Dataset | None:
        """Training data that lies beside the splits and that none was drawn from, if there is any."""
        if self.train != AUTO:
            return self.load(self.train)
        if (name := self._first_of(_TRAIN)) is None:
            return None
        heldout = self._first_of(_VALIDATION) if self.heldout == AUTO else self.heldout
        return None if heldout is None or heldout.split("[")[0] == name else self.load(name)

    def _heldout(self, stratify: str | None) -> datasets.Dataset:
        if self.heldout != AUTO:
            return self.load(self.heldout)
        if (validation := self._first_of(_VALIDATION)) is not None:
            return self.load(validation)
        if (train := self._first_of(_TRAIN)) is None:
            raise DataError(
                f"task.data.path={self.path} has no validation and no training split, only "
                f"{', '.join(self._names())}; name the one that decides as task.data.heldout"
            )
        split = self.load(train)
        drawn, how = _draw(split, self.heldout_share, self.seed, stratify)
        log.warning(
            "no validation split: %d examples of %s decide, drawn with seed %d%s. If the runs were trained "
            "on them, scores are too good; task.data.heldout names another split",
            len(drawn),
            train,
            self.seed,
            how,
        )
        return split.select(drawn)

    def _first_of(self, names: Sequence[str]) -> str | None:
        """The first of `names` that is a split of the source."""
        there = self._names()
        return next((name for name in names if name in there), None)

    def _names(self) -> list[str]:
        """The splits of the source."""
        if isinstance(self.path, Mapping):
            return list(self.path)
        path = Path(self.path).expanduser()
        try:
            if (path / "dataset_dict.json").exists():
                return list(datasets.load_from_disk(str(path)))
            if path.is_file() or (path / "state.json").exists():
                return [_TRAIN[0]]
            source = str(path) if path.is_dir() else str(self.path)
            return list(datasets.get_dataset_split_names(source, self.name, revision=self.revision))
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise DataError(f"task.data.path={self.path}: cannot be loaded ({_first_line(error)})") from error

    def load(self, split: str) -> datasets.Dataset:
        """Loads one split.

        Raises:
            DataError: where the source or the split is not there, or is empty.
        """
        try:
            loaded = self._load(split)
        except (FileNotFoundError, ConnectionError, datasets.exceptions.DatasetsError) as error:
            raise DataError(f"task.data.path={self.path}: cannot be loaded ({_first_line(error)})") from error
        except (ValueError, KeyError) as error:
            raise DataError(
                f"task.data.path={self.path} gives no split {split!r} ({_first_line(error)}); "
                "set task.data.heldout and task.data.test to splits that it has (null for no test split)"
            ) from error
        if len(loaded) == 0:
            raise DataError(f"the split {split!r} of task.data.path={self.path} is empty")
        return loaded

    def _load(self, split: str) -> datasets.Dataset:
        if isinstance(self.path, Mapping):
            builder = _format(list(self.path.values()))
            return datasets.load_dataset(builder, data_files=dict(self.path), split=split)
        path = Path(self.path).expanduser()
        if any((path / marker).exists() for marker in _SAVED):
            saved = datasets.load_from_disk(str(path))
            return saved[split] if isinstance(saved, datasets.DatasetDict) else saved
        if path.is_file():
            return datasets.load_dataset(_format([path]), data_files=str(path), split=split)
        source = str(path) if path.is_dir() else str(self.path)
        return datasets.load_dataset(source, self.name, revision=self.revision, split=split)


def _draw(split: datasets.Dataset, share: float, seed: int, stratify: str | None) -> tuple[list[int], str]:
    """Which examples make up a share of `split`, in order, and what to say of how they were drawn."""
    size = max(1, round(share * len(split)))
    if stratify in split.column_names:
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


def check_columns(split: datasets.Dataset, columns: Mapping[str, str]) -> None:
    """Checks that each column exists; `columns` maps the option that names it to its name.

    Raises:
        DataError: naming the option, the column and the columns that there are.
    """
    for option, column in columns.items():
        if column not in split.column_names:
            raise DataError(
                f"{option}={column}: the data has no such column; it has {', '.join(split.column_names)}"
            )


def count_overlap(one: datasets.Dataset, other: datasets.Dataset, columns: Sequence[str]) -> int:
    """How many examples of `other` are in `one` too, by the content of `columns`."""
    seen = set(_contents(one, columns))
    return sum(content in seen for content in _contents(other, columns))


def _contents(split: datasets.Dataset, columns: Sequence[str]) -> list[bytes]:
    table = split.select_columns(list(columns)).with_format("arrow")[:]
    rows = zip(*(table[column] for column in columns), strict=True)
    return [repr(tuple(value.as_py() for value in row)).encode() for row in rows]


def _format(files: Sequence[str | Path]) -> str:
    suffixes = {Path(file).suffix.lower() for file in files}
    if len(suffixes) != 1 or not suffixes <= _FORMATS.keys():
        raise DataError(
            f"task.data.path: {', '.join(map(str, files))} should be of one kind, one of "
            f"{', '.join(_FORMATS)}"
        )
    return _FORMATS[suffixes.pop()]


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
