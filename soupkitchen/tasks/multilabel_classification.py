"""Multi-label classification: any number of labels for a text or a pair of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import datasets
import torch
from transformers import PreTrainedModel

from soupkitchen.errors import DataError
from soupkitchen.tasks.base import Batch, Processor
from soupkitchen.tasks.classification import check_label_number, label_number
from soupkitchen.tasks.text_classification import TextClassification


@dataclass(frozen=True)
class MultilabelClassification(TextClassification):
    """Scores sequence-classification models whose labels exclude nothing.

    Attributes:
        label: the column of the labels: a list of their numbers or names.
        threshold: the probability from which a label is taken to be there.
    """

    threshold: float = 0.5

    @property
    def stratify_column(self) -> str | None:
        return None

    def encode_labels(self, split: datasets.Dataset, model: PreTrainedModel) -> list[Any]:
        rows = []
        for labels in split[self.label]:
            if not isinstance(labels, list):
                raise DataError(
                    f"task.label={self.label}: {labels!r} should be a list of labels; for one label a text "
                    "there is task=text_classification"
                )
            row = [0] * model.config.num_labels
            for label in labels:
                if isinstance(label, str):
                    row[label_number(label, self.label, model.config)] = 1
                else:
                    check_label_number(label, self.label, model.config)
                    row[label] = 1
            rows.append(row)
        return rows

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        logits = self.logits(model, batch).float()
        return logits if self.metric.inputs == "logits" else (logits.sigmoid() >= self.threshold).long()
