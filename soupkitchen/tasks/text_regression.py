"""Regression: a number for a text or a pair of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import datasets
import torch
from transformers import PreTrainedModel

from soupkitchen.errors import DataError
from soupkitchen.tasks.base import Batch, Processor
from soupkitchen.tasks.text_classification import TextClassification


@dataclass(frozen=True)
class TextRegression(TextClassification):
    """Scores sequence-classification models with one output.

    Attributes:
        label: the column of the number.
    """

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
    values = split[column][:]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
            raise DataError(f"task.label={column}: {value!r} is no number")
    return [float(value) for value in values]
