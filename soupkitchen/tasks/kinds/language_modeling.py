"""Language modelling: predicting texts token by token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel

from soupkitchen.errors import ConfigError
from soupkitchen.options.kinds import AtLeast1
from soupkitchen.tasks import texts
from soupkitchen.tasks.base import Batch, DataTask, Examples, Processor
from soupkitchen.tasks.columns import LONG_TEXT


@dataclass(frozen=True)
class LanguageModeling(DataTask):
    """Scores causal models by every token of the texts, once each.

    A long text is cut into windows; each follows the last token of the one before.

    Attributes:
        data: the texts.
        metric: perplexity, bits_per_byte.
        text: the column of texts.
        max_length: tokens of a window; None for the model's limit.
    """

    model_class = AutoModelForCausalLM
    looked_for = (LONG_TEXT,)
    content = ("text",)

    text: str = "text"
    max_length: AtLeast1 | None = None

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        texts.check_causal(model)
        window = texts.longest(processor, model, self.max_length) - 1
        if window < 1:
            raise ConfigError(f"task.max_length={self.max_length} should be 2 or more")
        rows: dict[str, list[Any]] = {"passages": [], "scored": [], "labels": [], "length": []}
        written = self.texts(split, "text")
        encoded = [texts.encode(processor, text) for text in written]
        texts.check_tokens(self, split, "text", encoded, model)
        begin = texts.beginning(processor)
        texts.check_tokens(self, split, "text", [[begin]], model)
        for text, after in zip(written, encoded, strict=True):
            tokens = [begin, *after]
            starts = range(0, len(after), window)
            rows["passages"].append([tokens[start : start + window + 1] for start in starts])
            rows["scored"].append([min(window, len(after) - start) for start in starts])
            rows["labels"].append([len(after), len(text.encode())])  # tokens and bytes
            rows["length"].append(len(tokens))
        return Dataset.from_dict(rows)

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        return texts.collate_passages(examples)

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        """The nats of each text."""
        nats = -texts.log_likelihoods(model, batch)
        return torch.stack([text.sum() for text in nats.split(batch["passages"].tolist())])
