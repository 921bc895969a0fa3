"""Token classification: a tag for each word, as in named-entity recognition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import AutoModelForTokenClassification, DataCollatorForTokenClassification, PreTrainedModel

from soupkitchen.errors import DataError
from soupkitchen.options.kinds import AtLeast1
from soupkitchen.tasks.base import Batch, Examples, Processor, without
from soupkitchen.tasks.columns import TAGS, WORDS, lists_of, row_of
from soupkitchen.tasks.labels import Labelled, ModelLabels, values_of
from soupkitchen.tasks.texts import check_tokens, longest, unwrapped

_IGNORED = -100


@dataclass(frozen=True)
class TokenClassification(Labelled):
    """Scores token-classification models. The first token of a word decides its tag.

    Words beyond the limit are left out of predictions and references.

    Attributes:
        data: the texts.
        metric: entity_f1, token_accuracy.
        words: the column of words, a list.
        label: the column of tags, a list.
        labels: see `soupkitchen.tasks.labels`.
        max_length: the most tokens; None for the model's limit.
    """

    model_class = AutoModelForTokenClassification
    looked_for = (WORDS, TAGS)
    content = ("words",)
    entries = "tags"

    words: str = "tokens"
    label: str = "tags"
    max_length: AtLeast1 | None = None

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        numbers, names = self.read_as(split, model), ModelLabels.of(model).names or ()
        limit = longest(processor, model, self.max_length)
        texts = lists_of(split, "task.words", self.words, str, "words")
        encoded = processor(texts, is_split_into_words=True, truncation=True, max_length=limit)
        check_tokens(self, split, "words", encoded["input_ids"], model, processor)
        rows: dict[str, list[Any]] = {"labels": [], "tags": [], "length": []}
        for number, wanted in enumerate(values_of(split, self.label, "tags")):
            if len(wanted) != len(texts[number]):
                raise DataError(
                    f"task.label={self.label}: row {row_of(split, number)} has {len(texts[number])} words "
                    f"and {len(wanted)} tags; give each word a tag"
                )
            words = encoded.word_ids(number)
            pairs = zip(words, [None, *words[:-1]], strict=True)
            row = [_IGNORED if w in (None, before) else numbers[wanted[w]] for w, before in pairs]
            rows["labels"].append(row)
            rows["tags"].append([names[tag] for tag in row if tag != _IGNORED])
            rows["length"].append(len(row))
        inputs = {name: encoded[name] for name in ("input_ids", "attention_mask")}
        return Dataset.from_dict({**inputs, **rows})

    def references(self, prepared: Dataset) -> list[list[str]]:
        return prepared["tags"][:]

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        pad = DataCollatorForTokenClassification(processor)
        return pad([without(example, "tags") for example in examples])

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> list[list[str]]:
        names = ModelLabels.of(unwrapped(model)).names or ()
        likeliest = model(**without(batch, "labels")).logits.argmax(-1)
        return [
            [names[tag] for tag in row[wanted != _IGNORED].tolist()]
            for row, wanted in zip(likeliest, batch["labels"], strict=True)
        ]
