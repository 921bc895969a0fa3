"""Extractive question answering: finding an answer in a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForQuestionAnswering, PreTrainedModel

from soupkitchen.errors import DataError
from soupkitchen.options.kinds import AtLeast0, AtLeast1
from soupkitchen.tasks.base import Batch, DataTask, Examples, Processor, without
from soupkitchen.tasks.columns import check_column, row_of
from soupkitchen.tasks.texts import check_tokens, longest

_NOWHERE = [-1, -1]


@dataclass(frozen=True)
class QuestionAnswering(DataTask):
    """Scores models that cut an answer out of a context.

    A long context is read in overlapping windows; the best answer of all counts.

    Attributes:
        data: questions, contexts and answers.
        metric: answer_f1, answer_exact.
        question, context: the columns of texts.
        answers: the column of right answers: a text, a list, or SQuAD's ``{text: [...]}``.
        unanswerable: True if there may be no answer; none is given if the first token scores higher.
        longest_answer: the most tokens of an answer.
        stride: tokens by which windows overlap.
        max_length: tokens of question and window; None for the model's limit.

    Source: Devlin et al. 2019, "BERT", sections 4.2 and 4.3, arXiv 1810.04805.
    """

    model_class = AutoModelForQuestionAnswering
    content = ("question", "context")

    question: str = "question"
    context: str = "context"
    answers: str = "answers"
    unanswerable: bool = False
    longest_answer: AtLeast1 = 30
    stride: AtLeast0 = 128
    max_length: AtLeast1 | None = None

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        check_column(split, "task.answers", self.answers)
        if not getattr(processor, "is_fast", False):
            raise DataError(
                "question answering needs a fast tokenizer (tokenizer.json), which says where words are"
            )
        questions, contexts = self.texts(split, "question"), self.texts(split, "context")
        limit = longest(processor, model, self.max_length)
        most = max(len(tokens) for tokens in processor(questions)["input_ids"])
        if most + 8 > limit:
            raise DataError(f"a question has {most} tokens, which leaves no room for a context in {limit}")
        encoded = processor(
            questions,
            contexts,
            truncation="only_second",
            max_length=limit,
            stride=min(self.stride, (limit - most) // 2),
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
        )
        inputs = [name for name in processor.model_input_names if name in encoded]
        windows: list[list[dict[str, Any]]] = [[] for _ in questions]
        tokens: list[list[int]] = [[] for _ in questions]
        for number, example in enumerate(encoded["overflow_to_sample_mapping"]):
            spans = zip(encoded.sequence_ids(number), encoded["offset_mapping"][number], strict=True)
            offsets = [list(span) if part == 1 else _NOWHERE for part, span in spans]
            tokens[example] += encoded["input_ids"][number]
            windows[example].append({**{name: encoded[name][number] for name in inputs}, "offsets": offsets})
        check_tokens(self, split, "context", tokens, model, processor)
        return Dataset.from_dict(
            {
                "windows": windows,
                "answers": [self._answers(split, number) for number in range(len(split))],
                "context": contexts,
                "length": [max(len(window["offsets"]) for window in example) for example in windows],
            }
        )

    def references(self, prepared: Dataset) -> list[dict[str, Any]]:
        columns = prepared["context"][:], prepared["answers"][:]
        return [{"context": context, "answers": answers} for context, answers in zip(*columns, strict=True)]

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        windows = [window for example in examples for window in example["windows"]]
        inputs = [without(window, "offsets") for window in windows]
        batch = dict(processor.pad(inputs, return_tensors="pt"))
        offsets = torch.full((*batch["input_ids"].shape, 2), -1)
        for row, window in zip(offsets, windows, strict=True):
            size = len(window["offsets"])
            place = slice(-size, None) if processor.padding_side == "left" else slice(size)
            row[place] = torch.tensor(window["offsets"])
        sizes = torch.tensor([len(example["windows"]) for example in examples])
        return batch | {"offsets": offsets, "windows": sizes}

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        """Start and end of each answer in its context, or -1 twice: (examples, 2)."""
        outputs = model(**without(batch, "offsets", "windows"))
        scores, spans = self._spans(outputs.start_logits.float(), outputs.end_logits.float(), batch)
        sizes = batch["windows"].tolist()
        windows = zip(scores.split(sizes), spans.split(sizes), strict=True)
        return torch.stack([places[score.argmax()] for score, places in windows])

    def _spans(
        self, starts: torch.Tensor, ends: torch.Tensor, batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The score (windows,) and place (windows, 2) of each window's best answer."""
        offsets = batch["offsets"]
        inside = offsets[:, :, 0] >= 0
        pairs = starts[:, :, None] + ends[:, None, :]
        ordered = torch.ones_like(pairs[0], dtype=torch.bool).triu().tril(self.longest_answer - 1)
        allowed = ordered & inside[:, :, None] & inside[:, None, :]
        best, place = pairs.masked_fill(~allowed, float("-inf")).flatten(1).max(1)
        width = starts.shape[1]
        rows = torch.arange(len(place), device=place.device)
        spans = torch.stack([offsets[rows, place // width, 0], offsets[rows, place % width, 1]], dim=1)
        if self.unanswerable:
            first = batch["attention_mask"].argmax(1)
            nothing = starts[rows, first] + ends[rows, first]
            # the least that any window has for no answer, against the best answer of all
            sizes = batch["windows"].tolist()
            least = torch.cat([window.min().expand(len(window)) for window in nothing.split(sizes)])
            spans = spans.masked_fill((least >= best)[:, None], -1)
        return best, spans

    def _answers(self, split: Dataset, number: int) -> list[str]:
        cell = split[number][self.answers]
        cell = cell.get("text", cell) if isinstance(cell, Mapping) else cell
        answers = [cell] if isinstance(cell, str) else list(cell or [])
        if not all(isinstance(answer, str) for answer in answers) or not (answers or self.unanswerable):
            missing = "no texts" if answers else "no answer; task.unanswerable=true lets questions have none"
            raise DataError(f"task.answers={self.answers}: row {row_of(split, number)} has {missing}")
        return answers
