"""Multiple choice: of several continuations of a prompt, which does a causal model find likeliest?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import datasets
import numpy as np
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from soupkitchen.errors import ConfigError, DataError
from soupkitchen.metrics import TaskMetric
from soupkitchen.tasks import likelihood
from soupkitchen.tasks.base import Batch, Processor, labels
from soupkitchen.tasks.columns import CHOICES, CHOSEN, QUESTION, Wanted
from soupkitchen.tasks.data import Data, check_columns
from soupkitchen.tasks.prompts import check_template, prompts
from soupkitchen.tasks.texts import TextTask, check_causal, check_tokens, longest
from soupkitchen.tasks.values import check_filled, lists_of, row_of


@dataclass(frozen=True)
class MultipleChoice(TextTask):
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
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (QUESTION, CHOICES, CHOSEN)

    data: Data
    metric: TaskMetric
    prompt: str = "{question}"
    choices: str = "choices"
    answer: str = "answer"
    before_choice: str = " "
    normalize: Literal["tokens", "bytes"] | None = None
    max_length: int | None = None

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
        check_columns(split, {"task.choices": self.choices, "task.answer": self.answer})
        check_template("task.prompt", self.prompt, split)
        check_causal(model)
        limit = longest(processor, model, self.max_length)
        options = lists_of(split, "task.choices", self.choices, str, "texts")
        answers = check_filled(split, "task.answer", self.answer)
        rows: dict[str, list[Any]] = {
            name: [] for name in ("passages", "scored", "divisors", "labels", "length")
        }
        for number, (prompt, choices) in enumerate(zip(prompts(self.prompt, split), options, strict=True)):
            if not choices:
                row = row_of(split, number)
                raise DataError(f"task.choices={self.choices}: row {row} has no choices; leave the row out")
            passages, scored = zip(
                *(self._passage(processor, prompt, choice, limit) for choice in choices), strict=True
            )
            divisors = {"tokens": scored, "bytes": [len(choice.encode()) for choice in choices]}
            rows["passages"].append(list(passages))
            rows["scored"].append(list(scored))
            rows["divisors"].append(
                [max(1, d) for d in divisors.get(self.normalize or "", [1] * len(choices))]
            )
            rows["labels"].append(self._right(answers[number], choices))
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

    def _right(self, answer: Any, choices: list[str]) -> int:
        """The number of the right choice."""
        number = answer
        if isinstance(answer, str):
            if answer in choices:
                return choices.index(answer)
            number = ord(answer.upper()) - ord("A") if len(answer) == 1 and answer.isalpha() else answer
            number = int(answer) if answer.isdigit() else number
        if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < len(choices):
            raise DataError(f"task.answer={self.answer}: {answer!r} is none of the choices {choices}")
        return number
