"""Whether scoring a candidate may end: where its fate is certain or, if asked for, as good as certain.

With a confidence p, whatever is known of one task in progress gives an upper limit for the mean paired
difference to the incumbent (`evaluation.confidence`), and so a score that the candidate is below with
probability p; the rule then decides on that as it does on what is certain. Tasks are scored one after
the other, tasks done count as they are and later ones at their best, so that one limit is in use at any
time; each task has its share of the error 1 − p. It may only discard: what is kept was scored in full.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from soupkitchen.evaluation.bar import Bar
from soupkitchen.evaluation.confidence import upper_limit
from soupkitchen.evaluation.examples import Examples, Order
from soupkitchen.evaluation.outcome import Evaluation, Part
from soupkitchen.metrics import Rows, TaskMetric
from soupkitchen.tasks import Several

_GRAIN = 1e-6
"""Differences by less than this share of the incumbent's mean value are rounding."""


@dataclass(frozen=True)
class Stopping:
    """Asked with what is scored so far, says what to end with: nothing where more has to be scored.

    Attributes:
        references: by task, what predictions are compared with, in the data's order.
        order: by task, in which examples are scored.
    """

    bar: Bar
    tasks: Several
    references: Mapping[str, Rows] = field(repr=False)
    order: Order = field(repr=False)

    @classmethod
    def of(cls, bar: Bar, tasks: Several, examples: Examples, split: str) -> Stopping:
        """For a split of `examples` as they are ordered now."""
        return cls(bar, tasks, examples.references(split), examples.order(split))

    def __call__(self, so_far: Evaluation) -> Evaluation | None:
        """The evaluation to end with.

        Args:
            so_far: what is known, the rest counted at its best.
        """
        if self.bar.out_of_reach(so_far):
            return replace(so_far, stopped_by="exact")
        at_most = self._with_confidence(so_far)
        if at_most is None or not self.bar.out_of_reach(at_most):
            return None
        return at_most

    def _with_confidence(self, so_far: Evaluation) -> Evaluation | None:
        """What is known, the task in progress counted at the most that it is with confidence."""
        if self.bar.confidence is None:
            return None
        error = (1 - self.bar.confidence) / len(self.tasks.tasks)
        parts = dict(so_far.parts)
        for name, part in so_far.parts.items():
            before = self.bar.values.get(name)
            if not 0 < part.examples_scored < part.examples_total or part.values is None or before is None:
                continue
            metric = self.tasks.tasks[name].metric
            weights = metric.weights(self.references[name])
            score = score_at_most(metric, part, before, weights, self.order[name], error)
            parts[name] = replace(part, score=min(score, part.score))
        score = self.tasks.score({name: part.score for name, part in parts.items()})
        return replace(so_far, score=score, parts=parts, stopped_by="confidence")


def score_at_most(
    metric: TaskMetric,
    part: Part,
    incumbent: np.ndarray,
    weights: np.ndarray | None,
    order: np.ndarray,
    error: float,
) -> float:
    """A score that a candidate is below, but with a probability of `error`.

    Args:
        part: what is known of the candidate.
        incumbent: float64 (examples,), the values of what it is compared with.
        weights: float64 (examples,), or None.
        order: int (examples,), drawn at random, in which examples are scored.
    """
    assert part.values is not None
    share = np.ones(len(order)) if weights is None else weights * (len(order) / weights.sum())
    if not (np.isfinite(incumbent).all() and np.isfinite(share).all()):
        return math.inf
    scored = order[: part.examples_scored]
    differences = share[scored] * (part.values[scored] - incumbent[scored])
    bounds = share[order] * (metric.best - incumbent[order])
    sample = not (metric.greater_is_better and math.isfinite(metric.best))
    grain = _GRAIN * float(np.mean(np.abs(share * incumbent)))
    limit = upper_limit(differences, bounds, error, sample, grain)
    return metric.of_values(incumbent + limit, weights) if math.isfinite(limit) else math.inf
