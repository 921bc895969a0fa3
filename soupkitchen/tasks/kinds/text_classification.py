"""Text classification: one label for a text or a pair of texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, PreTrainedModel

from soupkitchen.metrics import TaskMetric
from soupkitchen.options.kinds import AtLeast1
from soupkitchen.tasks.base import Batch, Processor, decided, labels
from soupkitchen.tasks.columns import LABEL, TEXTS, Wanted
from soupkitchen.tasks.data import Data, check_columns
from soupkitchen.tasks.labels import Labelled
from soupkitchen.tasks.texts import TextTask, at_once, check_tokens, longest, pad_alike
from soupkitchen.tasks.values import texts_of


@dataclass(frozen=True)
class SequenceTask(TextTask):
    """What tasks for sequence-classification models have in common."""

    looked_for: ClassVar[tuple[Wanted, ...]] = (TEXTS, LABEL)

    data: Data
    metric: TaskMetric
    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    max_length: AtLeast1 | None = None

    @property
    def model_class(self) -> type:
        return AutoModelForSequenceClassification

    @property
    def content_columns(self) -> tuple[str, ...]:
        return (self.text,) if self.text_pair is None else (self.text, self.text_pair)

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        options = {"task.text": self.text, "task.text_pair": self.text_pair}
        check_columns(split, {option: column for option, column in options.items() if column is not None})
        encoded_labels = self.encode_labels(split, model)
        limit = longest(processor, model, self.max_length)
        pad_alike(processor, model)
        named = [option for option in ("text", "text_pair") if getattr(self, option) is not None]
        texts = [texts_of(split, f"task.{option}", getattr(self, option)) for option in named]
        encoded = processor(*texts, truncation=True, max_length=limit)
        check_tokens(split, "task.text", self.text, encoded["input_ids"], model, processor)
        lengths = [len(tokens) for tokens in encoded["input_ids"]]
        return datasets.Dataset.from_dict({**encoded, "length": lengths, "labels": encoded_labels})

    def encode_labels(self, split: datasets.Dataset, model: PreTrainedModel) -> list[Any]:
        """The column of labels as `references` gives it, one entry an example."""
        raise NotImplementedError

    def references(self, prepared: datasets.Dataset) -> np.ndarray:
        return labels(prepared)

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        return DataCollatorWithPadding(processor)

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        return decided(self.logits(model, batch), self.metric)

    def logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The model's logits, (batch, labels)."""
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        return model(**inputs, **at_once(model)).logits


@dataclass(frozen=True)
class TextClassification(SequenceTask, Labelled):
    """Scores sequence-classification models.

    Attributes:
        data: where the texts are.
        metric: accuracy, f1_macro, cross_entropy, …
        text: the column of the text.
        text_pair: the column of a second text, for pairs; None for none.
        label: the column of the label.
        max_length: tokens after which a text is cut; None for the model's own limit.
        labels: how labels are read; see `soupkitchen.tasks.labels`.
    """

    @property
    def stratify_column(self) -> str | None:
        return self.label

    def encode_labels(self, split: datasets.Dataset, model: PreTrainedModel) -> list[Any]:
        return self.encoded(split, model)
