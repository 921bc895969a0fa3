"""Multiple choice: the likeliest of several continuations of a prompt."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel

from soupkitchen.errors import DataError
from soupkitchen.options.kinds import AnyText, AtLeast1
from soupkitchen.tasks import texts
from soupkitchen.tasks.base import Batch, Examples, Processor
from soupkitchen.tasks.columns import CHOICES, CHOSEN, QUESTION, lists_of, prompts, row_of
from soupkitchen.tasks.labels import Labelled, Names, Splits, values_of


@dataclass(frozen=True)
class MultipleChoice(Labelled):
    """Scores causal models by the choice whose tokens are likeliest after the prompt.

    As in lm-evaluation-harness, the prompt's trailing spaces belong to the choice, no special tokens are
    added, and a long prompt loses its beginning.

    Attributes:
        data: the questions.
        metric: accuracy.
        prompt: a template, as ``"Question: {question}\\nAnswer:"``.
        choices: the column of choices, lists of texts.
        answer: the column of right choices: a number from 0, a letter (A is 0), or the text.
        before_choice: text between prompt and choice.
        normalize: "tokens" or "bytes" divides log-likelihoods by the choice's length; None does not.
        max_length: tokens of prompt and choice; None for the model's limit.
        labels: the reading of answers: "names" (texts), "indices" (numbers or letters), or a choice's number
            by answer; None for the one that fits all rows.
    """

    model_class = AutoModelForCausalLM
    looked_for = (QUESTION, CHOICES, CHOSEN)
    content = ("choices", "answer")

    prompt: str = "{question}"
    choices: str = "choices"
    answer: str = "answer"
    before_choice: AnyText = " "
    normalize: Literal["tokens", "bytes"] | None = None
    max_length: AtLeast1 | None = None

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        reading, written = self.read_as(split, model), prompts(self.prompt, split)
        texts.check_causal(model)
        limit = texts.longest(processor, model, self.max_length)
        names = ("passages", "scored", "divisors", "labels", "length")
        rows: dict[str, list[Any]] = {name: [] for name in names}
        for prompt, (answer, choices) in zip(written, self._rows(split), strict=True):
            passages = [self._passage(processor, prompt, choice, limit) for choice in choices]
            scored = [number for _, number in passages]
            divisors = {"tokens": scored, "bytes": [len(choice.encode()) for choice in choices]}
            rows["passages"].append([tokens for tokens, _ in passages])
            rows["scored"].append(scored)
            rows["divisors"].append(
                [max(1, n) for n in divisors.get(self.normalize or "", [1] * len(choices))]
            )
            rows["labels"].append(self._right(answer, choices, reading))
            rows["length"].append(max(len(tokens) for tokens, _ in passages))
        tokens = [[token for passage in example for token in passage] for example in rows["passages"]]
        texts.check_tokens(self, split, "choices", tokens, model)
        return Dataset.from_dict(rows)

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        divisors = torch.tensor([number for example in examples for number in example["divisors"]])
        return texts.collate_passages(examples) | {"divisors": divisors}

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        scores = texts.log_likelihoods(model, batch) / batch["divisors"]
        return torch.stack([choices.argmax() for choices in scores.split(batch["passages"].tolist())])

    def _passage(self, tokenizer: Processor, prompt: str, choice: str, limit: int) -> tuple[list[int], int]:
        """The tokens of prompt and choice, and the number of the latter."""
        text = prompt.rstrip()
        choice = prompt[len(text) :] + self.before_choice + choice
        if text:
            before = texts.encode(tokenizer, text)
            whole = texts.encode(tokenizer, text + choice)
        else:
            before = [texts.beginning(tokenizer)]
            whole = before + texts.encode(tokenizer, choice)
        scored = len(whole) - len(before)
        if not 0 < scored < limit:
            raise DataError(
                f"task.choices={self.choices}: the choice {choice!r} has {max(scored, 0)} tokens of its own; "
                f"it needs at least one and has room for {limit - 1}"
            )
        return whole[-limit:], scored

    def _rows(self, split: Dataset) -> list[tuple[Any, list[str]]]:
        choices = lists_of(split, "task.choices", self.choices, str, "texts")
        if [] in choices:
            row = row_of(split, choices.index([]))
            raise DataError(f"task.choices={self.choices}: row {row} has no choices; leave the row out")
        return list(zip(values_of(split, self.answer, option="task.answer"), choices, strict=True))

    def reading(self, splits: Splits, model: PreTrainedModel) -> Any:
        """`labels`, or the one of "names" and "indices" that fits all answers.

        Raises:
            DataError: if both fit and differ, or neither fits.
        """
        if self.labels is not None:
            return self.labels
        rows = [row for split in splits.values() for row in self._rows(split)]
        named = [_named(answer, choices) for answer, choices in rows]
        numbers = [_numbered(answer, choices) for answer, choices in rows]
        if None in numbers:
            if None in named:
                self._right(*rows[numbers.index(None)], "indices")
            return "names"
        by_digits = [str(answer).strip().isdigit() for answer, _ in rows]
        if named == numbers:
            return "indices"
        if None not in named:
            place = next(n for n in range(len(rows)) if named[n] != numbers[n])
            other = f"by its text choice {named[place]}"
        elif True in by_digits and (True, 0) not in zip(by_digits, numbers, strict=True):
            place = by_digits.index(True)
            other = f"counted from 1 (no answer is 0) choice {int(rows[place][0]) - 1}"
        else:
            return "indices"
        raise DataError(
            f"task.answer={self.answer}: {rows[place][0]!r} (of the choices {rows[place][1]}) can be read in "
            f"two ways: {other}, and by number choice {numbers[place]}, the first being 0. task.labels=names "
            "or task.labels=indices decides, or a mapping by hand, as {1: 0, 2: 1}"
        )

    def _right(self, answer: Any, choices: list[str], reading: Any) -> int:
        if isinstance(reading, Mapping):
            place = Names(reading).find(answer)
            answer = answer if place is None else list(reading.values())[place]
            reading = "names" if isinstance(answer, str) or place is None else "indices"
        number = _numbered(answer, choices) if reading == "indices" else _named(answer, choices)
        if number is None:
            raise DataError(f"task.answer={self.answer}: {answer!r} is none of the choices {choices}")
        return number


def _named(answer: Any, choices: list[str]) -> int | None:
    return choices.index(str(answer)) if str(answer) in choices and not isinstance(answer, bool) else None


def _numbered(answer: Any, choices: list[str]) -> int | None:
    """The choice by its number from 0, or by a letter."""
    text = str(answer).strip()
    if re.fullmatch("[A-Za-z]", text):
        number = ord(text.upper()) - ord("A")
    elif re.fullmatch("[0-9]{1,9}", text):
        number = int(text)
    else:
        return None
    return number if number < len(choices) else None
