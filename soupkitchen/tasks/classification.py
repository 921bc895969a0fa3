"""What the classification tasks have in common: labels, and logits."""

from __future__ import annotations

from typing import Any

import datasets
import torch
from transformers import PreTrainedConfig

from soupkitchen.errors import DataError
from soupkitchen.metrics import TaskMetric
from soupkitchen.tasks.values import check_filled, row_of


def encode_labels(split: datasets.Dataset, column: str, config: PreTrainedConfig) -> list[int]:
    """The label of each example as the model numbers it.

    Labels that are names (text, or a `ClassLabel` feature) are looked up in the
    model's `label2id`; numbers are taken as they are.

    Raises:
        DataError: for labels that the model's head does not have.
    """
    values = check_filled(split, "task.label", column)
    feature = split.features[column]
    if isinstance(feature, datasets.ClassLabel) and set(feature.names) <= set(config.label2id):
        if -1 in values:  # what `datasets` has for a label that is not known
            row = row_of(split, values.index(-1))
            raise DataError(f"task.label={column}: row {row} has no label (-1); leave the row out")
        values = feature.int2str(values)
    return [label_number(value, column, config, row_of(split, n)) for n, value in enumerate(values)]


def numbered(split: datasets.Dataset, column: str) -> list[int]:
    """The labels of a split for a model without names for them: whole numbers, or a `ClassLabel` feature's.

    Raises:
        DataError: for anything else.
    """
    values = check_filled(split, "task.label", column)
    for number, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise DataError(
                f"task.label={column}: {value!r} (row {row_of(split, number)}) is no number of a label, and "
                "the model, which a function makes, has no names for them: give whole numbers"
            )
    return [int(value) for value in values]


def label_number(label: Any, column: str, config: PreTrainedConfig, row: int) -> int:
    """The number of `label`, which is one or a name, as it stands in `row`.

    Raises:
        DataError: where the model has none.
    """
    names = ", ".join(map(str, config.label2id))
    if isinstance(label, str):
        if label in config.label2id:
            return config.label2id[label]
        raise DataError(
            f"task.label={column}: the model has no label {label!r} (row {row}); its labels (label2id in "
            f"config.json) are {names}"
        )
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < config.num_labels:
        raise DataError(
            f"task.label={column}: {label!r} is no label of the model (row {row}), which has labels 0 to "
            f"{config.num_labels - 1} ({names}); give whole numbers, or names"
        )
    return label


def decided(logits: torch.Tensor, metric: TaskMetric) -> torch.Tensor:
    """Logits of shape (batch, labels) as `metric` takes them: float32, or the likeliest label."""
    return logits.float() if metric.inputs == "logits" else logits.argmax(dim=-1)
