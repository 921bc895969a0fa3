"""How sure a score is, and how sure a difference: the bootstrap over examples, and McNemar's test.

Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
McNemar 1947, "Note on the sampling error of the difference between correlated proportions".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, bootstrap

from soupkitchen.evaluation.evaluator import Evaluation, Part
from soupkitchen.metrics import Rows
from soupkitchen.tasks.several import Several

RESAMPLES = 1000

Resampled = tuple[np.ndarray, ...]
"""For each task, the indices of the examples drawn."""


@dataclass(frozen=True)
class Comparison:
    """A candidate beside the incumbent, on the same examples.

    Attributes:
        fixed, broken: examples on which the candidate does better, and worse; None where the
            metric has no values for examples.
        gain: the candidate's score minus the incumbent's; more is better.
        interval: its 95 % paired bootstrap interval; None where it cannot be had.
        p_value: how likely so large a gain is if the candidate is no better (one-sided):
            McNemar's exact test where examples are right or wrong, else the
            share of resamples without a gain. None where neither can be had.
    """

    fixed: int | None
    broken: int | None
    gain: float
    interval: tuple[float, float] | None
    p_value: float | None


def confidence_interval(
    evaluation: Evaluation, tasks: Several, level: float = 0.95
) -> tuple[float, float] | None:
    """The percentile bootstrap interval of a score, higher better.

    None for a metric that is neither a mean over examples nor quick to compute
    again on a thousand resamples, where a task has only one example, and for NaN.
    """
    if math.isnan(evaluation.score):
        return None
    resampled = _bootstrap(
        evaluation, lambda drawn: _score(evaluation, tasks, drawn), _plain(evaluation), level
    )
    return resampled and resampled[0]


def compare(candidate: Evaluation, incumbent: Evaluation, tasks: Several) -> Comparison:
    """How `candidate` differs from `incumbent`; both complete, and of the same examples."""
    gain = candidate.score - incumbent.score
    if math.isnan(gain):
        return Comparison(None, None, gain, None, None)
    fixed = broken = None
    if (differences := _differences(candidate, incumbent)) is not None:
        fixed, broken = int((differences > 0).sum()), int((differences < 0).sum())

    def difference(drawn: Resampled) -> float:
        return _score(candidate, tasks, drawn) - _score(incumbent, tasks, drawn)

    plain = differences if _plain(candidate) is not None else None
    resampled = _bootstrap(candidate, difference, plain)
    p_value = mcnemar_p(candidate, incumbent)
    if p_value is None and resampled is not None:
        p_value = (1 + float((resampled[1] <= 0).sum())) / (1 + RESAMPLES)
    return Comparison(fixed, broken, gain, resampled and resampled[0], p_value)


def mcnemar_p(candidate: Evaluation, incumbent: Evaluation) -> float | None:
    """McNemar's exact one-sided p-value, for one task whose examples are right or wrong; else None.

    Of an incomplete candidate it is the least that the p-value can still be: a wrong
    example turned right can only lower it.
    """
    parts = list(candidate.parts.values())
    if len(parts) != 1 or not parts[0].metric.binary:
        return None
    differences = _differences(candidate, incumbent)
    assert differences is not None
    fixed, broken = int((differences > 0).sum()), int((differences < 0).sum())
    if fixed + broken == 0:
        return 1.0
    return float(binomtest(fixed, fixed + broken, 0.5, alternative="greater").pvalue)


def least_p(tasks: Several, examples: int) -> float | None:
    """The least p-value that `compare` can give for these tasks on so many examples; None for none at all."""
    metrics = [task.metric for task in tasks.tasks.values()]
    if len(metrics) == 1 and metrics[0].binary:
        return 0.5**examples
    return 1 / (1 + RESAMPLES) if all(metric.can_be_resampled for metric in metrics) else None


def _differences(candidate: Evaluation, incumbent: Evaluation) -> np.ndarray | None:
    differences = []
    for name, part in candidate.parts.items():
        before = incumbent.parts[name].values
        if part.values is None or before is None:
            return None
        differences.append(part.values - before)
    return np.concatenate(differences)


def _score(evaluation: Evaluation, tasks: Several, drawn: Resampled) -> float:
    """The score of a resample."""
    scores = {}
    for (name, part), indices in zip(evaluation.parts.items(), drawn, strict=True):
        if part.values is not None:
            weights = None if part.weights is None else part.weights[indices]
            scores[name] = part.metric.of_values(part.values[indices], weights)
        elif part.statistics is not None:
            scores[name] = part.metric.of_statistics(part.statistics[indices].sum(0))
        else:
            quick = part.metric.quick(_rows(part.predictions)[indices], _rows(part.references)[indices])
            assert quick is not None
            scores[name] = quick
    return tasks.score(scores)


def _bootstrap(
    evaluation: Evaluation,
    statistic: Callable[[Resampled], float],
    plain: np.ndarray | None,
    level: float = 0.95,
) -> tuple[tuple[float, float], np.ndarray] | None:
    """The percentile interval of a statistic of resampled examples, and its resampled values.

    `plain` are numbers of which the statistic is the mean, if it is: many times as fast.
    """
    parts = list(evaluation.parts.values())
    if not all(_can_be_resampled(part) for part in parts):
        return None
    options = {"n_resamples": RESAMPLES, "confidence_level": level, "method": "percentile", "rng": 0}
    if plain is not None:
        result = bootstrap((plain,), np.mean, batch=max(1, 1_000_000 // plain.size), **options)
    else:
        indices = tuple(np.arange(part.examples_total) for part in parts)
        result = bootstrap(indices, lambda *drawn: statistic(drawn), vectorized=False, **options)
    interval = result.confidence_interval
    return (float(interval.low), float(interval.high)), result.bootstrap_distribution


def _plain(evaluation: Evaluation) -> np.ndarray | None:
    """The values of the examples, where the score is nothing but their mean."""
    part, *others = evaluation.parts.values()
    alone = not others and part.metric.is_plain_mean and part.score == evaluation.score
    return part.values if alone else None


def _can_be_resampled(part: Part) -> bool:
    if part.examples_total < 2:
        return False
    if part.values is not None or part.statistics is not None:
        return True
    return part.metric.quick(part.predictions, part.references) is not None


def _rows(rows: Rows) -> np.ndarray:
    """An array with one element an example, whatever the rows are."""
    if isinstance(rows, np.ndarray):
        return rows
    array = np.empty(len(rows), dtype=object)
    for index, row in enumerate(rows):
        array[index] = row
    return array
