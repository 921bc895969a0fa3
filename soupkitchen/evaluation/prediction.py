"""Predicts a candidate's differences to the incumbent by facts that are known of all examples already.

After ranking, the value of each run on each held-out example is known. These features say much of what a
merge of the runs does on an example. Let zᵢ be the features of example i, z̄ᵢ their mean over the examples
that are not drawn before i, and bᵢ a slope that depends on the examples before i only. The residual

    yᵢ = dᵢ − bᵢ·(zᵢ − z̄ᵢ)

of the difference dᵢ has, given what came before, the mean of dᵢ, because the i-th example is drawn uniformly
from those that are left. So bets on y (`evaluation.bets`) are as honest as bets on d, whatever the
features are: useless ones cost next to nothing, misleading ones only examples. This is the control variate of
prediction-powered inference: Angelopoulos et al. 2023, Science 382; with bets: arXiv 2505.18000, 2502.04294.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from soupkitchen.evaluation.outcome import Evaluation, Part
from soupkitchen.metrics import Rows, TaskMetric, shares

FIRST, GROWTH = 32, 1.2
"""The slope is fitted from so many examples on, and anew each time that their number has grown so much."""
_RIDGE = 1.0
_GOOD, _LEVELS, _LEAST = 10, 20, 2 / 3
"""For chances: the best runs that say how hard examples are, the levels of that, and the least, in means."""
_CONTRAST = 1.1


@dataclass(frozen=True)
class Residuals:
    """The parts of differences that features do not predict.

    Attributes:
        values: float64 (t,), y.
        most: float64 (t,), the most that each y can be, given the most that each difference can be.
        largest: float64 (t,), the largest prediction for an example that is not drawn yet, less their mean.
        explained: the share of the differences' variance that the features took away, from `FIRST` on.
    """

    values: np.ndarray
    most: np.ndarray
    largest: np.ndarray
    explained: float


def residuals(
    differences: np.ndarray,
    bounds: np.ndarray,
    features: np.ndarray | None = None,
    chances: np.ndarray | None = None,
) -> Residuals:
    """The residuals of the first t of n differences, in the order in which examples are drawn.

    Args:
        differences: float64 (t,).
        bounds: float64 (n,), the most that each difference can be.
        features: float64 (n, q), known of all examples; None for none.
        chances: float64 (n,), by which examples were drawn; None for equal ones.
    """
    t, n = len(differences), len(bounds)
    features = np.zeros((n, 0)) if features is None else features
    chances = np.ones(n) if chances is None else chances
    spread = features.std(axis=0)
    z = (features - features.mean(axis=0))[:, spread > 0] / spread[spread > 0]
    rest = np.cumsum(chances[::-1])[::-1] / (n - np.arange(n))
    undo = (rest / chances)[:t]
    values, most, largest = undo * differences, rest[:t] * _most_from(bounds / chances, 0, t), np.zeros(t)
    sums = np.concatenate([np.zeros((1, z.shape[1])), np.cumsum(z, axis=0)])
    start = FIRST
    while start < t and z.shape[1]:
        end = min(max(int(start * GROWTH), start + 1), t)
        slope = _slope(undo[:start] * differences[:start], undo[:start, None] * z[:start])
        predicted = z @ slope
        still = (sums[-1] - sums[start:end]) @ slope / (n - np.arange(start, end))
        values[start:end] = undo[start:end] * (differences[start:end] - predicted[start:end]) + still
        most[start:end] = rest[start:end] * _most_from((bounds - predicted) / chances, start, end) + still
        largest[start:end] = rest[start:end] * _most_from(predicted / chances, start, end) - still
        start = end
    explained = 0.0
    if t > FIRST and (before := (undo * differences)[FIRST:].var()):
        explained = float(1 - values[FIRST:].var() / before)
    return Residuals(values, most, largest, explained)


def _slope(differences: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The ridge regression of differences on features: float64 (q,)."""
    centred = z - z.mean(axis=0)
    gram = centred.T @ centred + _RIDGE * np.sqrt(len(z)) * np.eye(z.shape[1])
    slope: np.ndarray = np.linalg.solve(gram, centred.T @ (differences - differences.mean()))
    return slope


def _most_from(values: np.ndarray, start: int, end: int) -> np.ndarray:
    """The largest of the values from each of `start` to `end` on."""
    most: np.ndarray = np.maximum.accumulate(values[start:][::-1])[::-1][: end - start]
    return most


