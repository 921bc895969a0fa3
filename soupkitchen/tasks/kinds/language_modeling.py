"""Language modelling: how well a causal model predicts texts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from soupkitchen.errors import ConfigError
from soupkitchen.metrics import TaskMetric
from soupkitchen.options.kinds import AtLeast1
from soupkitchen.tasks import likelihood
from soupkitchen.tasks.base import Batch, Processor
from soupkitchen.tasks.columns import LONG_TEXT, Wanted
from soupkitchen.tasks.data import Data, check_columns
from soupkitchen.tasks.texts import TextTask, check_causal, check_tokens, longest
from soupkitchen.tasks.values import texts_of


@dataclass(frozen=True)
class LanguageModeling(TextTask):
    """Scores causal models by every token of the texts.

    A text longer than the limit is cut into windows, each of which follows one token of
    the window before; so every token is scored once. A forward pass takes as many windows as the
    batch has texts.

    Attributes:
        data: where the texts are.
        metric: perplexity, bits_per_byte.
        text: the column of the text.
        max_length: tokens of a window; None for the model's own limit.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (LONG_TEXT,)

    data: Data
    metric: TaskMetric
    text: str = "text"
    max_length: AtLeast1 | None = None

    @property
    def model_class(self) -> type:
        return AutoModelForCausalLM

    @property
    def content_columns(self) -> tuple[str, ...]:
        return (self.text,)

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        check_columns(split, {"task.text": self.text})
        check_causal(model)
        window = longest(processor, model, self.max_length) - 1
        if window < 1:
            raise ConfigError(f"task.max_length={self.max_length} should be 2 or more")
        rows: dict[str, list[Any]] = {"passages": [], "scored": [], "labels": [], "length": []}
        texts = texts_of(split, "task.text", self.text)
        encoded = [likelihood.encode(processor, text) for text in texts]
        check_tokens(split, "task.text", self.text, encoded, model)
        begin = likelihood.beginning(processor)
        check_tokens(split, "task.text", self.text, [[begin]], model)
        for text, own in zip(texts, encoded, strict=True):
            tokens = [begin, *own]
            starts = range(0, len(tokens) - 1, window)
            rows["passages"].append([tokens[start : start + window + 1] for start in starts])
            rows["scored"].append([min(window, len(tokens) - 1 - start) for start in starts])
            rows["labels"].append([len(tokens) - 1, len(text.encode())])
            rows["length"].append(len(tokens))
        return datasets.Dataset.from_dict(rows)

    def references(self, prepared: datasets.Dataset) -> np.ndarray:
        """Tokens and bytes of each text: int64 (examples, 2)."""
        return np.asarray(prepared["labels"][:])

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        return partial(likelihood.collate, padding=likelihood.PADDING)

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        """The nats of each text."""
        nats = -likelihood.log_likelihoods(model, batch)
        return torch.stack([one.sum() for one in likelihood.by_example(nats, batch["passages"])])
