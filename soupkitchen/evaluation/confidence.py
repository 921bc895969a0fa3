"""Upper confidence limits for the mean of n paired differences, from the first t in random order.

The null hypothesis is that the mean of all n is m or more. A gambler bets a share λᵢ of the capital against
it, which depends on earlier differences. After t examples the capital is

    K_t(m) = Π (1 − λᵢ (xᵢ − mᵢ)),    mᵢ = (n m − Σ_{j<i} xⱼ) / (n − i + 1),

with mᵢ the mean of the i-th example under the null hypothesis, drawn without replacement. If no factor can be
negative, K is a nonnegative supermartingale: it ever reaches 1/α with a probability of at most α (Ville),
however often one looks. Each factor grows with m, so all m above a limit are excluded.
Waudby-Smith and Ramdas 2020, "Confidence sequences for sampling without replacement" (arXiv 2006.04347);
2024, "Estimating means of bounded random variables by betting" (arXiv 2010.09686).

No factor is negative if λᵢ (xᵢ − mᵢ) ≤ 1, which needs an upper bound of the differences:

- *proven*: the largest possible differences. The error is α for all data. If differences are far below the
  bound, as those of a language model's losses are, it needs many examples.
- *sampled*: the largest of `SPREADS` root mean squares of the differences so far, `BEYOND` largest gains, and
  the largest loss. A larger gain is clipped; to make up for that, the null hypothesis is lowered a little,
  more if gains are skewed. The error is about α, as with asymptotic confidence sequences (Waudby-Smith et al.
  2021, arXiv 2103.06476), which skewness misleads more. A few large gains of which no example so far gives a
  sign are missed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from soupkitchen.evaluation.outcome import Evaluation, Part
from soupkitchen.evaluation.scoring import EarlyStopping, Examples, Order, Threshold
from soupkitchen.metrics import Rows, TaskMetric
from soupkitchen.search import AcceptRule
from soupkitchen.tasks import Several

SPREADS, BEYOND = 4.0, 1.5
"""The sampled bound: so many root mean squares, and so many largest gains."""
LOWERED, LOWERED_BY_SKEWNESS, SKEWED = 0.015, 0.03, 0.5
"""The null hypothesis is lowered by this many standard deviations, and by more for each unit of skewness
above `SKEWED`.
"""
LEAST_EXAMPLES = 30
"""The sampled bound needs this many examples."""
LEAST_OTHERS = 10
"""It also needs this many differences that are not the commonest one: ties show no spread."""
MOST_SEEN = 0.5
"""It ignores examples after this share of all: if few are left, each weighs too much."""
PROVEN = 0.05
"""The proven bound's share of the error beside a sampled one."""

_LOSES, _LOSES_SAMPLED = 0.8, 0.95  # the largest bets, in shares of the capital
_TINY = 1e-300
_DOUBLINGS, _HALVINGS = 60, 12
_GRAIN = 1e-6
"""Smaller differences, relative to the incumbent's mean value, are rounding."""


@dataclass(frozen=True)
class ConfidentThreshold(Threshold):
    """A threshold that also discards a candidate that almost surely cannot reach it.

    The scored examples of the task in progress give an upper limit of its mean difference to the incumbent,
    and so of the score. Tasks are scored one after the other and share the error equally. Accepted candidates
    are scored in full.

    Attributes:
        values: the incumbent's, by task and example.
    """

    confidence: float = 1.0
    values: Mapping[str, np.ndarray | None] = field(default_factory=dict, repr=False)

    def ended(
        self, so_far: Evaluation, tasks: Several, references: Mapping[str, Rows], order: Order
    ) -> Evaluation | None:
        if (exact := super().ended(so_far, tasks, references, order)) is not None:
            return exact
        at_most = self.at_most(so_far, tasks, references, order)
        return at_most if self.out_of_reach(at_most) else None

    def at_most(
        self, so_far: Evaluation, tasks: Several, references: Mapping[str, Rows], order: Order
    ) -> Evaluation:
        """The evaluation with the task in progress at its upper limit."""
        error = (1 - self.confidence) / len(tasks.tasks)
        parts = dict(so_far.parts)
        for name, part in so_far.parts.items():
            before = self.values.get(name)
            if not 0 < part.examples_scored < part.examples_total or part.values is None or before is None:
                continue
            metric = tasks.tasks[name].metric
            weights = metric.weights(references[name])
            score = score_at_most(metric, part, before, weights, order[name], error)
            parts[name] = replace(part, score=min(score, part.score))
        score = tasks.score({name: part.score for name, part in parts.items()})
        return replace(so_far, score=score, parts=parts, stopped_by="confidence")


