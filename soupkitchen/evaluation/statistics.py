"""Intervals of scores and gains: the bootstrap over examples, and McNemar's test.

Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
McNemar 1947, "Note on the sampling error of the difference between correlated proportions".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest, bootstrap

from soupkitchen.evaluation.outcome import Evaluation, Part
from soupkitchen.metrics import Rows, TaskMetric, shares, weighted_mean
from soupkitchen.tasks import Several

RESAMPLES = 1000

_GOOD = 5
"""Runs beside the best one that say how far scores differ by chance."""
_AT_ONCE = 1_000_000
"""Examples drawn at a time."""

Resamples = Sequence[np.ndarray]
"""Drawn examples by task: (resamples, examples)."""

Rescorer = Callable[[Resamples], np.ndarray]
"""Scores of resamples: (resamples,)."""

References = Mapping[str, Rows]
"""Right answers by task, in the data's order."""


@dataclass(frozen=True)
class Comparison:
    """A candidate beside the incumbent, on the same examples.

    Attributes:
        fixed, broken: examples on which the candidate does better, and worse; None if the metric has no
            values by example.
        gain: in score; more is better.
        interval: of the gain, 95 % paired bootstrap, or None.
        p_value: one-sided: McNemar's exact test if examples are right or wrong, else the share of resamples
            without a gain; or None.
    """

    fixed: int | None
    broken: int | None
    gain: float
    interval: tuple[float, float] | None
    p_value: float | None


def confidence_interval(
    evaluation: Evaluation, tasks: Several, references: References, level: float = 0.95
) -> tuple[float, float] | None:
    """The percentile bootstrap interval of a score, higher better.

    None for NaN, a task with one example, and a metric that is no mean and too slow to resample.
    """
    if math.isnan(evaluation.score):
        return None
    rescorer = _rescorer(evaluation, tasks, references)
    return _interval(rescorer, evaluation, _plain(evaluation, tasks), level)[0]


def compare(
    candidate: Evaluation, incumbent: Evaluation, tasks: Several, references: References
) -> Comparison:
    gain = candidate.score - incumbent.score
    if math.isnan(gain):
        return Comparison(None, None, gain, None, None)
    fixed = broken = None
    differences = _differences(candidate, incumbent)
    if differences is not None:
        fixed, broken = int((differences > 0).sum()), int((differences < 0).sum())
    interval, resampled = _resampled(candidate, incumbent, differences, tasks, references)
    if differences is not None and right_or_wrong(tasks):
        p_value: float | None = mcnemar(differences)
    else:
        p_value = None if resampled is None else (1 + float((resampled <= 0).sum())) / (1 + RESAMPLES)
    return Comparison(fixed, broken, gain, interval, p_value)


def noise(evaluations: Sequence[Evaluation], tasks: Several, references: References) -> float | None:
    """The standard error of a difference in score between good models: smaller gains may be chance.

    The median over the first of `evaluations`, which come best first, beside each of the next few; None if it
    cannot be had.
    """
    known = [one for one in evaluations if not math.isnan(one.score)]
    errors = [_standard_error(one, known[0], tasks, references) for one in known[1 : 1 + _GOOD]]
    found = [error for error in errors if error is not None]
    return float(np.median(found)) if found else None


def _standard_error(
    one: Evaluation, best: Evaluation, tasks: Several, references: References
) -> float | None:
    """The standard error of a difference in score: from the examples that both have, or by resampling."""
    if any(part.values is None for part in best.parts.values()):
        if not (one.complete and best.complete):
            return None
        _, resampled = _resampled(one, best, None, tasks, references)
        return None if resampled is None else float(resampled.std())
    square = 0.0
    for name, part in best.parts.items():
        metric, values, total = tasks.tasks[name].metric, one.parts[name].values, part.examples_total
        assert part.values is not None
        assert values is not None
        both = part.scored & one.parts[name].scored
        if both.sum() < 2:
            return None
        weights = metric.weights(references[name])
        error = (shares(weights, total) * (values - part.values))[both].std(ddof=1) / math.sqrt(total)
        raised = metric.of_mean(float(weighted_mean(part.values, weights)) + error)
        square += (tasks.score({**best.scores, name: raised}) - best.score) ** 2
    return math.sqrt(square)


def mcnemar(differences: np.ndarray) -> float:
    """McNemar's exact one-sided p-value of differences by example, each 1, 0 or −1.

    With unscored examples counted as right, it is the least possible p-value.
    """
    fixed, broken = int((differences > 0).sum()), int((differences < 0).sum())
    if fixed + broken == 0:
        return 1.0
    return float(binomtest(fixed, fixed + broken, 0.5, alternative="greater").pvalue)


