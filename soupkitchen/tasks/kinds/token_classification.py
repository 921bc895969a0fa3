"""Token classification: a tag for each word, as in named-entity recognition."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import torch
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification, PreTrainedModel

from soupkitchen.errors import DataError
from soupkitchen.metrics import TaskMetric
from soupkitchen.options.kinds import AtLeast1
from soupkitchen.tasks.base import Batch, Processor
from soupkitchen.tasks.columns import TAGS, WORDS, Wanted
from soupkitchen.tasks.data import Data, check_columns
from soupkitchen.tasks.labels import Column, Labelled, ModelLabels, Reader, Splits, values_of
from soupkitchen.tasks.texts import TextTask, check_tokens, longest, unwrapped
from soupkitchen.tasks.values import lists_of, row_of

_IGNORED = -100


@dataclass(frozen=True)
class TokenClassification(TextTask, Labelled):
    """Scores token-classification models. The first token of a word decides its tag.

    Words beyond the model's limit are left out of predictions and references alike.

    Attributes:
        data: where the texts are.
        metric: entity_f1, token_accuracy.
        words: the column of the words, a list.
        label: the column of their tags, a list.
        labels: how tags are read; see `soupkitchen.tasks.labels`.
        max_length: tokens after which a text is cut; None for the model's own limit.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (WORDS, TAGS)

    data: Data
    metric: TaskMetric
    words: str = "tokens"
    label: str = "tags"
    max_length: AtLeast1 | None = None

    @property
    def model_class(self) -> type:
        return AutoModelForTokenClassification

    @property
    def content_columns(self) -> tuple[str, ...]:
        return (self.words,)

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        check_columns(split, {"task.words": self.words})
        numbers, names = self.read_as(split, model), ModelLabels.of(model).names or ()
        limit = longest(processor, model, self.max_length)
        texts = lists_of(split, "task.words", self.words, str, "words")
        encoded = processor(texts, is_split_into_words=True, truncation=True, max_length=limit)
        check_tokens(split, "task.words", self.words, encoded["input_ids"], model, processor)
        rows, tags = [], []
        for number, wanted in enumerate(values_of(split, self.label, "tags")):
            if len(wanted) != len(texts[number]):
                raise DataError(
                    f"task.label={self.label}: row {row_of(split, number)} has {len(texts[number])} words "
                    f"and {len(wanted)} tags; give each word a tag"
                )
            row, before = [], None
            for word in encoded.word_ids(number):
                first = word is not None and word != before
                row.append(numbers[wanted[word]] if first else _IGNORED)
                before = word
            rows.append(row)
            tags.append([names[tag] for tag in row if tag != _IGNORED])
        lengths = [len(row) for row in rows]
        return datasets.Dataset.from_dict(
            {
                "input_ids": encoded["input_ids"],
                "attention_mask": encoded["attention_mask"],
                "labels": rows,
                "tags": tags,
                "length": lengths,
            }
        )

    def references(self, prepared: datasets.Dataset) -> list[list[str]]:
        return prepared["tags"][:]

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        pad = DataCollatorForTokenClassification(processor)
        return lambda examples: pad([{k: v for k, v in e.items() if k != "tags"} for e in examples])

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> list[list[str]]:
        names = ModelLabels.of(unwrapped(model)).names or ()
        inputs = {name: value for name, value in batch.items() if name != "labels"}
        likeliest = model(**inputs).logits.argmax(-1)
        return [
            [names[tag] for tag in row[wanted != _IGNORED].tolist()]
            for row, wanted in zip(likeliest, batch["labels"], strict=True)
        ]

    def reading(self, splits: Splits, model: PreTrainedModel) -> Any:
        return Reader(Column.of(splits, self.label, "tags"), ModelLabels.of(model)).read(self.labels)
