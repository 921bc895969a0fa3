"""Correlations of predicted with right numbers; 0 where one of them is constant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Pearson:
    """The linear correlation of predictions with references; 0 where one of them is constant."""

    name = "pearson"
    inputs = "values"
    best = 1.0

    def of(self, predictions: Any, references: Any) -> float:
        return _correlation("pearsonr", predictions, references)


@dataclass(frozen=True)
class Spearman:
    """The rank correlation of predictions with references; 0 where one of them is constant."""

    name = "spearman"
    inputs = "values"
    best = 1.0

    def of(self, predictions: Any, references: Any) -> float:
        return _correlation("spearmanr", predictions, references)


def _correlation(coefficient: str, predictions: Any, references: Any) -> float:
    """scipy's `coefficient` of two rows of numbers."""
    from scipy import stats  # whoever looks for another metric need not wait for scipy

    predicted, actual = np.asarray(predictions, float), np.asarray(references, float)
    if len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(actual) == 0:
        return 0.0
    return float(getattr(stats, coefficient)(predicted, actual).statistic)