def chances_of(
    best: Evaluation,
    pool: Sequence[Evaluation],
    metrics: Mapping[str, TaskMetric],
    references: Mapping[str, Rows],
) -> dict[str, np.ndarray]:
    """The chances by which examples should be drawn, by task whose metric is a mean: float64 (examples,).

    They are in proportion to how much runs differ from the best one on examples that are as hard: the root of
    the mean square, of the median run, and two thirds of the mean at the least. Where runs hardly differ,
    there is little to learn. How hard an example is follows from its mean rank in the best runs that were
    scored in full.
    """
    whole = [one for one in pool if one.complete and not np.isnan(one.score)]
    good = sorted(whole, key=lambda one: -one.score)[:_GOOD]
    chances = {}
    for name, before in best.parts.items():
        if before.values is None:
            continue
        share = shares(metrics[name].weights(references[name]), len(before.values))
        ease = sum(rankdata(one.parts[name].values) for one in (best, *good))
        level = np.argsort(np.argsort(ease, kind="stable")) * _LEVELS // len(before.values)
        runs = []
        for part in (one.parts[name] for one in pool):
            squares = np.square(share * (part.values - before.values))
            usable = part.scored & np.isfinite(squares)
            total = np.bincount(level[usable], squares[usable], _LEVELS)
            number = np.bincount(level[usable], minlength=_LEVELS)
            if number.all() and total.any():
                runs.append(np.sqrt(total / number))
        spread = np.median(runs, axis=0) if runs else np.ones(_LEVELS)
        chances[name] = np.maximum(spread, _LEAST * spread.mean())[level]
    return chances


@dataclass(frozen=True)
class Known:
    """A run in a candidate: how much it counts there, and what it does by itself.

    Attributes:
        share: of the sum of coefficients.
        added: whether the incumbent is without it.
        evaluation: it may be of a part of the examples.
    """

    share: float
    added: bool
    evaluation: Evaluation


def features_of(
    known: Sequence[Known],
    incumbent: Evaluation,
    metrics: Mapping[str, TaskMetric],
    references: Mapping[str, Rows],
    others: Sequence[Evaluation] = (),
) -> dict[str, np.ndarray]:
    """Collects facts that are known of all examples, by task: float64 (examples, q).

    These are the incumbent's value, as a mixture changes what is hard, and differences to it: of runs that
    are new, of all runs in the candidate by their shares, and of `others`; if the metric takes logits, of the
    mixture of the runs' logits, and of the incumbent's own with a little more contrast. An example of which
    nothing is known has 0.
    """
    features = {}
    for name, before in incumbent.parts.items():
        if before.values is None:
            continue
        level = np.where(np.isfinite(before.values), before.values, 0.0)
        columns = [level, *_contrast(before, metrics[name], references[name])]
        parts = [(one, one.evaluation.parts[name]) for one in known]
        parts = [(one, part) for one, part in parts if part.values is not None]
        if parts:
            columns.append(_mean([(one.share, part) for one, part in parts], before.values))
        if new := [(1.0, part) for one, part in parts if one.added]:
            columns.append(_mean(new, before.values))
        columns += _mixed(parts, before, metrics[name], references[name])
        columns += [_mean([(1.0, one.parts[name])], before.values) for one in others]
        features[name] = np.stack(columns, axis=1)
    return features


def _mean(parts: Sequence[tuple[float, Part]], before: np.ndarray) -> np.ndarray:
    """The weighted mean of differences to the incumbent, 0 where one is not known."""
    total = np.zeros(len(before))
    for share, part in parts:
        assert part.values is not None
        difference = part.values - before
        total += share * np.where(part.scored & np.isfinite(difference), difference, 0.0)
    return total / sum(abs(share) for share, _ in parts)


def _contrast(before: Part, metric: TaskMetric, references: Rows) -> list[np.ndarray]:
    """The difference that larger logits would make, if there are logits: runs differ in how sure they are."""
    if metric.inputs != "logits" or before.order is not None:
        return []
    return [_difference(metric, _CONTRAST * np.asarray(before.predictions, np.float64), references, before)]


def _mixed(
    parts: Sequence[tuple[Known, Part]], before: Part, metric: TaskMetric, references: Rows
) -> list[np.ndarray]:
    """The difference of the mixture of logits, if there are some and all are known."""
    if metric.inputs != "logits" or not parts or any(part.order is not None for _, part in parts):
        return []
    logits = [np.asarray(part.predictions, np.float64) for _, part in parts]
    if any(rows.shape != logits[0].shape or rows.ndim != 2 for rows in logits):
        return []
    shares = np.array([one.share for one, _ in parts])
    mixture = np.tensordot(shares / shares.sum(), np.stack(logits), 1)
    return [_difference(metric, mixture, references, before)]


def _difference(metric: TaskMetric, predictions: np.ndarray, references: Rows, before: Part) -> np.ndarray:
    values = metric.per_example(predictions, references)
    assert values is not None
    assert before.values is not None
    difference = values - before.values
    return np.where(np.isfinite(difference), difference, 0.0)
