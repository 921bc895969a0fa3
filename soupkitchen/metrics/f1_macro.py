"""Macro-F1: the F1 score of each label, averaged over the labels.

As in scikit-learn's ``f1_score(average="macro", zero_division=0)``: over the
labels that occur in predictions or references, 0 where a label's is undefined.
"""

from __future__ import annotations

import datasets
import evaluate
import numpy as np


class Metric(evaluate.Metric):
    key = "f1_macro"
    greater_is_better = True
    inputs = "labels"
    best = 1.0

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="The unweighted mean over labels of 2·TP / (2·TP + FP + FN).",
            citation="",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {self.key: self.of(predictions, references)}

    def of(self, predictions: list[int], references: list[int]) -> float:
        labels, indices = np.unique([predictions, references], return_inverse=True)
        predicted, actual = indices.reshape(2, -1)
        occurrences = np.bincount(predicted, minlength=labels.size) + np.bincount(
            actual, minlength=labels.size
        )
        hits = np.bincount(actual[predicted == actual], minlength=labels.size)
        return float(np.mean(2 * hits / occurrences))
