"""Metrics of several answers that were drawn for each prompt."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import comb
from typing import Any

import numpy as np

from soupkitchen.metrics.base import TaskMetric


@dataclass(frozen=True)
class Sampled:
    """The mean of a metric over the answers to a prompt, or pass@k; predictions are JSON lists of texts.

    pass@k is the probability that one of k answers is right. With c of n right it is estimated without bias
    as 1 − C(n − c, k) / C(n, k) (Chen et al. 2021, arXiv 2107.03374, section 2.1).

    Attributes:
        metric: of one answer, a mean over examples.
        pass_at: k; None for the mean.
    """

    metric: TaskMetric
    pass_at: int | None = None

    inputs = "texts"

    @property
    def best(self) -> float | None:
        best: float | None = getattr(self.metric.module, "best", None)
        return best

    @property
    def compares(self) -> bool:
        return self.metric.compares

    @property
    def reads_rows(self) -> bool:
        return self.metric.reads_rows

    def source(self) -> list[str]:
        return [*self.metric.identity(), str(self.pass_at)]

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        answers = [json.loads(texts) for texts in predictions]
        each = [reference for reference, texts in zip(references, answers, strict=True) for _ in texts]
        flat = [text for texts in answers for text in texts]
        values = np.asarray(self.metric.module.per_example(flat, each), float).reshape(len(answers), -1)
        if self.pass_at is None:
            mean: np.ndarray = values.mean(axis=1)
            return mean
        n, k = values.shape[1], self.pass_at
        return np.array([1 - comb(n - int(right), k) / comb(n, k) for right in values.sum(axis=1)])
