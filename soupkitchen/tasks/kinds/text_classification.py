"""Text classification and regression, of a text or a pair of texts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from datasets import Dataset
from transformers import AutoModelForSequenceClassification, DataCollatorWithPadding, PreTrainedModel

from soupkitchen.errors import DataError
from soupkitchen.options.kinds import AtLeast1
from soupkitchen.tasks.base import Batch, DataTask, Examples, Processor, decided, without
from soupkitchen.tasks.columns import LABEL, NUMBER, TEXTS
from soupkitchen.tasks.labels import Labelled, numbers_of
from soupkitchen.tasks.texts import at_once, check_tokens, longest, pad_alike


@dataclass(frozen=True)
class SequenceTask(DataTask):
    """A task for sequence-classification models."""

    model_class = AutoModelForSequenceClassification
    content = ("text", "text_pair")

    text: str = "text"
    text_pair: str | None = None
    label: str = "label"
    max_length: AtLeast1 | None = None

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        labels, limit = self.encode_labels(split, model), longest(processor, model, self.max_length)
        pad_alike(processor, model)
        texts = [self.texts(split, option) for option in self.content if getattr(self, option) is not None]
        encoded = processor(*texts, truncation=True, max_length=limit)
        check_tokens(self, split, "text", encoded["input_ids"], model, processor)
        lengths = [len(tokens) for tokens in encoded["input_ids"]]
        return Dataset.from_dict({**encoded, "length": lengths, "labels": labels})

    def encode_labels(self, split: Dataset, model: PreTrainedModel) -> list[Any]:
        """The labels, one entry an example."""
        raise NotImplementedError

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        return DataCollatorWithPadding(processor)(examples)

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        return decided(self.logits(model, batch), self.metric)

    def logits(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """The model's logits, (batch, labels)."""
        return model(**without(batch, "labels"), **at_once(model)).logits


@dataclass(frozen=True)
class TextClassification(SequenceTask, Labelled):
    """Scores sequence-classification models.

    Attributes:
        data: the texts.
        metric: accuracy, f1_macro, cross_entropy, …
        text: the column of texts.
        text_pair: the column of second texts, or None.
        label: the column of labels.
        max_length: the most tokens; None for the model's limit.
        labels: see `soupkitchen.tasks.labels`.
    """

    looked_for = (TEXTS, LABEL)
    stratify: ClassVar[str | None] = "label"

    def encode_labels(self, split: Dataset, model: PreTrainedModel) -> list[Any]:
        return self.encoded(split, model)


@dataclass(frozen=True)
class TextRegression(SequenceTask):
    """Scores sequence-classification models with one output.

    Attributes:
        label: the column of numbers.
    """

    looked_for = (TEXTS, NUMBER)

    def encode_labels(self, split: Dataset, model: PreTrainedModel) -> list[Any]:
        if model.config.num_labels != 1:
            raise DataError(
                f"the model has {model.config.num_labels} outputs; regression needs one (num_labels=1)"
            )
        return numbers_of(split, self.label)

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        return self.logits(model, batch).float().squeeze(-1)
