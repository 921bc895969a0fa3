"""Multi-label classification: any number of labels for a text or a pair of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import torch
from transformers import PreTrainedModel

from soupkitchen.tasks.base import Batch, Processor
from soupkitchen.tasks.classification import label_number
from soupkitchen.tasks.columns import LABELS, TEXTS, Wanted
from soupkitchen.tasks.kinds.text_classification import TextClassification
from soupkitchen.tasks.values import lists_of, row_of


@dataclass(frozen=True)
class MultilabelClassification(TextClassification):
    """Scores sequence-classification models whose labels exclude nothing.

    Attributes:
        label: the column of the labels: a list of their numbers or names.
        threshold: the probability from which a label is taken to be there.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (TEXTS, LABELS)

    label: str = "labels"
    threshold: float = 0.5

    @property
    def stratify_column(self) -> str | None:
        return None

    def encode_labels(self, split: datasets.Dataset, model: PreTrainedModel) -> list[Any]:
        rows = []
        what = "labels, by number or name; for one label a text there is task=text_classification"
        for number, labels in enumerate(lists_of(split, "task.label", self.label, None, what)):
            row = [0] * model.config.num_labels
            for label in labels:
                row[label_number(label, self.label, model.config, row_of(split, number))] = 1
            rows.append(row)
        return rows

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        logits = self.logits(model, batch).float()
        return logits if self.metric.inputs == "logits" else (logits.sigmoid() >= self.threshold).long()
