"""Where a task's examples come from: any source that the `datasets` package reads."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets

from soupkitchen.errors import DataError

log = logging.getLogger(__name__)

_FORMATS = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_SAVED = ("dataset_dict.json", "state.json")


@dataclass(frozen=True)
class Data:
    """A dataset and which of its splits serve for what.

    Attributes:
        path: a folder of csv, json, parquet or image files named by split; one
            such file; a folder written by `save_to_disk`; a dataset's name on the
            hub; or a mapping from split to file.
        heldout: the split that decides. Slices such as ``train[:20%]`` are allowed
            for all but saved datasets.
        test: the split that is scored at the end and decides nothing; None for none.
        name: which configuration of the dataset, for the hub's.
        revision: which revision of the dataset, for the hub's.
    """

    path: str | Mapping[str, str]
    heldout: str = "validation"
    test: str | None = "test"
    name: str | None = None
    revision: str | None = None

    def load_splits(self) -> dict[str, datasets.Dataset]:
        """The held-out split and, where there is one, the test split, by role."""
        roles = {"heldout": self.heldout, "test": self.test}
        return {role: self.load(split) for role, split in roles.items() if split is not None}

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
