"""Means over numbers: of what a task gives for each example, and of squared errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Mean:
    """The mean of the predictions, for functions that do the scoring; references have no part in it.

    Attributes:
        best: the best that a prediction can be; None where there is no such.
    """

    best: float | None = None

    name = "mean"
    inputs = "values"
    best_option = "task.best"
    """The option that says the best, which the metric itself does not know."""

    def per_example(self, predictions: Any, references: Any) -> Any:
        return predictions


@dataclass(frozen=True)
class MeanSquaredError:
    """The mean of (prediction - reference)²; lower is better."""

    name = "mse"
    greater_is_better = False
    inputs = "values"
    best = 0.0

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        return (np.asarray(predictions, float) - np.asarray(references, float)) ** 2
