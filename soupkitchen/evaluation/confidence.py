"""How sure a score is: the bootstrap over examples."""

from __future__ import annotations

import numpy as np
from scipy.stats import bootstrap

from soupkitchen.evaluation.evaluator import Evaluation
from soupkitchen.metrics import TaskMetric

RESAMPLES = 1000


def confidence_interval(
    evaluation: Evaluation, metric: TaskMetric, level: float = 0.95
) -> tuple[float, float] | None:
    """The percentile bootstrap interval of a score, higher better.

    None for a metric that is neither a mean over examples nor quick to compute
    again on a thousand resamples, and where there is only one example.

    Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.
    """
    if evaluation.examples_scored < 2:
        return None
    options = {"n_resamples": RESAMPLES, "confidence_level": level, "method": "percentile", "rng": 0}
    if (scores := evaluation.per_example) is not None:
        interval = bootstrap((scores,), np.mean, batch=100, **options).confidence_interval
    elif metric.quick(evaluation.predictions, evaluation.references) is not None:
        indices = np.arange(evaluation.examples_scored)

        def resampled(drawn: np.ndarray) -> float | None:
            return metric.quick(evaluation.predictions[drawn], evaluation.references[drawn])

        interval = bootstrap((indices,), resampled, vectorized=False, **options).confidence_interval
    else:
        return None
    return float(interval.low), float(interval.high)
