"""A metric as the rest of soupkitchen sees it: higher is better, per example where it can be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NewType

import evaluate
import numpy as np

from soupkitchen.errors import MetricError
from soupkitchen.store.provenance import source_of

Inputs = Literal["labels", "logits", "texts", "values", "likelihoods"]
"""What a metric takes as predictions: labels, rows of logits, texts, numbers, or rows of
(nats, tokens, bytes)."""

Rows = Sequence[Any] | np.ndarray
"""One entry an example."""

_ROUNDING = 1e-9
"""How much better than the best, relative to it, a value may be by rounding."""

Score = NewType("Score", float)
"""A metric's value turned so that higher is better: a loss is negated, once, here."""


@dataclass(frozen=True)
class TaskMetric:
    """An `evaluate` metric, and what soupkitchen has to know of it.

    A module may say more of itself than `evaluate` asks for:

    - ``per_example(predictions, references)``: one float64 an example, of which the
      score is the mean;
    - ``weights(references)``: the weights of that mean, where examples weigh differently;
    - ``link(mean)``: a strictly increasing function that makes the score of the mean;
    - ``best``: the best value that an example (or, without `per_example`, the whole)
      can have. Decisions can be taken early with it;
    - ``binary``: true where each example is right or wrong, 1 or 0;
    - ``of(predictions, references)``: the score of all examples, quick enough for a
      thousand resamples, where it is no mean;
    - ``statistics(predictions, references)``: float64 (examples, k), whose sum over examples says the
      score, as ``of_statistics(sum)``: for scores that `of` is not quick enough for.

    Attributes:
        name: what tables call it.
        module: the metric itself.
        key: which entry of what `module.compute` returns is the score.
        greater_is_better: False for a loss.
        inputs: what predictions are.
        options: further arguments of `module.compute`.
    """

    name: str
    module: evaluate.EvaluationModule
    key: str
    greater_is_better: bool = True
    inputs: Inputs = "labels"
    options: Mapping[str, Any] = field(default_factory=dict)

    def identity(self) -> list[str]:
        """What scores depend on beside predictions and references: the metric's source and its options."""
        options = f"{self.key} {self.greater_is_better} {sorted(self.options.items())}"
        shipped = type(self.module).__module__.startswith("soupkitchen.")  # these have a version
        return [self.name, options, *([] if shipped else source_of(type(self.module)))]

    def score(self, predictions: Rows, references: Rows) -> Score:
        """The score of all examples, higher better.

        Raises:
            MetricError: where the metric refuses the input or gives no `key`.
        """
        values = self.per_example(predictions, references)
        if values is not None:
            return self.of_values(values, self.weights(references))
        if _lost(predictions).any():
            return Score(math.nan)
        try:
            if (quick := self.quick(predictions, references)) is not None:
                return quick
            computed = self.module.compute(predictions=predictions, references=references, **self.options)
        except (TypeError, ValueError) as error:
            raise MetricError(f"the metric {self.name!r} could not be computed: {error}") from error
        if not computed or self.key not in computed:
            raise MetricError(
                f"the metric {self.name!r} gives {', '.join(computed or {}) or 'nothing'}, not {self.key!r}; "
                "set task.metric.key to one of them"
            )
        return self._turned(float(computed[self.key]))

    def per_example(self, predictions: Rows, references: Rows) -> np.ndarray | None:
        """One value an example, higher better, of which the score follows by `of_values`; or None.

        NaN for an example whose prediction is NaN.
        """
        if not self._has("per_example"):
            return None
        if (lost := _lost(predictions)).any():
            values = np.full(len(lost), math.nan)
            found = np.flatnonzero(~lost)
            if found.size:
                told = self.per_example(take(predictions, found), take(references, found))
                assert told is not None
                values[found] = told
            return values
        try:
            values = np.asarray(self.module.per_example(predictions, references), np.float64)
        except (TypeError, ValueError) as error:
            raise MetricError(f"the metric {self.name!r} could not be computed: {error}") from error
        return self._checked(self._turned(1.0) * values)

    def weights(self, references: Rows) -> np.ndarray | None:
        """What the examples' values weigh in the score; None where all weigh the same."""
        if not self._has("weights"):
            return None
        return np.asarray(self.module.weights(references), np.float64)

    def of_values(self, values: np.ndarray, weights: np.ndarray | None = None) -> Score:
        """The score that follows from the examples' values. It grows with each of them."""
        mean = float(np.mean(values) if weights is None else np.sum(values * weights) / np.sum(weights))
        if self._has("link"):
            mean = self._turned(float(self.module.link(self._turned(mean))))
        return Score(mean)

    def quick(self, predictions: Rows, references: Rows) -> Score | None:
        """The score without `evaluate`'s checks and copies, where the metric offers that; or None."""
        if not self._has("of"):
            return None
        if _lost(predictions).any():
            return Score(math.nan)
        score = self._turned(self.module.of(predictions, references))
        self._checked(np.array([score]))
        return score

    def statistics(self, predictions: Rows, references: Rows) -> np.ndarray | None:
        """What each example adds to the sum that the score follows from by `of_statistics`; or None."""
        if not self._has("statistics"):
            return None
        return np.asarray(self.module.statistics(predictions, references), np.float64)

    def of_statistics(self, total: np.ndarray) -> Score:
        """The score that follows from the sum of examples' statistics."""
        return self._turned(float(self.module.of_statistics(total)))

    @property
    def is_mean(self) -> bool:
        """Whether the score follows from one value an example."""
        return self._has("per_example")

    @property
    def is_plain_mean(self) -> bool:
        """Whether the score is nothing but the mean of the examples' values."""
        return self.is_mean and not (self._has("weights") or self._has("link"))

    @property
    def can_be_resampled(self) -> bool:
        """Whether the score of a resample of the examples can be had quickly."""
        return self.is_mean or self._has("of")

    @property
    def best(self) -> float:
        """The most that an example's value can be, or the score where there are no such; higher better."""
        best = getattr(self.module, "best", None)
        return math.inf if best is None or self.options else self._turned(best)

    @property
    def binary(self) -> bool:
        """Whether each example's value is 0 or 1."""
        return getattr(self.module, "binary", False) and not self.options

    def shown(self, score: float) -> float:
        """`score` with the metric's own sign, as tables show it."""
        return float(self._turned(score))

    def _checked(self, values: np.ndarray) -> np.ndarray:
        """`values`, higher better, none of which may be better than the best: what cannot get better is
        not looked at again.

        Raises:
            MetricError: where one is.
        """
        if values.size and (highest := np.fmax.reduce(values, axis=None)) > self.best + _ROUNDING * max(
            1.0, abs(self.best)
        ):
            option = getattr(self.module, "best_option", None)
            said = f"{option}={self.shown(self.best):g}" if option else f"the metric {self.name!r}"
            remedy = "raise it, or leave it null" if self.greater_is_better else "lower it, or leave it null"
            raise MetricError(
                f"{said}: a value is {self.shown(highest):g}, which is better than the best that there "
                f"should be, {self.shown(self.best):g}; {remedy if option else 'its `best` is wrong'}"
            )
        return values

    def _has(self, function: str) -> bool:
        return hasattr(self.module, function) and not self.options

    def _turned(self, value: float) -> Score:
        return Score(value if self.greater_is_better else -value)


def _lost(predictions: Rows) -> np.ndarray:
    """Which predictions are NaN, as what a model puts out is where it is not finite: bool (examples,)."""
    if isinstance(predictions, np.ndarray) and predictions.dtype != object:
        if predictions.dtype.kind != "f":
            return np.zeros(len(predictions), bool)
        return np.isnan(predictions.reshape(len(predictions), -1).sum(axis=1))
    return np.array([isinstance(p, float) and math.isnan(p) for p in predictions], bool)


def take(rows: Rows, indices: np.ndarray) -> Rows:
    """The rows of these numbers."""
    return rows[indices] if isinstance(rows, np.ndarray) else [rows[index] for index in indices]
