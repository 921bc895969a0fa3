"""Embedding similarity: how alike two texts are, by the cosine of their embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from transformers import AutoModel, PreTrainedModel

from soupkitchen.metrics import TaskMetric
from soupkitchen.options.kinds import AnyText, AtLeast1, SomeTexts
from soupkitchen.tasks.base import Batch, Processor, labels
from soupkitchen.tasks.columns import NUMBER, TEXTS, Wanted
from soupkitchen.tasks.data import Data, check_columns
from soupkitchen.tasks.embedding import Embedding
from soupkitchen.tasks.kinds.text_regression import numbers
from soupkitchen.tasks.texts import TextTask


@dataclass(frozen=True)
class EmbeddingSimilarity(TextTask, Embedding):
    """Scores encoders. Predictions are cosines; metrics: spearman, pearson, mse.

    Attributes:
        data: where the pairs are.
        metric: what compares cosines with `label`.
        text, text_pair: the columns of the two texts.
        label: the column of how alike they are.
        pooling, prompt, lower, max_length: how an embedding is made; see `soupkitchen.tasks.embedding`.

    Source: Reimers and Gurevych 2019, "Sentence-BERT", arXiv 1908.10084.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (TEXTS, NUMBER)

    data: Data
    metric: TaskMetric
    text: str = "text"
    text_pair: str = "text_pair"
    label: str = "label"
    pooling: SomeTexts | None = None
    prompt: AnyText | None = None
    lower: bool = False
    max_length: AtLeast1 | None = None

    @property
    def model_class(self) -> type:
        return AutoModel

    @property
    def content_columns(self) -> tuple[str, ...]:
        return self.text, self.text_pair

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        columns = {"task.text": self.text, "task.text_pair": self.text_pair, "task.label": self.label}
        check_columns(split, columns)
        one, other = (self.tokens(split, option, processor, model) for option in ("text", "text_pair"))
        lengths = [len(a) + len(b) for a, b in zip(one, other, strict=True)]
        return datasets.Dataset.from_dict(
            {"one": one, "other": other, "labels": self.encode_labels(split), "length": lengths}
        )

    def encode_labels(self, split: datasets.Dataset) -> list[Any]:
        """The column of labels as `references` gives it, one entry an example."""
        return numbers(split, self.label)

    def references(self, prepared: datasets.Dataset) -> np.ndarray:
        return labels(prepared)

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        def collate(examples: list[dict[str, Any]]) -> Batch:
            texts = [e["one"] for e in examples] + [e["other"] for e in examples]
            return dict(processor.pad({"input_ids": texts}, return_tensors="pt"))

        return collate

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        one, other = self.embedded(model, batch).chunk(2)
        return torch.nn.functional.cosine_similarity(one, other)
