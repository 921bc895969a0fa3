"""Metrics of rankings: nDCG, reciprocal rank, recall, average precision, and recall of embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any, ClassVar, Literal

import numpy as np

from soupkitchen.errors import MetricError


@dataclass(frozen=True)
class RankMetric:
    """The mean over queries of a value from 0 to 1, by the ranks of relevant passages.

    Predictions are these ranks, ascending from 1; references list the passages.

    Attributes:
        k: the last rank that counts; part of the name, as in ndcg_at_10.

    Raises:
        MetricError: if `k` is no whole number of at least 1.
    """

    k: int = 10

    name: ClassVar[str]
    inputs = "values"
    best = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.k, int) or isinstance(self.k, bool) or self.k < 1:
            raise MetricError(f"task.metric.options.k={self.k} should be a whole number of at least 1")
        measure, _, _ = type(self).name.partition("_at_")
        object.__setattr__(self, "name", f"{measure}_at_{self.k}")

    def per_example(self, predictions: Any, references: Any) -> list[float]:
        pairs = zip(predictions, references, strict=True)
        return [self.of_query(ranks, len(relevant)) for ranks, relevant in pairs]

    def of_query(self, ranks: Sequence[int], relevant: int) -> float:
        """The value of one query's ranks; `relevant` counts its relevant passages."""
        raise NotImplementedError


class Ndcg(RankMetric):
    """The discounted gain in the first `k` ranks, as a share of the most possible.

    Source: Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques".
    """

    name = "ndcg_at_10"

    def of_query(self, ranks: Sequence[int], relevant: int) -> float:
        return self._gain(ranks) / self._gain(range(1, relevant + 1))

    def _gain(self, ranks: Iterable[int]) -> float:
        return sum(1 / log2(1 + rank) for rank in ranks if rank <= self.k)


class ReciprocalRank(RankMetric):
    """1 / the first relevant passage's rank; 0 beyond `k`."""

    name = "mrr_at_10"

    def of_query(self, ranks: Sequence[int], relevant: int) -> float:
        return 1 / min(ranks) if min(ranks) <= self.k else 0.0


class Recall(RankMetric):
    """The share of relevant passages in the first `k` ranks."""

    name = "recall_at_10"

    def of_query(self, ranks: Sequence[int], relevant: int) -> float:
        return sum(rank <= self.k for rank in ranks) / relevant


@dataclass(frozen=True)
class RankedPrecision(RankMetric):
    """The mean over relevant passages of the precision at their rank; 0 beyond `k`."""

    k: int = 100

    name = "map_at_100"

    def of_query(self, ranks: Sequence[int], relevant: int) -> float:
        precisions = [n / rank for n, rank in enumerate(sorted(ranks), start=1) if rank <= self.k]
        return sum(precisions) / min(self.k, relevant)


_ROWS = 1024
"""Queries compared at once."""


@dataclass(frozen=True)
class RetrievalRecall:
    """The share of queries with a right candidate among the nearest `k`; the mean of both directions.

    A prediction is the embeddings of an image and its text, of length 1, side by side. A reference is their
    numbers, equal for equal ones. Every row is a query; each image, and each text, is a candidate once. Of
    equally near candidates wrong ones come first. Resamples draw queries, not candidates.

    Attributes:
        k: number of nearest candidates that count.
        direction: "both", "image_to_text" (images are queries), or "text_to_image".

    Source: Radford et al. 2021, "Learning transferable visual models from natural language supervision",
        appendix E, arXiv 2103.00020.
    """

    k: int = 1
    direction: Literal["both", "image_to_text", "text_to_image"] = "both"

    name = "retrieval_recall"
    inputs = "values"
    best = 1.0

    def __post_init__(self) -> None:
        if self.direction not in ("both", "image_to_text", "text_to_image"):
            raise TypeError(f"direction={self.direction}: choose both, image_to_text or text_to_image")
        if self.k < 1:
            raise TypeError(f"k={self.k} should be 1 or more")

    def statistics(self, predictions: Any, references: Any) -> np.ndarray:
        """The number of each row's right queries, and of its queries: (examples, 2)."""
        images, texts = np.split(np.asarray(predictions, np.float32), 2, axis=1)
        of_image, of_text = np.asarray(references).T
        hits = []
        if self.direction != "text_to_image":
            hits.append(_has_near(images, of_image, texts, of_text, self.k))
        if self.direction != "image_to_text":
            hits.append(_has_near(texts, of_text, images, of_image, self.k))
        return np.stack([np.sum(hits, axis=0), np.full(len(images), len(hits))], axis=1)

    def of_statistics(self, total: np.ndarray) -> float:
        return float(total[0] / total[1])


def _has_near(
    queries: np.ndarray, of_query: np.ndarray, others: np.ndarray, of_other: np.ndarray, k: int
) -> np.ndarray:
    """True if one of the `k` nearest candidates is right: bool (queries,).

    Args:
        queries, others: embeddings (rows, width); each row's belong together.
        of_query, of_other: numbers of their images or texts.
    """
    candidates, first = np.unique(of_other, return_index=True)
    pairs = np.unique(of_query * (of_other.max() + 1) + of_other)
    hits = []
    for start in range(0, len(queries), _ROWS):
        these = slice(start, start + _ROWS)
        near = queries[these] @ others[first].T
        right = np.isin(of_query[these, None] * (of_other.max() + 1) + candidates, pairs)
        best = np.where(right, near, -np.inf).max(1, keepdims=True)
        hits.append((~right & (near >= best)).sum(1) < k)
    return np.concatenate(hits)
