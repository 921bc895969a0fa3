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
from soupkitchen.tasks.kinds.text_classification import TextClassification
from soupkitchen.tasks.values import check_filled, row_of


@dataclass(frozen=True)
class TextRegression(TextClassification):
    """Scores sequence-classification models with one output.

    Attributes:
        label: the column of the number.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (TEXTS, NUMBER)

    @property
    def stratify_column(self) -> str | None:
        return None

    def encode_labels(self, split: datasets.Dataset, model: PreTrainedModel) -> list[Any]:
        if model.config.num_labels != 1:
            raise DataError(
                f"the model has {model.config.num_labels} outputs; regression needs one (num_labels=1)"
            )
        return numbers(split, self.label)

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        return self.logits(model, batch).float().squeeze(-1)


def numbers(split: datasets.Dataset, column: str) -> list[float]:
    """The column as floats.

    Raises:
        DataError: where an entry is no number.
    """
    values = check_filled(split, "task.label", column)
    for number, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise DataError(
                f"task.label={column}: {value!r} (row {row_of(split, number)}) is no number to compare with"
            )
    return [float(value) for value in values]
