"""Exact match: the share of predictions, texts or labels, that equal the reference to the letter."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np


class Metric(evaluate.Metric):
    key = "exact_match"
    greater_is_better = True
    inputs = "labels"
    best = 1.0
    binary = True

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="The share of predictions that equal the reference to the letter.",
            citation="",
            features=[
                datasets.Features({"predictions": datasets.Value(kind), "references": datasets.Value(kind)})
                for kind in ("string", "int64")
            ],
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, float]:
        return {self.key: float(np.mean(self.per_example(predictions, references)))}

    def per_example(self, predictions: list[str], references: list[str]) -> np.ndarray:
        pairs = zip(predictions, references, strict=True)
        return np.array([str(prediction) == str(reference) for prediction, reference in pairs], float)
