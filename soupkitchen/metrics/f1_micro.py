"""Micro-F1 of multi-label predictions: the F1 score of all labels of all examples together."""

from __future__ import annotations

from typing import Any

import numpy as np

from soupkitchen.metrics.module import Labels, Module


class Metric(Module):
    """2·TP / (2·TP + FP + FN), counted over all entries of rows of 0 and 1."""

    key = "f1_micro"
    best = 1.0
    features = ((Labels, Labels),)

    def of(self, predictions: Any, references: Any) -> float:
        predicted, actual = np.asarray(predictions), np.asarray(references)
        return float(2 * (predicted * actual).sum() / max(1, predicted.sum() + actual.sum()))
