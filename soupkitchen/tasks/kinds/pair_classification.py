"""Pair classification: whether two texts belong together, by the cosine of their embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import datasets

from soupkitchen.errors import DataError
from soupkitchen.tasks.columns import LABEL, TEXTS, Wanted
from soupkitchen.tasks.kinds.embedding_similarity import EmbeddingSimilarity
from soupkitchen.tasks.labels import Column, Labelled, ModelLabels, Reader, Splits, affirmed


@dataclass(frozen=True)
class PairClassification(EmbeddingSimilarity, Labelled):
    """Scores encoders. Predictions are cosines; metrics: average_precision, best_accuracy, best_f1.

    Cross-encoders are scored by `TextClassification` with a `text_pair`.

    Attributes:
        label: the column of whether they belong together: 0 or 1, or two words of which one says no.
        labels: "indices", or 0 or 1 by the data's label; None for what the labels say.

    Source: Reimers and Gurevych 2019, "Sentence-BERT", arXiv 1908.10084.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (TEXTS, LABEL)

    @property
    def stratify_column(self) -> str | None:
        return self.label

    def encode_labels(self, split: datasets.Dataset) -> list[Any]:
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
