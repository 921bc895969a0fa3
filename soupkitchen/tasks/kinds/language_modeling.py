"""Language modelling: predicting texts, or the answers in them, token by token."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel

from soupkitchen.errors import ConfigError, DataError
from soupkitchen.options.kinds import AtLeast1
from soupkitchen.tasks import texts
from soupkitchen.tasks.base import Batch, Examples, Processor
from soupkitchen.tasks.columns import DIALOGUE, row_of
from soupkitchen.tasks.conversations import ConversationTask, Tokens, cells_of

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LanguageModeling(ConversationTask):
    """Scores causal models by every token of the texts, or of the answers in them, once each.

    A long text is cut into windows; each follows the last token of the one before. If only answers are
    scored, the last window ends where the text does, so an answer follows as much of the prompt as there is
    room for.

    Attributes:
        data: the texts.
        metric: perplexity, bits_per_byte.
        text: the column of texts, or of conversations.
        prompt: the column of what comes before the text; None for nothing.
        scored: "all"; "completion", the text after the prompt or the last answer of a conversation;
            "assistant", all answers of a conversation. None for completion if there is a prompt, else for
            assistant in conversations, else for all.
        max_length: tokens of a window; None for the model's limit.
    """

    model_class = AutoModelForCausalLM
    looked_for = (DIALOGUE,)
    content = ("text", "prompt")

    text: str = "text"
    prompt: str | None = None
    scored: Literal["all", "completion", "assistant"] | None = None
    max_length: AtLeast1 | None = None

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        texts.check_causal(model)
        window = texts.longest(processor, model, self.max_length) - 1
        if window < 1:
            raise ConfigError(f"task.max_length={self.max_length} should be 2 or more")
        rows: dict[str, list[Any]] = {"passages": [], "scored": [], "labels": [], "length": []}
        every = list(self._tokens(split, processor))
        for start in (1, 0):  # an empty text has the token that it follows
            texts.check_tokens(self, split, "text", [one.numbers[start:] for one in every], model)
        cut = 0
        for number, one in enumerate(every):
            total = len(one.numbers)
            if not any(one.scored[1:]):
                where = f"task.text={self.text}: row {row_of(split, number)}"
                raise DataError(f"{where} has no answer to score; add one, or leave the row out")
            wholly = all(one.scored[1:])
            first = 1 if wholly else total - -(-(total - 1) // window) * window
            windows = [(max(at, 1), min(at + window, total)) for at in range(first, total, window)]
            windows = [(start, end) for start, end in windows if any(one.scored[start:end])]
            cut += not wholly and total > window + 1
            rows["passages"].append([one.numbers[start - 1 : end] for start, end in windows])
            rows["scored"].append([[0, *one.scored[start:end]] for start, end in windows])
            rows["labels"].append([sum(one.scored[1:]), one.bytes])
            rows["length"].append(total)
        if cut:
            log.warning(
                "task.text=%s: %d of %d texts are longer than the %d tokens that the model takes: answers "
                "follow the end of their prompt only",
                *(self.text, cut, len(every), window + 1),
            )
        return Dataset.from_dict(rows)

    def _tokens(self, split: Dataset, processor: Processor) -> Iterator[Tokens]:
        """The tokens of each text, after one that it follows."""
        cells = cells_of(split, "task.text", self.text)
        before = [None] * len(cells)
        if self.prompt is not None:
            before = cells_of(split, "task.prompt", self.prompt)
        writer = self.writer(processor, split, [*cells, *before])
        scored = self.scored
        for number, (prompt, cell) in enumerate(zip(before, cells, strict=True)):
            where = f"task.text={self.text}: row {row_of(split, number)}"
            if isinstance(cell, str) and self.prompt is None:
                if scored not in (None, "all"):
                    raise ConfigError(
                        f"task.scored={scored} needs answers: a column task.prompt of what comes before the "
                        f"text, or conversations in task.text={self.text}"
                    )
                yield writer.text("", cell, "all")
            elif self.prompt is None:
                yield writer.conversation(cell, scored or "assistant", where, number)
            else:
                yield writer.answer(prompt, cell, scored or "completion", where, number)

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        return texts.collate_passages(examples)

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        """The nats of each text."""
        nats = -texts.log_likelihoods(model, batch)
        return torch.stack([text.sum() for text in nats.split(batch["passages"].tolist())])
