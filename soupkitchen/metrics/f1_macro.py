"""Macro-F1: the F1 score of each label, averaged over the labels.

As in scikit-learn's ``f1_score(average="macro", zero_division=0)``: over the labels that
occur in predictions or references, or, for rows of 0 and 1, over all columns.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from soupkitchen.metrics.module import Label, Labels, Module


class Metric(Module):
    """The unweighted mean over labels of 2·TP / (2·TP + FP + FN)."""

    key = "f1_macro"
    best = 1.0
    features = ((Label, Label), (Labels, Labels))

    def of(self, predictions: Any, references: Any) -> float:
        predicted, actual = np.asarray(predictions), np.asarray(references)
        if predicted.ndim > 1:
            hits, occurrences = (predicted * actual).sum(0), predicted.sum(0) + actual.sum(0)
            return float(np.mean(2 * hits / np.maximum(occurrences, 1)))
        labels, indices = np.unique([predicted, actual], return_inverse=True)
        predicted, actual = indices.reshape(2, -1)
        occurrences = np.bincount(predicted, minlength=labels.size) + np.bincount(
            actual, minlength=labels.size
        )
        hits = np.bincount(actual[predicted == actual], minlength=labels.size)
        return float(np.mean(2 * hits / occurrences))
