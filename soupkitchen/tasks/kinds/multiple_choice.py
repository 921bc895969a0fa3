"""Multiple choice: of several continuations of a prompt, which does a causal model find likeliest?"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import datasets
import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from soupkitchen.errors import ConfigError, DataError
from soupkitchen.metrics import TaskMetric
from soupkitchen.options.kinds import AnyText, AtLeast1
from soupkitchen.tasks import likelihood
from soupkitchen.tasks.base import Batch, Processor, labels
from soupkitchen.tasks.columns import CHOICES, CHOSEN, QUESTION, Wanted
from soupkitchen.tasks.data import Data, check_columns
from soupkitchen.tasks.labels import Labelled, Names, Splits, values_of
from soupkitchen.tasks.prompts import check_template, prompts
from soupkitchen.tasks.texts import TextTask, check_causal, check_tokens, longest
from soupkitchen.tasks.values import lists_of, row_of


@dataclass(frozen=True)
class MultipleChoice(TextTask, Labelled):
    """Scores causal models by the choice whose tokens are likeliest after the prompt.

    As in lm-evaluation-harness: a prompt's trailing spaces belong to the choice, no special
    tokens are added, and a prompt that is too long loses its beginning.

    Attributes:
        data: where the questions are.
        metric: accuracy.
        prompt: a template over the columns, such as ``"Question: {question}\\nAnswer:"``.
        choices: the column of the choices, a list of texts.
        answer: the column of the right one: its number from 0, a letter (A is 0), or its text.
        before_choice: what stands between prompt and choice.
        normalize: None compares log-likelihoods; "tokens" or "bytes" divides them by the
            choice's length.
        max_length: tokens of prompt and choice together; None for the model's own limit.
        labels: how answers are read: "names" (texts of choices), "indices" (numbers from 0, or letters), or
            the number of a choice by the data's answer; None for the way that fits all rows.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (QUESTION, CHOICES, CHOSEN)

    data: Data
    metric: TaskMetric
    prompt: str = "{question}"
    choices: str = "choices"
    answer: str = "answer"
    before_choice: AnyText = " "
    normalize: Literal["tokens", "bytes"] | None = None
    max_length: AtLeast1 | None = None

    def __post_init__(self) -> None:
        if self.normalize not in ("tokens", "bytes", None):
            raise ConfigError(f"task.normalize={self.normalize}: choose tokens, bytes or null")

    @property
    def model_class(self) -> type:
        return AutoModelForCausalLM

    @property
    def content_columns(self) -> tuple[str, ...]:
        return self.choices, self.answer

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        reading = self.read_as(split, model)
        check_template("task.prompt", self.prompt, split)
        check_causal(model)
        limit = longest(processor, model, self.max_length)
        rows: dict[str, list[Any]] = {
            name: [] for name in ("passages", "scored", "divisors", "labels", "length")
        }
        for prompt, (answer, choices) in zip(prompts(self.prompt, split), self._rows(split), strict=True):
            passages, scored = zip(
                *(self._passage(processor, prompt, choice, limit) for choice in choices), strict=True
            )
            divisors = {"tokens": scored, "bytes": [len(choice.encode()) for choice in choices]}
            rows["passages"].append(list(passages))
            rows["scored"].append(list(scored))
            rows["divisors"].append(
                [max(1, d) for d in divisors.get(self.normalize or "", [1] * len(choices))]
            )
            rows["labels"].append(self._right(answer, choices, reading))
            rows["length"].append(max(map(len, passages)))
        tokens = [[token for passage in example for token in passage] for example in rows["passages"]]
        check_tokens(split, "task.choices", self.choices, tokens, model)
        return datasets.Dataset.from_dict(rows)

    def references(self, prepared: datasets.Dataset) -> np.ndarray:
        return labels(prepared)

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        def collate(examples: list[dict[str, Any]]) -> Batch:
            batch = likelihood.collate(examples, likelihood.PADDING)
            return batch | {"divisors": torch.tensor([d for e in examples for d in e["divisors"]])}

        return collate

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        scores = likelihood.log_likelihoods(model, batch) / batch["divisors"]
        return torch.stack([one.argmax() for one in likelihood.by_example(scores, batch["passages"])])

    def _passage(self, tokenizer: Processor, prompt: str, choice: str, limit: int) -> tuple[list[int], int]:
        """The tokens of prompt and choice, and how many are the choice's."""
        choice = prompt[len(prompt.rstrip()) :] + self.before_choice + choice
        prompt = prompt.rstrip()
        before = likelihood.encode(tokenizer, prompt) if prompt else [likelihood.beginning(tokenizer)]
        whole = (
            likelihood.encode(tokenizer, prompt + choice)
            if prompt
            else before + likelihood.encode(tokenizer, choice)
        )
        scored = len(whole) - len(before)
        if not 0 < scored < limit:
            raise DataError(
                f"task.choices={self.choices}: the choice {choice!r} has {max(scored, 0)} tokens of its own; "
                f"it needs at least one and has room for {limit - 1}"
            )
        return whole[-limit:], scored

    def _rows(self, split: datasets.Dataset) -> list[tuple[Any, list[str]]]:
        """Of each example the answer, and the choices."""
        check_columns(split, {"task.choices": self.choices, "task.answer": self.answer})
        options = lists_of(split, "task.choices", self.choices, str, "texts")
        if [] in options:
            row = row_of(split, options.index([]))
            raise DataError(f"task.choices={self.choices}: row {row} has no choices; leave the row out")
        return list(zip(values_of(split, self.answer, option="task.answer"), options, strict=True))

    def reading(self, splits: Splits, model: PreTrainedModel) -> Any:
        """`labels`, or the one of "names" and "indices" that fits all answers.

        Raises:
            DataError: if both do and differ, or neither does.
        """
        if self.labels is not None:
            return self.labels
        rows = [row for split in splits.values() for row in self._rows(split)]
        named = [_named(answer, choices) for answer, choices in rows]
        numbers = [_numbered(answer, choices) for answer, choices in rows]
        if None in numbers and None in named:
            answer, choices = rows[numbers.index(None)]
            self._right(answer, choices, "indices")
        if None in numbers:
            return "names"
        two_ways = None
        if None not in named and named != numbers:
            place = next(n for n in range(len(rows)) if named[n] != numbers[n])
            two_ways = place, f"by its text choice {named[place]}"
        elif any(by_digits := [str(answer).strip().isdigit() for answer, _ in rows]) and not any(
            digits and number == 0 for digits, number in zip(by_digits, numbers, strict=True)
        ):
            place = by_digits.index(True)
            two_ways = place, f"counted from 1 (no answer is 0) choice {int(rows[place][0]) - 1}"
        if two_ways is not None and named != numbers:
            place, other = two_ways
            raise DataError(
                f"task.answer={self.answer}: {rows[place][0]!r} (of the choices {rows[place][1]}) can be "
                f"read in two ways: {other}, and by number choice {numbers[place]}, the first being 0. "
                "task.labels=names or task.labels=indices decides, or a mapping by hand, as {1: 0, 2: 1}"
            )
        return "indices"

    def _right(self, answer: Any, choices: list[str], reading: Any = None) -> int:
        """The number of the right choice."""
        if isinstance(reading, Mapping):
            place = Names(reading).find(answer)
            answer = answer if place is None else list(reading.values())[place]
            reading = "names" if isinstance(answer, str) or place is None else "indices"
        number = None if reading == "indices" else _named(answer, choices)
        if number is None and reading != "names":
            number = _numbered(answer, choices)
        if number is None:
            raise DataError(f"task.answer={self.answer}: {answer!r} is none of the choices {choices}")
        return number


def _named(answer: Any, choices: list[str]) -> int | None:
    """The number of the choice whose text is the answer."""
    return choices.index(str(answer)) if str(answer) in choices and not isinstance(answer, bool) else None


def _numbered(answer: Any, choices: list[str]) -> int | None:
    """The number of the choice that the answer gives, from 0, or by a letter."""
    text = str(answer).strip()
    number = ord(text.upper()) - ord("A") if re.fullmatch("[A-Za-z]", text) else None
    number = int(text) if re.fullmatch("[0-9]{1,9}", text) else number
    return number if number is not None and number < len(choices) else None