def right_or_wrong(tasks: Several) -> bool:
    """Tells whether there is one task, with right or wrong examples, as McNemar's test needs."""
    first, *others = tasks.tasks.values()
    return not others and first.metric.binary


def least_p(tasks: Several, examples: int) -> float | None:
    """The least p-value that `compare` can give; None if it gives none."""
    if right_or_wrong(tasks):
        return 0.5**examples
    metrics = [task.metric for task in tasks.tasks.values()]
    return 1 / (1 + RESAMPLES) if all(metric.can_be_resampled for metric in metrics) else None


def _resampled(
    candidate: Evaluation,
    incumbent: Evaluation,
    differences: np.ndarray | None,
    tasks: Several,
    references: References,
) -> tuple[tuple[float, float] | None, np.ndarray | None]:
    """The interval of the gain, and the gains of resamples: as `_interval` gives them."""
    one, other = (_rescorer(evaluation, tasks, references) for evaluation in (candidate, incumbent))
    both = one and other and (lambda drawn: one(drawn) - other(drawn))
    return _interval(both, candidate, differences if _plain(candidate, tasks) is not None else None)


def _differences(candidate: Evaluation, incumbent: Evaluation) -> np.ndarray | None:
    differences = []
    for name, part in candidate.parts.items():
        before = incumbent.parts[name].values
        if part.values is None or before is None:
            return None
        differences.append(part.values - before)
    return np.concatenate(differences)


def _rescorer(evaluation: Evaluation, tasks: Several, references: References) -> Rescorer | None:
    """Makes a function that scores resamples; None if that is not quick."""
    by_task = {}
    for name, part in evaluation.parts.items():
        rescored = _of_task(part, tasks.tasks[name].metric, references[name])
        if rescored is None or part.examples_total < 2:
            return None
        by_task[name] = rescored

    def scores(drawn: Resamples) -> np.ndarray:
        columns = [score(indices) for score, indices in zip(by_task.values(), drawn, strict=True)]
        rows = zip(*columns, strict=True)
        return np.array([tasks.score(dict(zip(by_task, row, strict=True))) for row in rows])

    return scores


def _of_task(
    part: Part, metric: TaskMetric, references: Rows
) -> Callable[[np.ndarray], Sequence[float]] | None:
    if (values := part.values) is not None:
        weights = metric.weights(references)

        def of_means(drawn: np.ndarray) -> Sequence[float]:
            means = weighted_mean(values[drawn], None if weights is None else weights[drawn])
            return [metric.of_mean(mean) for mean in means.tolist()]

        return of_means
    if (statistics := metric.statistics(part.predictions, references)) is not None:
        return lambda drawn: [metric.of_statistics(statistics[one].sum(0)) for one in drawn]
    if metric.quick(part.predictions, references) is None:
        return None
    predicted, right = _rows(part.predictions), _rows(references)

    def quick(drawn: np.ndarray) -> list[float]:
        scores = (metric.quick(predicted[numbers], right[numbers]) for numbers in drawn)
        return [score for score in scores if score is not None]

    return quick


def _interval(
    statistic: Rescorer | None, evaluation: Evaluation, plain: np.ndarray | None, level: float = 0.95
) -> tuple[tuple[float, float] | None, np.ndarray | None]:
    """The percentile interval of a resampled statistic, and its values; fast if it is the mean of `plain`."""
    if statistic is None:
        return None, None
    sizes = [part.examples_total for part in evaluation.parts.values()]
    options = {
        "n_resamples": RESAMPLES,
        "batch": max(1, _AT_ONCE // max(sizes)),
        "confidence_level": level,
        "method": "percentile",
        "rng": 0,
    }
    if plain is not None:
        result = bootstrap((plain,), np.mean, **options)
    else:
        indices = [np.arange(size) for size in sizes]
        result = bootstrap(indices, lambda *drawn, axis: statistic(drawn), vectorized=True, **options)
    interval = result.confidence_interval
    return (float(interval.low), float(interval.high)), result.bootstrap_distribution


def _plain(evaluation: Evaluation, tasks: Several) -> np.ndarray | None:
    """The values by example if the score is just their mean."""
    (name, part), *others = evaluation.parts.items()
    alone = not others and tasks.tasks[name].metric.is_plain_mean and part.score == evaluation.score
    return part.values if alone else None


def _rows(rows: Rows) -> np.ndarray:
    if isinstance(rows, np.ndarray):
        return rows
    array = np.empty(len(rows), dtype=object)
    for index, row in enumerate(rows):
        array[index] = row
    return array