@dataclass(frozen=True)
class ConfidentStopping(EarlyStopping):
    """Stops scoring once the decision is certain, or almost."""

    confidence: float

    def arrange(self, examples: Examples, split: str, best: Evaluation, pool: Sequence[Evaluation]) -> None:
        examples.shuffle(split, best)

    def threshold(
        self,
        rule: AcceptRule,
        incumbent: Evaluation,
        tasks: Several,
        examples: Examples,
        above: float | None = None,
    ) -> Threshold:
        exact = Threshold.of(rule, incumbent, tasks, above)
        if not examples.shuffled:
            return exact
        values = {name: part.values for name, part in incumbent.parts.items()}
        return ConfidentThreshold(**vars(exact), confidence=self.confidence, values=values)


def score_at_most(
    metric: TaskMetric,
    part: Part,
    incumbent: np.ndarray,
    weights: np.ndarray | None,
    order: np.ndarray,
    error: float,
) -> float:
    """An upper limit of a candidate's score, wrong with a probability of at most `error`.

    Args:
        incumbent: float64 (examples,), the incumbent's values.
        weights: float64 (examples,), or None.
        order: int (examples,), the random order of scoring.
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


def upper_limit(
    differences: np.ndarray, bounds: np.ndarray, error: float, sample: bool, grain: float = 0.0
) -> float:
    """An upper limit of the mean of n differences, from the first t; infinite if nothing is excluded.

    Args:
        differences: float64 (t,), in random order.
        bounds: float64 (n,), the largest possible differences in that order; infinite if unknown.
        error: of all looks together.
        sample: use the sampled bound, too.
        grain: smaller distances between differences count as ties.

    Returns:
        Up to numerical precision, more examples never raise it.
    """
    limits = [bets.limit() for bets in _bets(differences, bounds, error, sample, grain)]
    return min(limits, default=np.inf)


def excluded_after(
    differences: np.ndarray,
    bounds: np.ndarray,
    error: float,
    sample: bool,
    grain: float = 0.0,
    mean: float = 0.0,
) -> int | None:
    """The number of examples after which `upper_limit` is below `mean` for good; None if never."""
    found = [bets.excluded_after(mean) for bets in _bets(differences, bounds, error, sample, grain)]
    return min((number for number in found if number is not None), default=None)


def _bets(
    differences: np.ndarray, bounds: np.ndarray, error: float, sample: bool, grain: float
) -> Iterator[Bets]:
    if not (len(differences) and np.isfinite(differences).all()):
        return
    bounded = bool(np.isfinite(bounds).all())
    if bounded:
        yield proven(differences, bounds, error * PROVEN if sample else error)
    seen = differences[: int(MOST_SEEN * len(bounds))]
    if sample and len(seen) >= LEAST_EXAMPLES:
        yield sampled(seen, len(bounds), error * (1 - PROVEN) if bounded else error, grain)


@dataclass(frozen=True)
class Bets:
    """Bets on t differences. Arrays are float64 (t,); an entry depends on earlier differences only.

    Attributes:
        differences: x.
        total: n.
        error: α.
        shares: λ.
        lowered: subtracted from mᵢ.
        cut: xᵢ − mᵢ is clipped to this.
        bounds: of later xᵢ, to lower λ; None if λ fits already.
        silent: the number of first examples that exclude nothing.
    """

    differences: np.ndarray
    total: int
    error: float
    shares: np.ndarray
    lowered: np.ndarray | float = 0.0
    cut: np.ndarray | float = np.inf
    bounds: np.ndarray | None = None
    silent: int = 0

    def log_capital(self, mean: float) -> np.ndarray:
        """log K_t(mean) after each example."""
        x, shares = self.differences, self.shares
        expected = (self.total * mean - _before(x)) / (self.total - np.arange(len(x))) - self.lowered
        if self.bounds is not None:
            shares = np.minimum(shares, _LOSES / np.maximum(self.bounds - expected, _TINY))
        return np.cumsum(np.log1p(-shares * np.minimum(x - expected, self.cut)))

    def excluded_after(self, mean: float) -> int | None:
        enough = self.log_capital(mean) >= -np.log(self.error)
        enough[: self.silent] = False
        return int(enough.argmax()) + 1 if enough.any() else None

    def limit(self) -> float:
        """The least excluded mean, by bisection."""
        step = float(np.sqrt(np.mean(np.square(self.differences)))) or 1.0
        low = high = 0.0
        excluded = self.excluded_after(0.0) is not None
        for _ in range(_DOUBLINGS):
            if excluded:
                low, step = high - step, 2 * step
                if self.excluded_after(low) is None:
                    break
                high = low
            else:
                high, step = low + step, 2 * step
                if self.excluded_after(high) is not None:
                    break
                low = high
        else:
            return high if excluded else np.inf
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.excluded_after(middle) is None else (low, middle)
        return high


def proven(differences: np.ndarray, bounds: np.ndarray, error: float) -> Bets:
    """Bets that never lose more than the capital if differences stay within their bounds."""
    seen = np.arange(len(differences))
    still = np.maximum.accumulate(bounds[::-1])[::-1][: len(seen)]  # the largest bound of unknown differences
    mean = _before(differences) / (seen + 1)  # as if a difference of 0 had been seen before
    square = (_before(np.square(differences)) + np.square(still[0] / 2)) / (seen + 1)
    drift = -_before(differences) / (len(bounds) - seen) - mean
    shares = _shares(drift, square - np.square(mean))
    return Bets(differences, len(bounds), error, shares, bounds=still)


def sampled(differences: np.ndarray, total: int, error: float, grain: float = 0.0) -> Bets:
    """Bets that never lose more than the capital, because larger gains are clipped."""
    x, seen = differences, np.arange(len(differences))
    count = np.maximum(seen, 1)
    mean, square, cube = (_before(x**power) / count for power in (1, 2, 3))
    variance = np.maximum(square - np.square(mean), 0.0)
    skewness = (cube - 3 * mean * square + 2 * mean**3) / np.maximum(variance**1.5, _TINY)
    deviation = np.sqrt(variance * count / np.maximum(count - 1, 1))
    others = seen - _most_before(_which_alike(x, grain))
    wide = SPREADS * (1 + 0.5 * LEAST_OTHERS / np.maximum(others, 1))  # while little is known
    cut = np.maximum.reduce([wide * np.sqrt(square), BEYOND * _most_before(x), _most_before(-x)]) + _TINY
    lowered = (LOWERED + LOWERED_BY_SKEWNESS * np.maximum(skewness - SKEWED, 0.0)) * deviation
    drift = -_before(x) / (total - seen) - lowered - mean
    shares = _shares(drift + deviation / np.sqrt(count), np.square(deviation))  # hoping for one error more
    shares = np.minimum(shares, _LOSES_SAMPLED / cut)
    shares[(others < LEAST_OTHERS) | (deviation <= grain)] = 0.0
    return Bets(x, total, error, shares, lowered, cut, silent=LEAST_EXAMPLES - 1)


def _shares(drift: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Approximate Kelly shares if differences are lower than expected by `drift`."""
    drift = np.maximum(drift, 0.0)
    shares: np.ndarray = drift / np.maximum(variance + np.square(drift), _TINY)
    return shares


def _before(x: np.ndarray) -> np.ndarray:
    """Sums of earlier entries."""
    return np.concatenate([[0.0], np.cumsum(x[:-1])])


def _most_before(x: np.ndarray) -> np.ndarray:
    """The largest earlier entry, at least 0."""
    return np.maximum.accumulate(np.concatenate([[0.0], x[:-1]]))


def _which_alike(x: np.ndarray, grain: float) -> np.ndarray:
    """Counts equal values: int (t,), 1 for the first of each."""
    values = np.round(x / grain) if grain > 0 else x
    order, place = np.argsort(values, kind="stable"), np.arange(len(x))
    ordered = values[order]
    is_first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
    number = np.empty(len(x), int)
    number[order] = place - np.maximum.accumulate(np.where(is_first, place, 0)) + 1
    return number
