"""Accuracy: the share of examples whose predicted label is the right one."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np


class Metric(evaluate.Metric):
    key = "accuracy"
    greater_is_better = True
    inputs = "labels"
    best = 1.0
    binary = True

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="The share of predicted labels that equal the reference.",
            citation="",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return {self.key: float(np.mean(self.per_example(predictions, references)))}

    def per_example(self, predictions: list[int], references: list[int]) -> np.ndarray:
        return np.equal(predictions, references).astype(np.float64)
