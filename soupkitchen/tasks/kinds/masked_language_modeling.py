"""Masked language modelling: predicting hidden tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModelForMaskedLM, PreTrainedModel

from soupkitchen.errors import CheckpointError, ConfigError, DataError
from soupkitchen.options.kinds import AtLeast1, Seed, Share
from soupkitchen.tasks.base import Batch, DataTask, Examples, Processor
from soupkitchen.tasks.columns import LONG_TEXT, row_of
from soupkitchen.tasks.texts import check_tokens, embedding_rows, encode, longest

_HIDDEN, _REPLACED = 0.8, 0.9
_NOT_SCORED = -100
"""Marks a token that is not scored, as in transformers."""


@dataclass(frozen=True)
class MaskedLanguageModeling(DataTask):
    """Scores masked language models by hidden tokens: the loss of their training.

    A share of each text's tokens is chosen, at least one and no special one. Of these eight in ten are
    masked, one is another token, one stays; the score is their exp(Σ -log p / number). The draw depends only
    on `seed` and the text, so all models see the same. Long texts are cut into windows.

    Unlike the pseudo-perplexity of Salazar et al. 2020, several tokens are hidden at once.

    Attributes:
        data: the texts.
        metric: perplexity.
        text: the column of texts.
        masked: the share of chosen tokens.
        seed: of that choice.
        max_length: tokens of a window, with special ones; None for the model's limit.

    Source: Devlin et al. 2019, "BERT", section 3.1, arXiv 1810.04805.
    """

    model_class = AutoModelForMaskedLM
    looked_for = (LONG_TEXT,)
    content = ("text",)

    text: str = "text"
    masked: Share = 0.15
    seed: Seed = 0
    max_length: AtLeast1 | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.metric.key == "bits_per_byte":
            raise ConfigError(
                "task.metric.name=bits_per_byte: only some tokens of a text are scored, and their bytes are "
                "not counted; choose perplexity"
            )

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        if processor.mask_token_id is None:
            raise CheckpointError(
                "the tokenizer has no mask_token to hide tokens with; copy the base model's"
            )
        texts = self.texts(split, "text")
        encoded = [encode(processor, text) for text in texts]
        check_tokens(self, split, "text", encoded, model, processor)
        before, after = _around(processor(texts[0])["input_ids"], encoded[0])
        check_tokens(self, split, "text", [[*before, processor.mask_token_id, *after]], model)
        room = longest(processor, model, self.max_length) - len(before) - len(after)
        if room < 1:
            raise ConfigError(
                f"task.max_length={self.max_length} should be {len(before) + len(after) + 1} or more, with "
                "the special tokens of a window"
            )
        special = np.array(processor.all_special_ids)
        vocabulary = min(len(processor), embedding_rows(model) or len(processor))
        rows: dict[str, list[Any]] = {"windows": [], "labels": [], "number": [], "length": []}
        for number, text in enumerate(encoded):
            tokens = np.array(text)
            if not (may := ~np.isin(tokens, special)).any():
                raise DataError(
                    f"task.text={self.text}: row {row_of(split, number)} has no tokens but special and "
                    "unknown ones, of which none is hidden; fill it, or leave the row out"
                )
            seen, wanted = self._drawn(tokens, may, processor.mask_token_id, vocabulary)
            windows = [slice(start, start + room) for start in range(0, len(tokens), room)]
            rows["windows"].append([[*before, *seen[window].tolist(), *after] for window in windows])
            ends = [_NOT_SCORED] * len(before), [_NOT_SCORED] * len(after)
            rows["labels"].append([[*ends[0], *wanted[window].tolist(), *ends[1]] for window in windows])
            rows["number"].append(int((wanted != _NOT_SCORED).sum()))
            rows["length"].append(len(tokens))
        return Dataset.from_dict(rows)

    def references(self, prepared: Dataset) -> np.ndarray:
        """Numbers of scored tokens: int64 (examples, 1)."""
        return np.asarray(prepared["number"][:])[:, None]

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        windows = [window for example in examples for window in example["windows"]]
        batch = dict(processor.pad({"input_ids": windows}, return_tensors="pt"))
        labels = torch.full_like(batch["input_ids"], _NOT_SCORED)
        wanted = [token for example in examples for window in example["labels"] for token in window]
        labels[batch["attention_mask"].bool()] = torch.tensor(wanted)
        sizes = torch.tensor([len(example["windows"]) for example in examples])
        return batch | {"labels": labels, "passages": sizes}

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        number = len(batch["passages"])
        names = [name for name in batch if name != "passages"]
        nats = []
        for part in zip(*(batch[name].split(number) for name in names), strict=True):
            inputs = dict(zip(names, part, strict=True))
            labels = inputs.pop("labels")
            scored = labels != _NOT_SCORED
            log_p = model(**inputs).logits[scored].float().log_softmax(-1)
            losses = torch.zeros(labels.shape, device=log_p.device)
            losses[scored] = -log_p.gather(-1, labels[scored][:, None])[:, 0]
            nats.append(losses.sum(1))
        return torch.stack([text.sum() for text in torch.cat(nats).split(batch["passages"].tolist())])

    def _drawn(
        self, tokens: np.ndarray, may: np.ndarray, mask: int, vocabulary: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Inputs and targets of a text; `may` marks the tokens that can be chosen."""
        random = np.random.default_rng([self.seed, *tokens.tolist()])
        chosen = (random.random(len(tokens)) < self.masked) & may
        fate, others = random.random(len(tokens)), random.integers(0, vocabulary, len(tokens))
        if not chosen.any():
            chosen[random.choice(np.flatnonzero(may))] = True
        replaced = np.where(fate < _HIDDEN, mask, np.where(fate < _REPLACED, others, tokens))
        return np.where(chosen, replaced, tokens), np.where(chosen, tokens, _NOT_SCORED)


def _around(whole: list[int], text: list[int]) -> tuple[list[int], list[int]]:
    """The special tokens before and after a text's own."""
    more = len(whole) - len(text)
    at = next((at for at in range(more + 1) if whole[at : at + len(text)] == text), 0)
    return whole[:at], whole[at + len(text) :]
