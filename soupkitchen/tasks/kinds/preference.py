"""Preferences: whether the chosen answer to a prompt is likelier than the rejected one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, PreTrainedModel

from soupkitchen.errors import ConfigError, DataError
from soupkitchen.options.kinds import AtLeast1
from soupkitchen.tasks import texts
from soupkitchen.tasks.base import Batch, Examples, Processor
from soupkitchen.tasks.columns import PREFERENCE, check_filled, row_of
from soupkitchen.tasks.conversations import ConversationTask, Tokens, cells_of

_PROMPT, _REFERENCE = "prompt", ("ref_chosen_logps", "ref_rejected_logps")


@dataclass(frozen=True)
class Preference(ConversationTask):
    """Scores causal models by how much likelier the chosen answer is than the rejected one.

    The difference of log-likelihoods, less that of a reference model, is the margin of DPO's implicit rewards
    over β (Rafailov et al. 2023, arXiv 2305.18290, section 4).

    Attributes:
        data: prompts with two answers.
        metric: accuracy, the share of rows in which the chosen answer is likelier; or margin, the mean
            difference in nats.
        chosen, rejected: the columns of answers, texts or messages.
        prompt: the column of prompts; None for the column "prompt" if there is one, else for the messages
            that both answers begin with.
        normalize: "tokens" divides log-likelihoods by the number of the answer's tokens; None does not.
        reference: "columns" takes off what a reference model finds, in the columns ref_chosen_logps and
            ref_rejected_logps, as TRL's precompute_ref_log_probs stores them; None for no reference.
        max_length: tokens of prompt and answer; None for the model's limit. Long prompts lose their
            beginning.
    """

    model_class = AutoModelForCausalLM
    looked_for = (PREFERENCE,)
    content = ("chosen", "rejected", "prompt")

    chosen: str = "chosen"
    rejected: str = "rejected"
    prompt: str | None = None
    normalize: Literal["tokens"] | None = None
    reference: Literal["columns"] | None = None
    max_length: AtLeast1 | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.reference and self.normalize:
            raise ConfigError("task.reference holds sums over tokens; leave task.normalize null")

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        texts.check_causal(model)
        limit = texts.longest(processor, model, self.max_length)
        rows: dict[str, list[Any]] = {"passages": [], "scored": [], "labels": [], "length": []}
        for number, answers in enumerate(self._answers(split, processor)):
            for option, answer in zip(("chosen", "rejected"), answers, strict=True):
                where = f"task.{option}={getattr(self, option)}: row {row_of(split, number)}"
                first = answer.scored.index(1) if any(answer.scored[1:]) else None
                if first is None:
                    raise DataError(f"{where} has an empty answer; fill it, or leave the row out")
                if (length := len(answer.numbers) - first) >= limit:
                    raise DataError(
                        f"{where} has an answer of {length} tokens, and there is room for {limit - 1}; leave "
                        "the row out, or raise task.max_length"
                    )
            rows["passages"].append([answer.numbers[-limit:] for answer in answers])
            rows["scored"].append([answer.scored[-limit:] for answer in answers])
            rows["labels"].append(1)
            rows["length"].append(max(len(answer.numbers) for answer in answers))
        tokens = [[token for passage in example for token in passage] for example in rows["passages"]]
        texts.check_tokens(self, split, "chosen", tokens, model)
        if self.reference:
            chosen, rejected = (check_filled(split, "task.reference", name) for name in _REFERENCE)
            rows["reference"] = [float(one) - float(two) for one, two in zip(chosen, rejected, strict=True)]
        return Dataset.from_dict(rows)

    def _answers(self, split: Dataset, processor: Processor) -> Iterator[tuple[Tokens, Tokens]]:
        """The tokens of the chosen and of the rejected answer, each after its prompt."""
        both = [cells_of(split, f"task.{name}", getattr(self, name)) for name in ("chosen", "rejected")]
        column = self.prompt or (_PROMPT if _PROMPT in split.column_names else None)
        prompts = [""] * len(split) if column is None else cells_of(split, "task.prompt", column)
        writer = self.writer(processor, split, [*both[0], *both[1], *prompts])
        for number, (prompt, *answers) in enumerate(zip(prompts, *both, strict=True)):
            where = f"task.chosen={self.chosen}: row {row_of(split, number)}"
            if answers[0] == answers[1]:
                raise DataError(f"{where} is the same answer as task.rejected={self.rejected}; leave it out")
            if all(isinstance(answer, list) and answer for answer in answers) and not isinstance(
                prompt, list
            ):
                prompt, answers = _shared(prompt, answers, where)
            chosen, rejected = (
                writer.answer(prompt, answer, "completion", where, number) for answer in answers
            )
            yield chosen, rejected

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        batch = texts.collate_passages(examples)
        if self.reference:
            batch["reference"] = torch.tensor([example["reference"] for example in examples])
        return batch

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        """By how many nats the chosen answer is likelier, or whether it is, as the metric takes it."""
        likely = texts.log_likelihoods(model, batch)
        if self.normalize == "tokens":
            likely = likely / batch["scored"][:, 1:].sum(1)
        chosen, rejected = likely.view(-1, 2).unbind(1)
        margins = chosen - rejected - batch.get("reference", 0.0)
        return margins if self.metric.inputs == "values" else (margins > 0).long()


def _shared(prompt: str, answers: Sequence[list[Any]], where: str) -> tuple[list[Any], list[list[Any]]]:
    """The messages that two conversations begin with, and the rest of each.

    Raises:
        DataError: if they share none, or a prompt beside them is no part of these.
    """
    chosen, rejected = answers
    most = min(len(chosen), len(rejected)) - 1
    number = next((at for at in range(most) if chosen[at] != rejected[at]), most)
    said = [message.get("content", message.get("value")) for message in chosen[:number] if message]
    if number == 0 or (prompt and prompt not in said):
        raise DataError(
            f"{where} and the rejected answer are conversations that do not begin with the same prompt; give "
            "the prompt as messages, in a column task.prompt"
        )
    return chosen[:number], [chosen[number:], rejected[number:]]
