"""Embedding similarity: how alike two texts are, by the cosine of their embeddings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from transformers import AutoModel, PreTrainedModel

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.sentence import MODULES, POOLINGS, of_all
from soupkitchen.errors import ConfigError
from soupkitchen.metrics import TaskMetric
from soupkitchen.tasks.base import Batch, Processor, labels
from soupkitchen.tasks.columns import NUMBER, TEXTS, Wanted
from soupkitchen.tasks.data import Data, check_columns
from soupkitchen.tasks.kinds.text_regression import numbers
from soupkitchen.tasks.texts import TextTask, check_tokens, longest
from soupkitchen.tasks.values import texts_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EmbeddingSimilarity(TextTask):
    """Scores encoders. Predictions are cosines; metrics: spearman, pearson, mse.

    Attributes:
        data: where the pairs are.
        metric: what compares cosines with `label`.
        text, text_pair: the columns of the two texts.
        label: the column of how alike they are.
        pooling: what is made of the tokens' last hidden states: their "mean", that of the first ("cls"), of
            the last ("lasttoken"), "max", "mean_sqrt_len_tokens", "weightedmean", or several of these; None
            for what runs of sentence-transformers say, and else the mean.
        prompt: what comes before each text; None for what the runs say.
        lower: whether texts are put in lower case first, as old runs of sentence-transformers say.
        max_length: tokens after which a text is cut; None for what the runs say, and else the model's limit.

    Source: Reimers and Gurevych 2019, "Sentence-BERT", arXiv 1908.10084.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (TEXTS, NUMBER)

    data: Data
    metric: TaskMetric
    text: str = "text"
    text_pair: str = "text_pair"
    label: str = "label"
    pooling: str | Sequence[str] | None = None
    prompt: str | None = None
    lower: bool = False
    max_length: int | None = None

    def __post_init__(self) -> None:
        if unknown := [mode for mode in self._modes if mode not in POOLINGS]:
            raise ConfigError(f"task.pooling={unknown[0]}: choose {', '.join(POOLINGS)}")

    @property
    def _modes(self) -> tuple[str, ...]:
        if self.pooling is None:
            return ("mean",)
        return (self.pooling,) if isinstance(self.pooling, str) else tuple(self.pooling)

    def fitted_to(self, runs: Sequence[Checkpoint]) -> EmbeddingSimilarity:
        """The task with what sentence-transformers' files beside the runs say, where the options say nothing.

        Raises:
            IncompatibleError: where the runs differ in it.
        """
        told = of_all(runs)
        if told is None:
            return self
        log.info("embeddings as the runs say (%s): pooling %s", MODULES, "+".join(told.pooling))
        return replace(
            self,
            pooling=told.pooling if self.pooling is None else self.pooling,
            prompt=told.prompt if self.prompt is None else self.prompt,
            lower=self.lower or told.lower,
            max_length=told.max_length if self.max_length is None else self.max_length,
        )

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
        texts = [f"{self.prompt or ''}{text}" for text in texts_of(split, f"task.{option}", column)]
        texts = [text.lower() for text in texts] if self.lower else texts
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
        mask = batch["attention_mask"].unsqueeze(-1)
        one, other = torch.cat([_pooled(hidden, mask, mode) for mode in self._modes], dim=-1).chunk(2)
        return torch.nn.functional.cosine_similarity(one, other)


def _pooled(hidden: torch.Tensor, mask: torch.Tensor, mode: str) -> torch.Tensor:
    """An embedding (texts, width) of hidden states (texts, tokens, width), as sentence-transformers makes it.

    Args:
        mask: which tokens are no padding, (texts, tokens, 1); padding is on either side.
    """
    if mode == "max":
        return hidden.masked_fill(mask == 0, float("-inf")).max(1).values
    first = mask.argmax(1, keepdim=True)
    if mode == "cls":
        return hidden.take_along_dim(first, 1)[:, 0]
    number = mask.sum(1)
    if mode == "lasttoken":
        return hidden.take_along_dim(first + number.unsqueeze(1) - 1, 1)[:, 0]
    weights = mask.float()
    if mode == "weightedmean":
        place = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[None, :, None]
        weights = weights * (place - first)
    total = (hidden * weights).sum(1)
    return total / (number.sqrt() if mode == "mean_sqrt_len_tokens" else weights.sum(1))
