"""Metrics of likelihoods: losses of what is right. Lower is better."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class CrossEntropy:
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


@dataclass(frozen=True)
class Perplexity:
    """exp(Σ nats / Σ tokens), of each text's nats and its (tokens, bytes)."""

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


@dataclass(frozen=True)
class BitsPerByte:
    """Σ nats / (ln 2 · Σ bytes), of each text's nats and its (tokens, bytes), whatever the tokenizer."""

    name = "bits_per_byte"
    greater_is_better = False
    inputs = "likelihoods"
    best = 0.0

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        return np.asarray(predictions, float) / math.log(2) / self.weights(references)

    def weights(self, references: Any) -> np.ndarray:
        return np.asarray(references, float)[:, 1]
