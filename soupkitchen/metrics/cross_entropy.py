"""Mean cross-entropy of the right label, in nats: lower is better."""

from __future__ import annotations

import datasets
import evaluate
import numpy as np
from scipy.special import logsumexp


class Metric(evaluate.Metric):
    key = "cross_entropy"
    greater_is_better = False
    inputs = "logits"
    best = 0.0

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="The mean of -log softmax(logits)[reference], in nats.",
            citation="",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float32")),
                    "references": datasets.Value("int64"),
                }
            ),
        )

    def _compute(self, predictions: list[list[float]], references: list[int]) -> dict[str, float]:
        return {self.key: float(np.mean(self.per_example(predictions, references)))}

    def per_example(self, predictions: list[list[float]], references: list[int]) -> np.ndarray:
        logits = np.asarray(predictions, np.float64)
        right = np.take_along_axis(logits, np.asarray(references)[:, None], axis=1)[:, 0]
        return logsumexp(logits, axis=1) - right
