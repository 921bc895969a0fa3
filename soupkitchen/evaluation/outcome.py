"""Evaluations: one model's scores and predictions, as numbers and arrays that can be sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from soupkitchen.metrics import Rows, TaskMetric, take
from soupkitchen.tasks import Several


@dataclass(frozen=True)
class Part:
    """One task's score of a model.

    Attributes:
        score: higher better; the most possible if not all is scored.
        values: float64 (examples,), each example's share of the score, higher better, in the data's order;
            the best possible for unscored examples. None if the metric is no mean.
        predictions: of scored examples, in the data's order or that of `order`.
        order: int64 (examples_scored,), the scored examples; None for all.
    """

    score: float
    values: np.ndarray | None = field(repr=False)
    predictions: Rows = field(repr=False)
    examples_scored: int
    examples_total: int
    order: np.ndarray | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        assert self.values is None or self.values.dtype == np.float64, "other arrays would cut values"

    @classmethod
    def so_far(
        cls,
        metric: TaskMetric,
        values: np.ndarray | None,
        weights: np.ndarray | None,
        scored: int,
        total: int,
    ) -> Part:
        """The part with `scored` examples; the others count at their best."""
        score = metric.best if values is None else metric.of_values(values, weights)
        return cls(score, values, (), scored, total)

    @classmethod
    def whole(
        cls, metric: TaskMetric, predictions: Rows, references: Rows, values: np.ndarray | None = None
    ) -> Part:
        if values is None:
            values = metric.per_example(predictions, references)
        if values is None:
            score = metric.score(predictions, references)
        else:
            score = metric.of_values(values, metric.weights(references))
        return cls(score, values, predictions, len(references), len(references))

    @classmethod
    def of_first(
        cls,
        metric: TaskMetric,
        predictions: Rows,
        references: Rows,
        order: np.ndarray,
        values: np.ndarray | None = None,
    ) -> Part:
        """The part with `predictions` of the first examples of `order`; `values` are of all examples."""
        if (
            isinstance(predictions, list)
            and predictions
            and isinstance(predictions[0], (np.ndarray, np.generic))
        ):
            predictions = np.stack(predictions)
        done, total = len(predictions), len(references)
        if done == total:
            return cls.whole(metric, take(predictions, np.argsort(order)), references, values)
        scored = order[:done]
        if values is None and metric.is_mean:
            values = np.full(total, metric.best, np.float64)
            if done:
                values[scored] = metric.per_example(predictions, take(references, scored))
        part = cls.so_far(metric, values, metric.weights(references), done, total)
        return replace(part, predictions=predictions, order=scored)

    @property
    def scored(self) -> np.ndarray:
        """Marks the scored examples: bool (examples,), in the data's order."""
        flags = np.full(self.examples_total, self.order is None)
        if self.order is not None:
            flags[self.order] = True
        return flags


StoppedBy = Literal["", "exact", "confidence"]
"""The reason of an early stop, or ""."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of one model on one split.

    Attributes:
        split: "heldout" or "test".
        score: of all tasks, higher better; if not `complete`, the most possible, or an upper confidence
            limit.
        seconds: for forward passes and metrics.
        explained: the share of the variance of differences that features explained, if that stopped it.
    """

    split: str
    score: float
    parts: Mapping[str, Part]
    complete: bool = True
    seconds: float = 0.0
    stopped_by: StoppedBy = ""
    explained: float | None = None

    @classmethod
    def of(cls, split: str, parts: Mapping[str, Part], tasks: Several, seconds: float = 0.0) -> Evaluation:
        score = tasks.score({name: part.score for name, part in parts.items()})
        complete = all(part.examples_scored == part.examples_total for part in parts.values())
        return cls(split, score, dict(parts), complete, seconds)

    @property
    def examples_scored(self) -> int:
        return sum(part.examples_scored for part in self.parts.values())

    @property
    def examples_total(self) -> int:
        return sum(part.examples_total for part in self.parts.values())

    @property
    def scores(self) -> dict[str, float]:
        return {name: part.score for name, part in self.parts.items()}
