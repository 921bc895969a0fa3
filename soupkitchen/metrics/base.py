"""A metric as the rest of soupkitchen sees it: higher is better, per example where it can be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NewType, Protocol, runtime_checkable

import evaluate
import numpy as np

from soupkitchen.errors import MetricError

Inputs = Literal["labels", "logits"]

Score = NewType("Score", float)
"""A metric's value turned so that higher is better: a loss is negated, once, here."""


@runtime_checkable
class PerExample(Protocol):
    """A metric that is the mean of one number an example."""

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        """One float64 an example, shape (examples,)."""
        ...


@runtime_checkable
class OfAllExamples(Protocol):
    """A metric that is no such mean, but quick to compute again and again (for the bootstrap)."""

    def of(self, predictions: Any, references: Any) -> float: ...


@dataclass(frozen=True)
class TaskMetric:
    """An `evaluate` metric, and what soupkitchen has to know of it.

    Attributes:
        name: what tables call it.
        module: the metric itself.
        key: which entry of what `module.compute` returns is the score.
        greater_is_better: False for a loss.
        inputs: whether predictions are labels, or rows of logits.
        options: further arguments of `module.compute`.
    """

    name: str
    module: evaluate.EvaluationModule
    key: str
    greater_is_better: bool = True
    inputs: Inputs = "labels"
    options: Mapping[str, Any] = field(default_factory=dict)

    def score(self, predictions: np.ndarray, references: np.ndarray) -> Score:
        """The score of all examples, higher better.

        Raises:
            MetricError: where the metric refuses the input or gives no `key`.
        """
        try:
            computed = self.module.compute(predictions=predictions, references=references, **self.options)
        except (TypeError, ValueError) as error:
            raise MetricError(f"the metric {self.name!r} could not be computed: {error}") from error
        if not computed or self.key not in computed:
            raise MetricError(
                f"the metric {self.name!r} gives {', '.join(computed or {}) or 'nothing'}, not {self.key!r}; "
                "set task.metric.key to one of them"
            )
        return self._turned(float(computed[self.key]))

    def per_example(self, predictions: np.ndarray, references: np.ndarray) -> np.ndarray | None:
        """One score an example, higher better, of which `score` is the mean; or None."""
        if not isinstance(self.module, PerExample) or self.options:
            return None
        return self._turned(1.0) * self.module.per_example(predictions, references)

    def quick(self, predictions: np.ndarray, references: np.ndarray) -> Score | None:
        """The score without `evaluate`'s checks and copies, where the metric offers that; or None."""
        if not isinstance(self.module, OfAllExamples) or self.options:
            return None
        return self._turned(self.module.of(predictions, references))

    def shown(self, score: float) -> float:
        """`score` with the metric's own sign, as tables show it."""
        return float(self._turned(score))

    def _turned(self, value: float) -> Score:
        return Score(value if self.greater_is_better else -value)
