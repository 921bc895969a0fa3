"""Pearson correlation of predicted and right numbers."""

from __future__ import annotations

from typing import Any

from scipy.stats import pearsonr

from soupkitchen.metrics.module import Module, Number, correlation


class Metric(Module):
    """The linear correlation of predictions with references; 0 where one of them is constant."""

    key = "pearson"
    inputs = "values"
    best = 1.0
    features = ((Number, Number),)

    def of(self, predictions: Any, references: Any) -> float:
        return correlation(pearsonr, predictions, references)
