"""Triplets: whether a text's embedding is nearer to that of a text that belongs to it than to another's."""

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
from soupkitchen.tasks.base import Batch, Processor
from soupkitchen.tasks.columns import TRIPLET, Wanted
from soupkitchen.tasks.data import Data, check_columns
from soupkitchen.tasks.embedding import Embedding
from soupkitchen.tasks.texts import TextTask


@dataclass(frozen=True)
class Triplets(TextTask, Embedding):
    """Scores encoders. A prediction is whether the cosine with `positive` is above that with `negative`.

    Attributes:
        data: where the triplets are.
        metric: accuracy.
        anchor, positive, negative: the columns of a text, of one that belongs to it, and of another.
        pooling, prompt, lower, max_length: how an embedding is made; see `soupkitchen.tasks.embedding`.

    Source: Schroff et al. 2015, "FaceNet", section 3.1, arXiv 1503.03832.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (TRIPLET,)

    data: Data
    metric: TaskMetric
    anchor: str = "anchor"
    positive: str = "positive"
    negative: str = "negative"
    pooling: SomeTexts | None = None
    prompt: AnyText | None = None
    lower: bool = False
    max_length: AtLeast1 | None = None

    @property
    def model_class(self) -> type:
        return AutoModel

    @property
    def content_columns(self) -> tuple[str, ...]:
        return self.anchor, self.positive, self.negative

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        parts = ("anchor", "positive", "negative")
        check_columns(split, {f"task.{part}": getattr(self, part) for part in parts})
        rows = {part: self.tokens(split, part, processor, model) for part in parts}
        lengths = [sum(map(len, texts)) for texts in zip(*rows.values(), strict=True)]
        return datasets.Dataset.from_dict({**rows, "length": lengths})

    def references(self, prepared: datasets.Dataset) -> np.ndarray:
        return np.ones(len(prepared), dtype=np.int64)

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        def collate(examples: list[dict[str, Any]]) -> Batch:
            texts = [example[part] for part in ("anchor", "positive", "negative") for example in examples]
            return dict(processor.pad({"input_ids": texts}, return_tensors="pt"))

        return collate

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        anchor, positive, negative = self.embedded(model, batch).chunk(3)
        _, *texts = batch["input_ids"].chunk(3)
        differ = (texts[0] != texts[1]).any(1)  # rounding is not to choose between equals
        cosine = torch.nn.functional.cosine_similarity
        return (differ & (cosine(anchor, positive) > cosine(anchor, negative))).long()
