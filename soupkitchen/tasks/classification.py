"""What the classification tasks have in common: labels, and logits."""

from __future__ import annotations

from typing import Any

import datasets
import torch
from transformers import PreTrainedConfig

from soupkitchen.errors import DataError
from soupkitchen.metrics import TaskMetric


def encode_labels(split: datasets.Dataset, column: str, config: PreTrainedConfig) -> list[int]:
    """The label of each example as the model numbers it.

    Labels that are names (text, or a `ClassLabel` feature) are looked up in the
    model's `label2id`; numbers are taken as they are.

    Raises:
        DataError: for labels that the model's head does not have.
    """
    values: list[Any] = split[column][:]
    feature = split.features[column]
    if isinstance(feature, datasets.ClassLabel) and set(feature.names) <= set(config.label2id):
        values = feature.int2str(values)
    if all(isinstance(value, str) for value in values):
        return [label_number(value, column, config) for value in values]
    for value in values:
        check_label_number(value, column, config)
    return values


def label_number(name: str, column: str, config: PreTrainedConfig) -> int:
    """The number of the label called `name`.

    Raises:
        DataError: where the model has none.
    """
    if name not in config.label2id:
        raise DataError(
            f"task.label={column}: the model has no label {name!r}; its labels (label2id in "
            f"config.json) are {', '.join(config.label2id)}"
        )
    return config.label2id[name]


def check_label_number(value: Any, column: str, config: PreTrainedConfig) -> None:
    """Checks that `value` is the number of one of the model's labels.

    Raises:
        DataError: where it is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < config.num_labels:
        raise DataError(
            f"task.label={column}: {value!r} is no label of the model, which has labels 0 to "
            f"{config.num_labels - 1} ({', '.join(map(str, config.label2id))})"
        )


def decided(logits: torch.Tensor, metric: TaskMetric) -> torch.Tensor:
    """Logits of shape (batch, labels) as `metric` takes them: float32, or the likeliest label."""
    return logits.float() if metric.inputs == "logits" else logits.argmax(dim=-1)
