"""Tasks on the embeddings of two or three texts: similarity, pair classification, triplets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from soupkitchen.errors import DataError
from soupkitchen.metrics import TaskMetric
from soupkitchen.options.kinds import AnyText, AtLeast1, SomeTexts
from soupkitchen.tasks.base import Batch, Collate, Processor
from soupkitchen.tasks.columns import LABEL, NUMBER, TEXTS, TRIPLET
from soupkitchen.tasks.data import Data
from soupkitchen.tasks.embedding import Embedding
from soupkitchen.tasks.labels import Column, Labelled, ModelLabels, Reader, Splits, affirmed, numbers_of


class _Together(Embedding):
    """A task whose examples are the texts in the columns of `content`."""

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        self.check_columns(split, *self.content)
        texts = {option: self.tokens(split, option, processor, model) for option in self.content}
        lengths = [sum(map(len, example)) for example in zip(*texts.values(), strict=True)]
        return Dataset.from_dict({**texts, "labels": self.encode_labels(split), "length": lengths})

    def encode_labels(self, split: Dataset) -> list[Any]:
        """The column of labels as `references` gives it, one entry an example."""
        return [1] * len(split)

    def collator(self, processor: Processor) -> Collate:
        def collate(examples: list[dict[str, Any]]) -> Batch:
            texts = [example[option] for option in self.content for example in examples]
            return dict(processor.pad({"input_ids": texts}, return_tensors="pt"))

        return collate


@dataclass(frozen=True)
class EmbeddingSimilarity(_Together):
    """Scores encoders. Predictions are cosines; metrics: spearman, pearson, mse.

    Attributes:
        data: the pairs.
        metric: compares cosines with `label`.
        text, text_pair: the columns of the two texts.
        label: the column of how alike they are.
        pooling, prompt, lower, max_length: how an embedding is made; see `soupkitchen.tasks.embedding`.

    Source: Reimers and Gurevych 2019, "Sentence-BERT", arXiv 1908.10084.
    """

    looked_for = (TEXTS, NUMBER)
    content = ("text", "text_pair")

    data: Data
    metric: TaskMetric
    text: str = "text"
    text_pair: str = "text_pair"
    label: str = "label"
    pooling: SomeTexts | None = None
    prompt: AnyText | None = None
    lower: bool = False
    max_length: AtLeast1 | None = None

    def encode_labels(self, split: Dataset) -> list[Any]:
        self.check_columns(split, "label")
        return numbers_of(split, self.label)

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        first, second = self.embedded(model, batch).chunk(2)
        return torch.nn.functional.cosine_similarity(first, second)


@dataclass(frozen=True)
class PairClassification(EmbeddingSimilarity, Labelled):
    """Scores encoders. Predictions are cosines; metrics: average_precision, best_accuracy, best_f1.

    Cross-encoders are scored by `TextClassification` with a `text_pair`.

    Attributes:
        label: the column that says whether they belong together: 0 or 1, or two words of which one says no.
        labels: "indices", or 0 or 1 by the data's label; None for what the labels say.

    Source: Reimers and Gurevych 2019, "Sentence-BERT", arXiv 1908.10084.
    """

    looked_for = (TEXTS, LABEL)
    stratify = "label"

    def encode_labels(self, split: Dataset) -> list[Any]:
        return self.encoded(split, None)

    def reading(self, splits: Splits, model: Any) -> Any:
        column = Column.of(splits, self.label)
        words = [str(value) for value in column.positions or column.rows]
        if self.labels is None and len(words) == 2 and (yes := affirmed(words)) is not None:
            return {value: int(str(value) == words[yes]) for value in column.rows}
        for value in column.rows if self.labels is None else ():
            if column.positions is not None or column.number(value, 2) is None:
                raise DataError(
                    f"{column.name}: {column.first[value]} holds {value!r}, which should be 0 or 1; "
                    f"task.labels={{{value}: 1, …: 0}} says which label means that the texts belong together"
                )
        return Reader(column, ModelLabels(None, 2)).read(self.labels)


@dataclass(frozen=True)
class Triplets(_Together):
    """Scores encoders. A prediction is whether the cosine with `positive` is above that with `negative`.

    Attributes:
        data: the triplets.
        metric: accuracy.
        anchor, positive, negative: the columns of a text, of one that belongs to it, and of another.
        pooling, prompt, lower, max_length: how an embedding is made; see `soupkitchen.tasks.embedding`.

    Source: Schroff et al. 2015, "FaceNet", section 3.1, arXiv 1503.03832.
    """

    looked_for = (TRIPLET,)
    content = ("anchor", "positive", "negative")

    data: Data
    metric: TaskMetric
    anchor: str = "anchor"
    positive: str = "positive"
    negative: str = "negative"
    pooling: SomeTexts | None = None
    prompt: AnyText | None = None
    lower: bool = False
    max_length: AtLeast1 | None = None

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        anchor, positive, negative = self.embedded(model, batch).chunk(3)
        _, *texts = batch["input_ids"].chunk(3)
        differ = (texts[0] != texts[1]).any(1)  # rounding is not to choose between equals
        cosine = torch.nn.functional.cosine_similarity
        return (differ & (cosine(anchor, positive) > cosine(anchor, negative))).long()
