"""Pair classification: whether two texts belong together, by the cosine of their embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import datasets

from soupkitchen.errors import DataError
from soupkitchen.tasks.columns import LABEL, TEXTS, Wanted
from soupkitchen.tasks.kinds.embedding_similarity import EmbeddingSimilarity
from soupkitchen.tasks.values import check_filled, row_of


@dataclass(frozen=True)
class PairClassification(EmbeddingSimilarity):
    """Scores encoders. Predictions are cosines; metrics: average_precision, best_accuracy, best_f1.

    Cross-encoders are scored by `TextClassification` with a `text_pair`.

    Attributes:
        label: the column of whether they belong together: 0 or 1.

    Source: Reimers and Gurevych 2019, "Sentence-BERT", arXiv 1908.10084.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (TEXTS, LABEL)

    @property
    def stratify_column(self) -> str | None:
        return self.label

    def encode_labels(self, split: datasets.Dataset) -> list[Any]:
        values = check_filled(split, "task.label", self.label)
        for number, value in enumerate(values):
            if value not in (0, 1):
                raise DataError(
                    f"task.label={self.label}: row {row_of(split, number)} holds {value!r}, which should be "
                    "0 or 1"
                )
        return [int(value) for value in values]
