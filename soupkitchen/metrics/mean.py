"""The mean of what a task gives for each example: for functions of one's own, which do the scoring."""

from __future__ import annotations

from typing import Any

import numpy as np

from soupkitchen.metrics.module import Module, Number


class Metric(Module):
    """The mean of the predictions; references have no part in it."""

    key = "mean"
    inputs = "values"
    features = ((Number, Number),)
    best_option = "task.best"
    """The option that says the best, which the metric itself does not know."""

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        return np.asarray(predictions, float)
