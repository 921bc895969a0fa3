"""Discards a candidate that is as good as sure not to be kept, from the first examples in random order."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from soupkitchen.evaluation.bets import excluded_after, upper_limit
from soupkitchen.evaluation.outcome import Evaluation, Part
from soupkitchen.evaluation.prediction import Known, chances_of, features_of, residuals
from soupkitchen.evaluation.scoring import EarlyStopping, Examples, Order, Threshold
from soupkitchen.metrics import Rows, TaskMetric, shares, weighted_mean
from soupkitchen.search import AcceptRule
from soupkitchen.tasks import Several

_GRAIN = 1e-6
"""Smaller differences, relative to the incumbent's mean value, are rounding."""
_STEP, _NEAR = 1e-4, 0.1


@dataclass(frozen=True)
class ConfidentThreshold(Threshold):
    """A threshold that may also discard a candidate that is as good as sure not to reach it.

    The scored examples of the task in progress give an upper limit for its mean difference to the incumbent,
    and so for the candidate's score; the rule then decides on that. Tasks are scored one after the other,
    others count as they are or at their best, so one limit is in use at any time, and each task has its share
    of the error. What is accepted was scored in full.

    Attributes:
        confidence: with which a candidate may be discarded.
        values: the incumbent's, by task and example.
        features: float64 (examples, q), by task, which predict differences; those of no task may be there.
        chances: float64 (examples,), by task, by which examples were drawn.
    """

    confidence: float = 1.0
    values: Mapping[str, np.ndarray | None] = field(default_factory=dict, repr=False)
    features: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    chances: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)

    def ended(
        self, so_far: Evaluation, tasks: Several, references: Mapping[str, Rows], order: Order
    ) -> Evaluation | None:
        if (exact := super().ended(so_far, tasks, references, order)) is not None:
            return exact
        at_most = self.at_most(so_far, tasks, references, order)
        if not self.out_of_reach(at_most):
            return None
        return replace(at_most, explained=self._explained(so_far, tasks, references, order))

    def at_most(
        self, so_far: Evaluation, tasks: Several, references: Mapping[str, Rows], order: Order
    ) -> Evaluation:
        """The evaluation with the task in progress at its upper limit."""
        error = (1 - self.confidence) / len(tasks.tasks)
        parts = dict(so_far.parts)
        for name, part, before in self._unfinished(so_far):
            metric = tasks.tasks[name].metric
            weights = metric.weights(references[name])
            told = self.features.get(name), self.chances.get(name)

            def score_of(mean: float, name: str = name, metric: TaskMetric = metric) -> float:
                return tasks.score({**so_far.scores, name: metric.of_mean(mean)})

            aim = self._aim(float(weighted_mean(before, weights)), score_of)
            quick = tasks.alone is not None  # of several tasks each limit counts
            score = score_at_most(metric, part, before, weights, order[name], error, *told, aim, quick)
            parts[name] = replace(part, score=min(score, part.score))
        score = tasks.score({name: part.score for name, part in parts.items()})
        return replace(so_far, score=score, parts=parts, stopped_by="confidence")

    def _aim(self, mean: float, score: Callable[[float], float]) -> float:
        """The mean difference that the rule asks for, about.

        Args:
            mean: the incumbent's value.
            score: that of all tasks, by the mean of this one.
        """
        wanted = (
            self.rule.margin if self.above is None else max(self.rule.margin, self.above - self.incumbent)
        )
        step = _STEP * max(abs(mean), _STEP)
        slope = (score(mean + step) - score(mean)) / step
        aim = wanted / slope if slope > 0 else 0.0
        return aim if math.isfinite(aim) else 0.0

    def _explained(
        self, so_far: Evaluation, tasks: Several, references: Mapping[str, Rows], order: Order
    ) -> float | None:
        """The share of the differences' variance that features explain, in the task in progress."""
        for name, part, before in self._unfinished(so_far):
            metric = tasks.tasks[name].metric
            weights = metric.weights(references[name])
            told = self.features.get(name), self.chances.get(name)
            seen = _seen(metric, part, before, weights, order[name], *told)
            return residuals(seen.differences, seen.bounds, seen.features, seen.chances).explained
        return None

    def _unfinished(self, so_far: Evaluation) -> Iterator[tuple[str, Part, np.ndarray]]:
        """The task in progress, its part, and the incumbent's values; none where these are not known."""
        for name, part in so_far.parts.items():
            before = self.values.get(name)
            begun = 0 < part.examples_scored < part.examples_total
            if begun and part.values is not None and before is not None:
                yield name, part, before


