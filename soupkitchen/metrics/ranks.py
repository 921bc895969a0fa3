"""How far up what is relevant stands in a ranking: nDCG, reciprocal rank, recall, average precision.

A prediction is the ranks of what is relevant to a query, ascending, 1 for the first; a reference lists what
is relevant, so its length says how much there is. All are means over queries, from 0 to 1.

Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques", with gains of 0 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import log2
from typing import Any

from soupkitchen.errors import MetricError


@dataclass(frozen=True)
class Ndcg:
    """The discounted gain of what is relevant among the first `k`, of the most that it could be.

    Attributes:
        k: how many of the first count; the name says it: ndcg_at_10.
    """

    k: int = 10

    name = "ndcg_at_10"
    inputs = "values"
    best = 1.0

    def __post_init__(self) -> None:
        _call(self, "ndcg", self.k)

    def per_example(self, predictions: Any, references: Any) -> list[float]:
        values = []
        for ranks, relevant in zip(predictions, references, strict=True):
            best = _gain(range(1, len(relevant) + 1), self.k)
            values.append(_gain(ranks, self.k) / best)
        return values


@dataclass(frozen=True)
class ReciprocalRank:
    """One over the rank of the first that is relevant, 0 where none is among the first `k`.

    Attributes:
        k: how many of the first count; the name says it: mrr_at_10.
    """

    k: int = 10

    name = "mrr_at_10"
    inputs = "values"
    best = 1.0

    def __post_init__(self) -> None:
        _call(self, "mrr", self.k)

    def per_example(self, predictions: Any, references: Any) -> list[float]:
        return [1 / min(ranks) if min(ranks) <= self.k else 0.0 for ranks in predictions]


@dataclass(frozen=True)
class Recall:
    """The share of what is relevant that is among the first `k`.

    Attributes:
        k: how many of the first count; the name says it: recall_at_10.
    """

    k: int = 10

    name = "recall_at_10"
    inputs = "values"
    best = 1.0

    def __post_init__(self) -> None:
        _call(self, "recall", self.k)

    def per_example(self, predictions: Any, references: Any) -> list[float]:
        pairs = zip(predictions, references, strict=True)
        return [sum(rank <= self.k for rank in ranks) / len(relevant) for ranks, relevant in pairs]


@dataclass(frozen=True)
class RankedPrecision:
    """The mean, over what is relevant, of the precision down to its rank; 0 for what is below the first `k`.

    Attributes:
        k: how many of the first count; the name says it: map_at_100.
    """

    k: int = 100

    name = "map_at_100"
    inputs = "values"
    best = 1.0

    def __post_init__(self) -> None:
        _call(self, "map", self.k)

    def per_example(self, predictions: Any, references: Any) -> list[float]:
        values = []
        for ranks, relevant in zip(predictions, references, strict=True):
            precisions = [n / rank for n, rank in enumerate(sorted(ranks), start=1) if rank <= self.k]
            values.append(sum(precisions) / min(self.k, len(relevant)))
        return values


def _gain(ranks: Any, k: int) -> float:
    return sum(1 / log2(1 + rank) for rank in ranks if rank <= k)


def _call(metric: Any, name: str, k: Any) -> None:
    """Gives a metric the name that says its `k`.

    Raises:
        MetricError: where `k` is none.
    """
    if not isinstance(k, int) or isinstance(k, bool) or k < 1:
        raise MetricError(f"task.metric.options.k={k} should be a whole number of at least 1")
    object.__setattr__(metric, "name", f"{name}_at_{k}")
