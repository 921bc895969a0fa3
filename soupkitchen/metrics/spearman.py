"""Spearman correlation of predicted and right numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import spearmanr

from soupkitchen.metrics.module import Module, Number


class Metric(Module):
    """The rank correlation of predictions with references; 0 where one of them is constant."""

    key = "spearman"
    inputs = "values"
    best = 1.0
    features = ((Number, Number),)

    def of(self, predictions: Any, references: Any) -> float:
        predicted, actual = np.asarray(predictions, float), np.asarray(references, float)
        if len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(actual) == 0:
            return 0.0
        return float(spearmanr(predicted, actual).statistic)
