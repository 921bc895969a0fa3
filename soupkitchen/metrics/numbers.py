"""Metrics of numbers and of likelihoods: means, errors, correlations, losses."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from soupkitchen.metrics.base import Metric


@dataclass(frozen=True)
class Mean:
    """The mean of the predictions, for functions that score; ignores references.

    Attributes:
        best: the best prediction, or None.
    """

    best: float | None = None

    name = "mean"
    inputs = "values"
    best_option = "task.best"
    """The option that sets `best`."""

    def per_example(self, predictions: Any, references: Any) -> Any:
        return predictions


class Margin(Metric):
    """The mean difference of log-likelihoods, in nats; ignores references."""

    name = "margin"
    inputs = "values"
    best = None

    def per_example(self, predictions: Any, references: Any) -> Any:
        return predictions


class MeanSquaredError(Metric):
    """The mean of (prediction - reference)²; lower is better."""

    name = "mse"
    greater_is_better = False
    inputs = "values"
    best = 0.0

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        return (np.asarray(predictions, float) - np.asarray(references, float)) ** 2


class Pearson(Metric):
    """The linear correlation with the references; 0 if one side is constant."""

    name = "pearson"
    inputs = "values"

    def of(self, predictions: Any, references: Any) -> float:
        from scipy import stats  # slow to import, and other metrics do without

        predicted, actual = np.asarray(predictions, float), np.asarray(references, float)
        if len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(actual) == 0:
            return 0.0
        return float(getattr(stats, f"{self.name}r")(predicted, actual).statistic)


class Spearman(Pearson):
    """The rank correlation with the references; 0 if one side is constant."""

    name = "spearman"


class CrossEntropy(Metric):
    """The mean of -log softmax(logits)[reference], in nats."""

    name = "cross_entropy"
    greater_is_better = False
    inputs = "logits"
    best = 0.0

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        from scipy.special import logsumexp  # slow to import, and other metrics do without

        logits = np.asarray(predictions, np.float64)
        right = np.take_along_axis(logits, np.asarray(references)[:, None], axis=1)[:, 0]
        return logsumexp(logits, axis=1) - right


class Perplexity(Metric):
    """exp(Σ nats / Σ tokens); references are (tokens, bytes)."""

    name = "perplexity"
    greater_is_better = False
    inputs = "likelihoods"
    best = 0.0

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        return np.asarray(predictions, float) / self.weights(references)

    def weights(self, references: Any) -> np.ndarray:
        return np.asarray(references, float)[:, 0]

    def link(self, mean: float) -> float:
        return math.exp(mean) if mean < 700 else math.inf


class BitsPerByte(Metric):
    """Σ nats / (ln 2 · Σ bytes), for any tokenizer; references are (tokens, bytes)."""

    name = "bits_per_byte"
    greater_is_better = False
    inputs = "likelihoods"
    best = 0.0

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        return np.asarray(predictions, float) / math.log(2) / self.weights(references)

    def weights(self, references: Any) -> np.ndarray:
        return np.asarray(references, float)[:, 1]
