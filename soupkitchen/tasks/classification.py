"""What the classification tasks have in common: labels, and logits."""

from __future__ import annotations

from typing import Any

import datasets
import torch
from transformers import PreTrainedConfig

from soupkitchen.errors import DataError
from soupkitchen.metrics import TaskMetric
from soupkitchen.tasks.base import Outputs


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
        if unknown := sorted(set(values) - set(config.label2id)):
            raise DataError(
                f"task.label={column}: the model has no label {unknown[0]!r}; its labels (label2id in "
                f"config.json) are {', '.join(config.label2id)}"
            )
        return [config.label2id[value] for value in values]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < config.num_labels:
            raise DataError(
                f"task.label={column}: {value!r} is no label of the model, which has labels 0 to "
                f"{config.num_labels - 1} ({', '.join(map(str, config.label2id))})"
            )
    return values


def outputs(logits: torch.Tensor, labels: torch.Tensor, metric: TaskMetric) -> Outputs:
    """Logits of shape (batch, labels) as `metric` takes them: float32, or the likeliest label."""
    predictions = logits.float() if metric.inputs == "logits" else logits.argmax(dim=-1)
    return Outputs(predictions, labels)
