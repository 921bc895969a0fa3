"""Mean squared error of numbers; lower is better."""

from __future__ import annotations

from typing import Any

import numpy as np

from soupkitchen.metrics.module import Module, Number


class Metric(Module):
    """The mean of (prediction - reference)²."""

    key = "mse"
    greater_is_better = False
    inputs = "values"
    best = 0.0
    features = ((Number, Number),)

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        return (np.asarray(predictions, float) - np.asarray(references, float)) ** 2
