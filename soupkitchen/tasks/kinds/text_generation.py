"""Text generation: a model's continuation of a prompt, compared with the answer."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig, PreTrainedModel

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.compatibility import check_generation
from soupkitchen.errors import CheckpointError, ConfigError, DataError
from soupkitchen.metrics import Asked
from soupkitchen.metrics.samples import Sampled
from soupkitchen.options.kinds import AtLeast1, ListOfTexts, Positive, Seed
from soupkitchen.tasks.base import Batch, Examples, Processor
from soupkitchen.tasks.columns import (
    ANSWER,
    PROMPT,
    Wanted,
    check_filled,
    check_template,
    prompts,
    row_of,
    template_columns,
)
from soupkitchen.tasks.conversations import ConversationTask, read_lists
from soupkitchen.tasks.texts import check_tokens, encode, longest, unwrapped

log = logging.getLogger(__name__)
_TOKENS = ("bos_token_id", "eos_token_id", "decoder_start_token_id")
"""Entries kept of a model's generation settings."""


@dataclass(frozen=True)
class TextGeneration(ConversationTask):
    """Scores generated texts: the likeliest tokens, or several answers drawn at random.

    Attributes:
        data: prompts and answers.
        metric: exact_match, contains, numeric_match, math_verify, json_valid, regex, rouge1, rouge2, rouge_l,
            bleu, or a grader of your own.
        architecture: "causal" models continue the prompt; "seq2seq" models (T5, BART) answer it.
        prompt: a template, as ``"summarize: {document}"``; or the column of conversations, ``"{messages}"``.
        answer: the column of right texts, or messages; None for the last message of the conversation.
            Not read if the metric compares with none.
        extract: a regular expression for the part of both texts to compare: the last match's first group, or
            all of the match; "" without a match. None compares everything.
        stop: texts that end the output.
        max_new_tokens: the most tokens to generate.
        num_beams: 1 for greedy decoding, more for beam search.
        max_length: tokens of the prompt; None for the room in the model's limit.
        samples: answers drawn for each prompt, whose mean score counts; 1 for the likeliest one.
        temperature: of drawing; None for 1 if there are several samples, else for the likeliest tokens.
        pass_at: counts, in place of the mean, how probably one of so many answers is right.
        seed: of drawing, the same for all models.
    """

    architecture: Literal["causal", "seq2seq"] = "causal"
    prompt: str = "{prompt}"
    answer: str | None = "answer"
    extract: str | None = None
    stop: ListOfTexts = ()
    max_new_tokens: AtLeast1 = 64
    num_beams: AtLeast1 = 1
    max_length: AtLeast1 | None = None
    samples: AtLeast1 = 1
    temperature: Positive | None = None
    pass_at: AtLeast1 | None = None
    seed: Seed = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_samples()
        if self.samples > 1 and not isinstance(self.metric.module, Sampled):
            name = self.metric.name if self.pass_at is None else f"{self.metric.name}_pass_at_{self.pass_at}"
            module = Sampled(self.metric, self.pass_at)
            object.__setattr__(self, "metric", replace(self.metric, name=name, module=module, options={}))
        template_columns("task.prompt", self.prompt)
        try:
            re.compile(self.extract or "")
        except re.error as error:
            raise ConfigError(f"task.extract={self.extract} is no regular expression ({error})") from error

    def _check_samples(self) -> None:
        metric = self.metric.module.metric if isinstance(self.metric.module, Sampled) else self.metric
        if self.is_drawn and self.num_beams > 1:
            raise ConfigError("task.num_beams is for the likeliest answer; leave it 1 if answers are drawn")
        if self.samples > 1 and not metric.is_plain_mean:
            raise ConfigError(
                f"task.samples={self.samples} needs a metric that is a mean over examples, not {metric.name}"
            )
        if self.pass_at is not None and not (self.pass_at <= self.samples and metric.binary):
            raise ConfigError(
                f"task.pass_at={self.pass_at} needs at least so many task.samples, and a metric that finds "
                "each answer right or wrong, as exact_match or numeric_match"
            )

    @property
    def is_drawn(self) -> bool:
        return self.samples > 1 or self.temperature is not None

    @property
    def is_causal(self) -> bool:
        return self.architecture == "causal"

    @property
    def model_class(self) -> type:
        return AutoModelForCausalLM if self.is_causal else AutoModelForSeq2SeqLM

    @property
    def looked_for(self) -> tuple[Wanted, ...]:  # type: ignore[override]
        return (PROMPT, ANSWER) if self.metric.compares else (PROMPT,)

    @property
    def content_columns(self) -> tuple[str, ...]:
        answer = [self.answer] if self.answer and self.metric.compares else []
        return (*template_columns("task.prompt", self.prompt), *answer)

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        limit = longest(processor, model, None)
        room = limit - self.max_new_tokens if self.is_causal else limit
        if room < 1:
            raise ConfigError(
                f"task.max_new_tokens={self.max_new_tokens} leaves no room for a prompt: the model takes "
                f"{limit} tokens"
            )
        if not self.is_causal:
            _check_start(model)
        written, encoded, answers = self._asked(split, processor)
        kept = [tokens[-min(self.max_length or room, room) :] for tokens in encoded]
        if [] in kept:
            raise DataError(f"task.prompt={self.prompt!r} gives an empty prompt")
        check_tokens(self, split, "prompt", kept, model, processor)
        columns = {"input_ids": kept, "answer": answers, "length": [len(tokens) for tokens in kept]}
        if not self.metric.reads_rows:
            return Dataset.from_dict(columns)
        numbers = [row_of(split, number) for number in range(len(split))]
        prepared = Dataset.from_dict({**columns, "prompt": written, "number": numbers})
        return prepared.add_column("row", list(split), feature=dict(split.features))

    def _asked(self, split: Dataset, processor: Processor) -> tuple[list[str], list[list[int]], list[str]]:
        """The prompts, their tokens, and the right answers, empty if the metric compares with none."""
        columns = check_template("task.prompt", self.prompt, split)
        alone = len(columns) == 1 and self.prompt.strip() == f"{{{columns[0]}}}"
        cells = check_filled(split, "task.prompt, column", columns[0]) if len(columns) == 1 else []
        if alone:
            cells = read_lists(cells)
        writer = self.writer(processor, split, cells)
        answers: list[Any] = [None] * len(split)
        if self.answer is not None and self.metric.compares:
            answers = check_filled(split, "task.answer", self.answer)
        if writer.chat is None:
            if self.answer is None and self.metric.compares:
                raise ConfigError(
                    "task.answer=null takes the last message of conversations, and the data has texts"
                )
            written = list(prompts(self.prompt, split))
            encoded = processor(written)["input_ids"]
        elif not alone:
            raise ConfigError(
                f"task.prompt={self.prompt!r}: a column of conversations stands alone, as {{{columns[0]}}}; "
                "the chat template writes them"
            )
        else:
            written = []
            for number, cell in enumerate(cells):
                where = f"task.prompt={self.prompt}: row {row_of(split, number)}"
                prompt, answers[number] = writer.asked(
                    cell, answers[number], self.metric.compares, where, number
                )
                written.append(prompt)
            encoded = [encode(processor, prompt) for prompt in written]
        compared = [self._compared(str(one)) if self.metric.compares else "" for one in answers]
        return written, encoded, compared

    def fitted_to(self, runs: Sequence[Checkpoint]) -> TextGeneration:
        """The task itself; runs that begin or end with other tokens are refused."""
        check_generation(runs, _TOKENS)
        if self.is_drawn:
            log.warning(
                "task.samples, task.temperature: answers are drawn at random, so a small gain may be luck; "
                "search.accept={margin: auto} asks for more"
            )
        return self

    def references(self, prepared: Dataset) -> list[str] | list[Asked]:
        if not self.metric.reads_rows:
            return prepared["answer"][:]
        columns = (prepared[name][:] for name in ("prompt", "row", "number"))
        return [Asked(*asked) for asked in zip(*columns, strict=True)]

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        side = "left" if self.is_causal else "right"
        tokens = {"input_ids": [example["input_ids"] for example in examples]}
        return dict(processor.pad(tokens, padding_side=side, return_tensors="pt"))

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> list[str]:
        generator = unwrapped(model)
        plain = GenerationConfig(
            **self._drawing(),
            num_beams=self.num_beams,
            max_new_tokens=self.max_new_tokens,
            pad_token_id=processor.pad_token_id,
            **{token: getattr(generator.generation_config, token) for token in _TOKENS},
        )
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with _seeded(self.seed, batch["input_ids"].device) if self.is_drawn else nullcontext():
            generated = generator.generate(**inputs, generation_config=plain)
        if self.is_causal:
            generated = generated[:, batch["input_ids"].shape[1] :]
        texts = [self._compared(text) for text in processor.batch_decode(generated, skip_special_tokens=True)]
        if self.samples == 1:
            return texts
        return [json.dumps(texts[at : at + self.samples]) for at in range(0, len(texts), self.samples)]

    def _drawing(self) -> dict[str, Any]:
        if not self.is_drawn:
            return {"do_sample": False}
        drawing = {"do_sample": True, "top_k": 0, "top_p": 1.0}  # from all tokens
        return {**drawing, "temperature": self.temperature or 1.0, "num_return_sequences": self.samples}

    def _compared(self, text: str) -> str:
        for stop in self.stop:
            text = text.split(stop)[0]
        if self.extract is None:
            return text.strip()
        matches = list(re.finditer(self.extract, text))
        return (matches[-1][1] if matches[-1].re.groups else matches[-1][0]) if matches else ""


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draws the same numbers each time, and leaves the process's own as they were."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _check_start(model: PreTrainedModel) -> None:
    """Raises `CheckpointError` if a sequence-to-sequence model has no start token."""
    configs = (model.generation_config, model.config)
    tokens = ("decoder_start_token_id", "bos_token_id")
    if all(getattr(config, token, None) is None for config in configs for token in tokens):
        raise CheckpointError(
            f"{type(model).__name__}: neither generation_config.json nor config.json names the "
            "decoder_start_token_id with which answers begin; add it (T5: the pad token's number, BART: the "
            "end token's)"
        )
