"""Embedding similarity: how alike two texts are, by the cosine of their embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import datasets
import numpy as np
import torch
from transformers import AutoModel, PreTrainedModel

from soupkitchen.errors import ConfigError
from soupkitchen.metrics import TaskMetric
from soupkitchen.tasks.base import Batch, Processor, labels
from soupkitchen.tasks.columns import NUMBER, TEXTS, Wanted
from soupkitchen.tasks.data import Data, check_columns
from soupkitchen.tasks.kinds.text_regression import numbers
from soupkitchen.tasks.texts import TextTask, check_tokens, longest
from soupkitchen.tasks.values import texts_of


@dataclass(frozen=True)
class EmbeddingSimilarity(TextTask):
    """Scores encoders. Predictions are cosines; metrics: spearman, pearson, mse.

    Attributes:
        data: where the pairs are.
        metric: what compares cosines with `label`.
        text, text_pair: the columns of the two texts.
        label: the column of how alike they are.
        pooling: "mean" of the tokens' last hidden states, or that of the first ("cls").
        max_length: tokens after which a text is cut; None for the model's own limit.

    Source: Reimers and Gurevych 2019, "Sentence-BERT", arXiv 1908.10084.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (TEXTS, NUMBER)

    data: Data
    metric: TaskMetric
    text: str = "text"
    text_pair: str = "text_pair"
    label: str = "label"
    pooling: Literal["mean", "cls"] = "mean"
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.pooling not in ("mean", "cls"):
            raise ConfigError(f"task.pooling={self.pooling}: choose mean or cls")

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
        limit = longest(processor, model, self.max_length)
        one, other = (
            self._encoded(split, option, processor, model, limit) for option in ("text", "text_pair")
        )
        lengths = [len(a) + len(b) for a, b in zip(one, other, strict=True)]
        return datasets.Dataset.from_dict(
            {"one": one, "other": other, "labels": numbers(split, self.label), "length": lengths}
        )

    def _encoded(
        self, split: datasets.Dataset, option: str, processor: Processor, model: PreTrainedModel, limit: int
    ) -> list[list[int]]:
        column = getattr(self, option)
        texts = texts_of(split, f"task.{option}", column)
        tokens: list[list[int]] = processor(texts, truncation=True, max_length=limit)["input_ids"]
        check_tokens(split, f"task.{option}", column, tokens, model, processor)
        return tokens

    def references(self, prepared: datasets.Dataset) -> np.ndarray:
        return labels(prepared)

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        def collate(examples: list[dict[str, Any]]) -> Batch:
            texts = [e["one"] for e in examples] + [e["other"] for e in examples]
            return dict(processor.pad({"input_ids": texts}, return_tensors="pt"))

        return collate

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        hidden = model(**batch).last_hidden_state.float()
        if self.pooling == "mean":
            mask = batch["attention_mask"].unsqueeze(-1).float()
            embedded = (hidden * mask).sum(1) / mask.sum(1)
        else:
            embedded = hidden[:, 0]
        one, other = embedded.chunk(2)
        return torch.nn.functional.cosine_similarity(one, other)
