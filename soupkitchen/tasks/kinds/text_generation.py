"""Text generation: what a model writes after a prompt, compared with what it should."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import datasets
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig, PreTrainedModel

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.beside import check_generation
from soupkitchen.errors import ConfigError, DataError
from soupkitchen.metrics import TaskMetric
from soupkitchen.options.kinds import AtLeast1, ListOfTexts
from soupkitchen.tasks.base import Batch, Processor
from soupkitchen.tasks.columns import ANSWER, PROMPT, Wanted
from soupkitchen.tasks.data import Data, check_columns
from soupkitchen.tasks.prompts import check_template, prompts, template_columns
from soupkitchen.tasks.texts import TextTask, check_start, check_tokens, longest, unwrapped
from soupkitchen.tasks.values import check_filled

_TOKENS = ("bos_token_id", "eos_token_id", "decoder_start_token_id")
"""What of a model's own settings is kept."""


@dataclass(frozen=True)
class TextGeneration(TextTask):
    """Scores what models generate, always by the likeliest tokens: no sampling.

    Attributes:
        data: where prompts and answers are.
        metric: exact_match, rouge1, rouge2, rouge_l, bleu.
        architecture: "causal" models continue the prompt; "seq2seq" models (T5, BART) answer it.
        prompt: a template over the columns, such as ``"summarize: {document}"``.
        answer: the column of the text that should come out.
        extract: a regular expression that finds what to compare, in what was generated and in
            the answer: its first group, or all of it, where it matches last; "" where
            it does not. None to compare everything.
        stop: texts at the first of which what was generated is cut.
        max_new_tokens: how much is generated at most.
        num_beams: 1 for the likeliest token each time, more for beam search.
        max_length: tokens of the prompt; None for what the model's limit leaves room for.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (PROMPT, ANSWER)

    data: Data
    metric: TaskMetric
    architecture: Literal["causal", "seq2seq"] = "causal"
    prompt: str = "{prompt}"
    answer: str = "answer"
    extract: str | None = None
    stop: ListOfTexts = ()
    max_new_tokens: AtLeast1 = 64
    num_beams: AtLeast1 = 1
    max_length: AtLeast1 | None = None

    def __post_init__(self) -> None:
        template_columns("task.prompt", self.prompt)
        if self.architecture not in ("causal", "seq2seq"):
            raise ConfigError(f"task.architecture={self.architecture}: choose causal or seq2seq")
        for option in ("max_new_tokens", "num_beams"):
            if getattr(self, option) < 1:
                raise ConfigError(f"task.{option}={getattr(self, option)} should be 1 or more")
        try:
            re.compile(self.extract or "")
        except re.error as error:
            raise ConfigError(f"task.extract={self.extract} is no regular expression ({error})") from error

    @property
    def model_class(self) -> type:
        return AutoModelForCausalLM if self.architecture == "causal" else AutoModelForSeq2SeqLM

    @property
    def content_columns(self) -> tuple[str, ...]:
        return (*template_columns("task.prompt", self.prompt), self.answer)

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        check_columns(split, {"task.answer": self.answer})
        check_template("task.prompt", self.prompt, split)
        limit = longest(processor, model, None)
        room = limit - self.max_new_tokens if self.architecture == "causal" else limit
        if room < 1:
            raise ConfigError(
                f"task.max_new_tokens={self.max_new_tokens} leaves no room for a prompt: the model takes "
                f"{limit} tokens"
            )
        if self.architecture == "seq2seq":
            check_start(model)
        encoded = processor(list(prompts(self.prompt, split)))["input_ids"]
        answers = check_filled(split, "task.answer", self.answer)
        kept = [tokens[-min(self.max_length or room, room) :] for tokens in encoded]
        if any(not tokens for tokens in kept):
            raise DataError(f"task.prompt={self.prompt!r} gives an empty prompt")
        check_tokens(split, "task.prompt", self.prompt, kept, model, processor)
        return datasets.Dataset.from_dict(
            {
                "input_ids": kept,
                "answer": [self._compared(str(answer)) for answer in answers],
                "length": [len(tokens) for tokens in kept],
            }
        )

    def fitted_to(self, runs: Sequence[Checkpoint]) -> TextGeneration:
        """The task itself; runs that begin or end with other tokens are refused."""
        check_generation(runs, _TOKENS)
        return self

    def references(self, prepared: datasets.Dataset) -> list[str]:
        return prepared["answer"][:]

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        side = "left" if self.architecture == "causal" else "right"

        def collate(examples: list[dict[str, Any]]) -> Batch:
            tokens = {"input_ids": [example["input_ids"] for example in examples]}
            return dict(processor.pad(tokens, padding_side=side, return_tensors="pt"))

        return collate

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> list[str]:
        plain = GenerationConfig(
            do_sample=False,
            num_beams=self.num_beams,
            max_new_tokens=self.max_new_tokens,
            pad_token_id=processor.pad_token_id,
        )
        generator = unwrapped(model)
        own = generator.generation_config
        for token in _TOKENS:
            setattr(plain, token, getattr(own, token))
        generated = generator.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], generation_config=plain
        )
        if self.architecture == "causal":
            generated = generated[:, batch["input_ids"].shape[1] :]
        return [self._compared(text) for text in processor.batch_decode(generated, skip_special_tokens=True)]

    def _compared(self, text: str) -> str:
        for stop in self.stop:
            text = text.split(stop)[0]
        if self.extract is None:
            return text.strip()
        matches = list(re.finditer(self.extract, text))
        return (matches[-1][1] if matches[-1].re.groups else matches[-1][0]) if matches else ""
