"""Multi-label classification: any number of labels for a text or a pair."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from soupkitchen.errors import ConfigError, DataError
from soupkitchen.options.kinds import Fraction, LabelsOrColumns
from soupkitchen.tasks.base import Batch, Processor
from soupkitchen.tasks.columns import LABELS, TEXTS, row_of
from soupkitchen.tasks.kinds.text_classification import TextClassification
from soupkitchen.tasks.labels import Column, ModelLabels, Names, Splits, values_of

_LABELS = 'labels, as ["toxic", "obscene"], or task.labels=[toxic,obscene] for columns of 0 and 1'
_FLAGS = {0, 1, "0", "1"}


@dataclass(frozen=True)
class MultilabelClassification(TextClassification):
    """Scores sequence-classification models whose labels do not exclude each other.

    Attributes:
        label: the column of labels: lists of some, or of a 0 or 1 for each.
        labels: as in `soupkitchen.tasks.labels`; "vectors" for lists of 0 and 1; or columns of 0 and 1, one a
            label.
        threshold: the probability from which a label is predicted.
    """

    looked_for = (TEXTS, LABELS)
    stratify = None
    entries = _LABELS

    label: str = "labels"
    labels: LabelsOrColumns | None = field(default=None, kw_only=True)  # type: ignore[assignment]
    threshold: Fraction = 0.5

    @property
    def columns(self) -> Sequence[str]:
        """The columns of 0 and 1, one a label, if there are such columns."""
        return () if self.labels is None or isinstance(self.labels, (str, Mapping)) else self.labels

    def reading(self, splits: Splits, model: PreTrainedModel) -> Any:
        """The number of each label, "vectors" for lists of 0 and 1, or the column of each label."""
        if self.columns:
            return _columns_of(ModelLabels.of(model), self.columns)
        if self.labels in (None, "vectors") and self._are_vectors(splits, model.config.num_labels):
            return "vectors"
        return super().reading(splits, model)

    def encode_labels(self, split: Dataset, model: PreTrainedModel) -> list[Any]:
        reading = self.read_as(split, model)
        if self.columns:
            return [list(row) for row in zip(*(_flags(split, column) for column in reading), strict=True)]
        rows = values_of(split, self.label, _LABELS)
        if reading == "vectors":
            return [[int(flag) for flag in row] for row in rows]
        numbers = [{reading[value] for value in row} for row in rows]
        return [[int(number in row) for number in range(model.config.num_labels)] for row in numbers]

    def _are_vectors(self, splits: Splits, size: int) -> bool:
        """True if lists hold 0 or 1 for each of `size` labels."""
        column = Column.of(splits, self.label, _LABELS)
        rows = [row for split in splits.values() for row in values_of(split, self.label, _LABELS)]
        flags, whole = column.rows.keys() <= _FLAGS, all(len(row) == size for row in rows)
        no_numbers = any(isinstance(v, bool) for v in column.rows) or any(len(set(r)) < len(r) for r in rows)
        if flags and whole and (no_numbers or self.labels == "vectors" or (size == 1 and 1 in column.rows)):
            return True
        if self.labels == "vectors" or (flags and no_numbers):
            raise DataError(
                f"{column.name}: lists of 0 and 1 should have one for each of the model's {size} labels, and "
                "not all do"
            )
        if flags and whole:
            raise DataError(
                f"{column.name}: {rows[0]} (row 1) can be read in two ways, and so can all others: as a 0 "
                f"or 1 for each of the model's {size} labels, and as a list of numbers of labels; "
                "task.labels=vectors or task.labels=indices decides"
            )
        return False

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        logits = self.logits(model, batch).float()
        return logits if self.metric.inputs == "logits" else (logits.sigmoid() >= self.threshold).long()


def _columns_of(model: ModelLabels, columns: Sequence[str]) -> list[str]:
    """The column of each of the model's labels.

    Raises:
        ConfigError: if a label has no column, or a column no label.
    """
    names = Names(columns)
    places = [names.find(name) for name in model.names or ()]
    if model.is_counted and len(places) == len(columns) and not any(isinstance(p, int) for p in places):
        return list(columns)
    without = [name for name, place in zip(model.names or (), places, strict=True) if place is None]
    beyond = [column for place, column in enumerate(columns) if place not in places]
    if without or beyond or len(set(places)) < len(places):
        what = f"the label {without[0]!r} has no column" if without else f"{beyond[0]!r} is none"
        raise ConfigError(f"task.labels={','.join(columns)}: {what}; name a column for each label: {model}")
    return [columns[place] for place in places if place is not None]


def _flags(split: Dataset, column: str) -> list[int]:
    values = values_of(split, column, option="task.labels")
    for number, value in enumerate(values):
        if value not in _FLAGS:
            raise DataError(
                f"task.labels: row {row_of(split, number)} of the column {column} holds {value!r}, which "
                "should be 0 or 1"
            )
    return [int(value) for value in values]
