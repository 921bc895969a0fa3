"""Numbers against labels of 0 and 1: how well the best threshold parts them, or all thresholds together.

What is at or above a threshold counts as 1. Of equal numbers all are, or none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class AveragePrecision:
    """The mean precision over the recalls that thresholds give, as scikit-learn's; 0 where no label is 1."""

    name = "average_precision"
    inputs = "values"
    best = 1.0

    def of(self, predictions: Any, references: Any) -> float:
        right, taken, positive = _counts(predictions, references)
        return float(np.sum(np.diff(right, prepend=0) * right / taken) / max(1, positive))


@dataclass(frozen=True)
class BestAccuracy:
    """The accuracy at the threshold where it is highest, that above all numbers among them."""

    name = "best_accuracy"
    inputs = "values"
    best = 1.0

    def of(self, predictions: Any, references: Any) -> float:
        right, taken, positive = _counts(predictions, references)
        negative = len(references) - positive
        return float(max(negative, np.max(2 * right - taken + negative)) / len(references))


@dataclass(frozen=True)
class BestF1:
    """The F1 score of label 1 at the threshold where it is highest."""

    name = "best_f1"
    inputs = "values"
    best = 1.0

    def of(self, predictions: Any, references: Any) -> float:
        right, taken, positive = _counts(predictions, references)
        return float(np.max(2 * right / (taken + positive)))


def _counts(predictions: Any, references: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """At each threshold how many labels of 1, and how many of all, are taken; and how many of 1 there are."""
    scores, labels = np.asarray(predictions, float), np.asarray(references, int)
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.append(np.diff(scores[order]) != 0, True)
    taken = np.flatnonzero(last_of_equals) + 1
    return np.cumsum(labels[order])[last_of_equals], taken, int(labels.sum())
