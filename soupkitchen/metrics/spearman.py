"""Spearman correlation of predicted and right numbers."""

from __future__ import annotations

from typing import Any

from scipy.stats import spearmanr

from soupkitchen.metrics.module import Module, Number, correlation


class Metric(Module):
    """The rank correlation of predictions with references; 0 where one of them is constant."""

    key = "spearman"
    inputs = "values"
    best = 1.0
    features = ((Number, Number),)

    def of(self, predictions: Any, references: Any) -> float:
        return correlation(spearmanr, predictions, references)
