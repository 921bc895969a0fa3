"""Extractive question answering: where in a text the answer to a question is, if it is there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import datasets
import torch
from transformers import AutoModelForQuestionAnswering, PreTrainedModel

from soupkitchen.errors import DataError
from soupkitchen.metrics import Rows, TaskMetric
from soupkitchen.options.kinds import AtLeast0, AtLeast1
from soupkitchen.tasks.base import Batch, Processor
from soupkitchen.tasks.data import Data, check_columns
from soupkitchen.tasks.texts import TextTask, check_tokens, longest
from soupkitchen.tasks.values import row_of, texts_of

_NOWHERE = -1


@dataclass(frozen=True)
class QuestionAnswering(TextTask):
    """Scores models that cut an answer out of a context. Metrics: answer_f1, answer_exact.

    A context that is too long is read in windows that overlap; the best answer of any of them is taken.

    Attributes:
        data: where questions, contexts and answers are.
        metric: what compares answers.
        question, context: the columns of texts.
        answers: the column of the right answers: a text, a list of texts, or SQuAD's ``{text: [...]}``.
        unanswerable: whether there may be no answer: then none is given where the first token scores higher.
        longest_answer: tokens that an answer may have.
        stride: tokens that windows overlap by.
        max_length: tokens of question and window together; None for the model's own limit.

    Source: Devlin et al. 2019, "BERT", sections 4.2 and 4.3, arXiv 1810.04805.
    """

    data: Data
    metric: TaskMetric
    question: str = "question"
    context: str = "context"
    answers: str = "answers"
    unanswerable: bool = False
    longest_answer: AtLeast1 = 30
    stride: AtLeast0 = 128
    max_length: AtLeast1 | None = None

    @property
    def model_class(self) -> type:
        return AutoModelForQuestionAnswering

    @property
    def content_columns(self) -> tuple[str, ...]:
        return self.question, self.context

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        named = {f"task.{part}": getattr(self, part) for part in ("question", "context", "answers")}
        check_columns(split, named)
        if not getattr(processor, "is_fast", False):
            raise DataError(
                "question answering needs a fast tokenizer (tokenizer.json), which says where words are"
            )
        questions = texts_of(split, "task.question", self.question)
        contexts = texts_of(split, "task.context", self.context)
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
        check_tokens(split, "task.context", self.context, encoded["input_ids"], model, processor)
        windows: list[list[dict[str, Any]]] = [[] for _ in questions]
        for number, example in enumerate(encoded["overflow_to_sample_mapping"]):
            within = encoded.sequence_ids(number)
            spans = zip(within, encoded["offset_mapping"][number], strict=True)
            windows[example].append(
                {
                    **{
                        name: encoded[name][number] for name in processor.model_input_names if name in encoded
                    },
                    "offsets": [list(span) if part == 1 else [_NOWHERE, _NOWHERE] for part, span in spans],
                }
            )
        return datasets.Dataset.from_dict(
            {
                "windows": windows,
                "answers": [self._answers(split, number) for number in range(len(split))],
                "context": contexts,
                "length": [max(len(one["input_ids"]) for one in some) for some in windows],
            }
        )

    def references(self, prepared: datasets.Dataset) -> Rows:
        columns = prepared["context"][:], prepared["answers"][:]
        return [{"context": context, "answers": answers} for context, answers in zip(*columns, strict=True)]

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        def collate(examples: list[dict[str, Any]]) -> Batch:
            windows = [window for example in examples for window in example["windows"]]
            inputs = [{n: v for n, v in window.items() if n != "offsets"} for window in windows]
            batch = dict(processor.pad(inputs, return_tensors="pt"))
            width = batch["input_ids"].shape[1]
            nowhere, left = [_NOWHERE, _NOWHERE], processor.padding_side == "left"
            offsets = []
            for window in windows:
                padding = [nowhere] * (width - len(window["offsets"]))
                offsets.append(padding + window["offsets"] if left else window["offsets"] + padding)
            sizes = torch.tensor([len(example["windows"]) for example in examples])
            return batch | {"offsets": torch.tensor(offsets), "windows": sizes}

        return collate

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        inputs = {name: value for name, value in batch.items() if name not in ("offsets", "windows")}
        told = model(**inputs)
        scores, spans = self._spans(told.start_logits.float(), told.end_logits.float(), batch)
        sizes = batch["windows"].tolist()
        found = []
        for some, places in zip(scores.split(sizes), spans.split(sizes), strict=True):
            found.append(places[some.argmax()])
        return torch.stack(found)

    def _spans(
        self, starts: torch.Tensor, ends: torch.Tensor, batch: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The score of each window's best answer (windows,), and its place in the context (windows, 2)."""
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
            least = torch.cat([some.min().expand(len(some)) for some in nothing.split(sizes)])
            spans = spans.masked_fill((least >= best)[:, None], _NOWHERE)
        return best, spans

    def _answers(self, split: datasets.Dataset, number: int) -> list[str]:
        told = split[number][self.answers]
        told = told.get("text", told) if isinstance(told, Mapping) else told
        answers = [told] if isinstance(told, str) else list(told or [])
        if not all(isinstance(answer, str) for answer in answers) or not (answers or self.unanswerable):
            missing = "no texts" if answers else "no answer; task.unanswerable=true lets questions have none"
            raise DataError(f"task.answers={self.answers}: row {row_of(split, number)} has {missing}")
        return answers
