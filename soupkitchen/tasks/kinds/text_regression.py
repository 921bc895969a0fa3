"""Regression: a number for a text or a pair of texts."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import torch
from transformers import PreTrainedModel

from soupkitchen.errors import DataError
from soupkitchen.tasks.base import Batch, Processor
from soupkitchen.tasks.columns import NUMBER, TEXTS, Wanted
from soupkitchen.tasks.data import check_columns
from soupkitchen.tasks.kinds.text_classification import SequenceTask
from soupkitchen.tasks.labels import values_of
from soupkitchen.tasks.values import row_of


@dataclass(frozen=True)
class TextRegression(SequenceTask):
    """Scores sequence-classification models with one output.

    Attributes:
        label: the column of the number.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (TEXTS, NUMBER)

    def encode_labels(self, split: datasets.Dataset, model: PreTrainedModel) -> list[Any]:
        if model.config.num_labels != 1:
            raise DataError(
                f"the model has {model.config.num_labels} outputs; regression needs one (num_labels=1)"
            )
        check_columns(split, {"task.label": self.label})
        return numbers(split, self.label)

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        return self.logits(model, batch).float().squeeze(-1)


def numbers(split: datasets.Dataset, column: str) -> list[float]:
    """The column as floats.

    Raises:
        DataError: where an entry is no number.
    """
    is_named = isinstance(split.features[column], datasets.ClassLabel)  # whose own numbers are but places
    numbers = []
    for number, value in enumerate(values_of(split, column)):
        try:
            numbers.append(float(value) if is_named or not isinstance(value, (bool, str)) else math.nan)
        except ValueError:
            numbers.append(math.nan)
        if not math.isfinite(numbers[-1]):
            raise DataError(
                f"task.label={column}: {value!r} (row {row_of(split, number)}) is no number to compare with"
            )
    return numbers
