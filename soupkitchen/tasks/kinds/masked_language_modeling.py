"""Masked language modelling: how well an encoder predicts tokens that are hidden from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from transformers import AutoModelForMaskedLM, PreTrainedModel

from soupkitchen.errors import CheckpointError, ConfigError, DataError
from soupkitchen.metrics import TaskMetric
from soupkitchen.options.kinds import AtLeast1, Seed, Share
from soupkitchen.tasks import likelihood
from soupkitchen.tasks.base import Batch, Processor
from soupkitchen.tasks.columns import LONG_TEXT, Wanted
from soupkitchen.tasks.data import Data, check_columns
from soupkitchen.tasks.texts import TextTask, check_tokens, embedding_rows, longest
from soupkitchen.tasks.values import row_of, texts_of

_HIDDEN, _REPLACED = 0.8, 0.9
_NOT_SCORED = -100
"""What stands for a token that is not scored, as in transformers."""


@dataclass(frozen=True)
class MaskedLanguageModeling(TextTask):
    """Scores masked language models by the tokens that are chosen to be hidden: the loss of their training.

    A share of each text's tokens is chosen, at least one and never a special one. Of these eight in ten
    are hidden (`[MASK]`), one is another token, and one stays; the model is to say what they were, and the
    score is exp(Σ -log p / number) over all of them. They are drawn by `seed` and the text's own tokens, so
    that every model sees the same, whatever else is scored. A text longer than the limit is cut into windows;
    a forward pass takes as many as the batch has texts.

    This is not the pseudo-perplexity of Salazar et al. 2020, which hides each token by itself.

    Attributes:
        data: where the texts are.
        metric: perplexity.
        text: the column of the text.
        masked: the share of tokens that are chosen.
        seed: of that choice.
        max_length: tokens of a window, with special ones; None for the model's own limit.

    Source: Devlin et al. 2019, "BERT", section 3.1, arXiv 1810.04805.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (LONG_TEXT,)

    data: Data
    metric: TaskMetric
    text: str = "text"
    masked: Share = 0.15
    seed: Seed = 0
    max_length: AtLeast1 | None = None

    def __post_init__(self) -> None:
        if self.metric.key == "bits_per_byte":
            raise ConfigError(
                "task.metric.name=bits_per_byte: only some tokens of a text are scored, and their bytes are "
                "not counted; choose perplexity"
            )

    @property
    def model_class(self) -> type:
        return AutoModelForMaskedLM

    @property
    def content_columns(self) -> tuple[str, ...]:
        return (self.text,)

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        check_columns(split, {"task.text": self.text})
        if processor.mask_token_id is None:
            raise CheckpointError(
                "the tokenizer has no mask_token to hide tokens with; copy the base model's"
            )
        texts = texts_of(split, "task.text", self.text)
        encoded = [likelihood.encode(processor, text) for text in texts]
        check_tokens(split, "task.text", self.text, encoded, model, processor)
        before, after = _around(processor(texts[0])["input_ids"], encoded[0])
        check_tokens(split, "task.text", self.text, [[*before, processor.mask_token_id, *after]], model)
        room = longest(processor, model, self.max_length) - len(before) - len(after)
        if room < 1:
            raise ConfigError(
                f"task.max_length={self.max_length} should be {len(before) + len(after) + 1} or more, with "
                "the special tokens of a window"
            )
        special = np.array(processor.all_special_ids)
        vocabulary = min(len(processor), embedding_rows(model) or len(processor))
        rows: dict[str, list[Any]] = {"windows": [], "labels": [], "number": [], "length": []}
        for number, tokens in enumerate(encoded):
            own = np.array(tokens)
            if not (may := ~np.isin(own, special)).any():
                raise DataError(
                    f"task.text={self.text}: row {row_of(split, number)} has no tokens but special and "
                    "unknown ones, of which none is hidden; fill it, or leave the row out"
                )
            seen, labels = self._drawn(own, may, processor.mask_token_id, vocabulary)
            starts = range(0, len(own), room)
            rows["windows"].append([[*before, *seen[at : at + room].tolist(), *after] for at in starts])
            rows["labels"].append(
                [
                    [_NOT_SCORED] * len(before) + labels[at : at + room].tolist() + [_NOT_SCORED] * len(after)
                    for at in starts
                ]
            )
            rows["number"].append(int((labels != _NOT_SCORED).sum()))
            rows["length"].append(len(own))
        return datasets.Dataset.from_dict(rows)

    def references(self, prepared: datasets.Dataset) -> np.ndarray:
        """How many tokens of each text are scored: int64 (examples, 1)."""
        return np.asarray(prepared["number"][:])[:, None]

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        def collate(examples: list[dict[str, Any]]) -> Batch:
            windows = [window for example in examples for window in example["windows"]]
            batch = dict(processor.pad({"input_ids": windows}, return_tensors="pt"))
            labels = torch.full_like(batch["input_ids"], _NOT_SCORED)
            own = [row for example in examples for row in example["labels"]]
            for row, mask, told in zip(labels, batch["attention_mask"], own, strict=True):
                row[mask.bool()] = torch.tensor(told)
            sizes = torch.tensor([len(example["windows"]) for example in examples])
            return batch | {"labels": labels, "passages": sizes}

        return collate

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        """The nats of the scored tokens of each text."""
        number = len(batch["passages"])
        names = [name for name in batch if name != "passages"]
        nats = []
        for part in zip(*(batch[name].split(number) for name in names), strict=True):
            inputs = dict(zip(names, part, strict=True))
            labels = inputs.pop("labels")
            scored = labels != _NOT_SCORED
            log_p = model(**inputs).logits[scored].float().log_softmax(-1)
            told = torch.zeros(labels.shape, device=log_p.device)
            told[scored] = -log_p.gather(-1, labels[scored][:, None])[:, 0]
            nats.append(told.sum(1))
        return torch.stack([one.sum() for one in likelihood.by_example(torch.cat(nats), batch["passages"])])

    def _drawn(
        self, own: np.ndarray, may: np.ndarray, mask: int, vocabulary: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the model sees of a text's tokens, and what it is to say: the tokens, where they are chosen.

        Args:
            may: which tokens may be chosen.
        """
        random = np.random.default_rng([self.seed, *own.tolist()])
        chosen = (random.random(len(own)) < self.masked) & may
        fate, others = random.random(len(own)), random.integers(0, vocabulary, len(own))
        if not chosen.any():
            chosen[random.choice(np.flatnonzero(may))] = True
        replaced = np.where(fate < _HIDDEN, mask, np.where(fate < _REPLACED, others, own))
        return np.where(chosen, replaced, own), np.where(chosen, own, _NOT_SCORED)


def _around(whole: list[int], own: list[int]) -> tuple[list[int], list[int]]:
    """The special tokens that come before a text's own ones, and those after."""
    more = len(whole) - len(own)
    at = next((at for at in range(more + 1) if whole[at : at + len(own)] == own), 0)
    return whole[:at], whole[at + len(own) :]
