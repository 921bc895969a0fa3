"""How far up what is relevant stands in a ranking: nDCG, reciprocal rank, recall, average precision.

A prediction is the ranks of what is relevant to a query, ascending, 1 for the first; a reference lists what
is relevant, so its length says how much there is. All are means over queries, from 0 to 1.

Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques", with gains of 0 and 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import log2
from typing import Any, ClassVar

from soupkitchen.errors import MetricError


@dataclass(frozen=True)
class Ranked:
    """A mean over queries of what the ranks of the relevant are worth.

    Attributes:
        k: how many of the first count; the name says it, as ndcg_at_10.

    Raises:
        MetricError: where `k` is no number of at least 1.
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
        """What the ranks of one query's relevant ones are worth, `relevant` of which there are."""
        raise NotImplementedError


@dataclass(frozen=True)
class Ndcg(Ranked):
    """The discounted gain of what is relevant among the first `k`, of the most that it could be."""

    name = "ndcg_at_10"

    def of_query(self, ranks: Sequence[int], relevant: int) -> float:
        return self._gain(ranks) / self._gain(range(1, relevant + 1))

    def _gain(self, ranks: Iterable[int]) -> float:
        return sum(1 / log2(1 + rank) for rank in ranks if rank <= self.k)


@dataclass(frozen=True)
class ReciprocalRank(Ranked):
    """One over the rank of the first that is relevant, 0 where none is among the first `k`."""

    name = "mrr_at_10"

    def of_query(self, ranks: Sequence[int], relevant: int) -> float:
        return 1 / min(ranks) if min(ranks) <= self.k else 0.0


@dataclass(frozen=True)
class Recall(Ranked):
    """The share of what is relevant that is among the first `k`."""

    name = "recall_at_10"

    def of_query(self, ranks: Sequence[int], relevant: int) -> float:
        return sum(rank <= self.k for rank in ranks) / relevant


@dataclass(frozen=True)
class RankedPrecision(Ranked):
    """The mean over the relevant of the precision down to their rank; 0 for what is below the first `k`."""

    k: int = 100

    name = "map_at_100"

    def of_query(self, ranks: Sequence[int], relevant: int) -> float:
        precisions = [n / rank for n, rank in enumerate(sorted(ranks), start=1) if rank <= self.k]
        return sum(precisions) / min(self.k, relevant)