@dataclass(frozen=True)
class ConfidentStopping(EarlyStopping):
    """Stops scoring once the decision is certain, or almost.

    Where examples are right or wrong, certainty comes sooner than confidence, as it may have the hardest ones
    first.
    """

    confidence: float

    def arrange(
        self, examples: Examples, tasks: Several, split: str, best: Evaluation, pool: Sequence[Evaluation]
    ) -> None:
        if tasks.binary:
            super().arrange(examples, tasks, split, best, pool)
        else:
            metrics = {name: task.metric for name, task in tasks.tasks.items()}
            examples.shuffle(split, chances_of(best, pool, metrics, examples.references(split)))

    def threshold(
        self,
        rule: AcceptRule,
        incumbent: Evaluation,
        tasks: Several,
        examples: Examples,
        above: float | None = None,
        known: Sequence[Known] = (),
        others: Sequence[Evaluation] = (),
    ) -> Threshold:
        exact = Threshold.of(rule, incumbent, tasks, above)
        chances = examples.shuffled.get(incumbent.split)
        if chances is None:
            return exact
        values = {name: part.values for name, part in incumbent.parts.items()}
        metrics = {name: task.metric for name, task in tasks.tasks.items()}
        references = examples.references(incumbent.split)
        features = features_of(known, incumbent, metrics, references, others)
        return ConfidentThreshold(
            **vars(exact), confidence=self.confidence, values=values, features=features, chances=chances
        )


def score_at_most(
    metric: TaskMetric,
    part: Part,
    incumbent: np.ndarray,
    weights: np.ndarray | None,
    order: np.ndarray,
    error: float,
    features: np.ndarray | None = None,
    chances: np.ndarray | None = None,
    aim: float = 0.0,
    quick: bool = False,
) -> float:
    """A score that a candidate is below, but with a probability of `error`.

    Args:
        part: the candidate's scored examples.
        incumbent: float64 (examples,), the values of what it is compared with.
        weights: float64 (examples,), or None.
        order: int (examples,), drawn at random, in which examples are scored.
        features: float64 (examples, q), which predict differences.
        chances: float64 (examples,), by which they were drawn; None for equal ones.
        aim: the mean difference that the limit should fall below soon.
        quick: a limit well above that is not computed, and is infinite.
    """
    if not (np.isfinite(incumbent).all() and (weights is None or np.isfinite(weights).all())):
        return math.inf
    seen = _seen(metric, part, incumbent, weights, order, features, chances)
    sample = not (metric.greater_is_better and math.isfinite(metric.best))
    known = seen.differences, seen.bounds, error, sample, seen.grain
    told = seen.features, seen.chances
    if quick and excluded_after(*known, aim + _NEAR * abs(aim) + seen.grain, *told) is None:
        return math.inf
    limit = upper_limit(*known, *told, aim)
    return metric.of_values(incumbent + limit, weights) if math.isfinite(limit) else math.inf


class _Seen(NamedTuple):
    """The known differences of a candidate, in the order drawn, each by what it counts in the mean."""

    differences: np.ndarray
    bounds: np.ndarray
    features: np.ndarray | None
    chances: np.ndarray | None
    grain: float


def _seen(
    metric: TaskMetric,
    part: Part,
    incumbent: np.ndarray,
    weights: np.ndarray | None,
    order: np.ndarray,
    features: np.ndarray | None,
    chances: np.ndarray | None,
) -> _Seen:
    assert part.values is not None
    share = shares(weights, len(order))
    scored = order[: part.examples_scored]
    return _Seen(
        share[scored] * (part.values[scored] - incumbent[scored]),
        share[order] * (metric.best - incumbent[order]),
        None if features is None else share[order, None] * features[order],
        None if chances is None else chances[order],
        _GRAIN * float(np.mean(np.abs(share * incumbent))),
    )
