"""Perplexity: exp of the mean nats a token, over the tokens of all texts; lower is better."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from soupkitchen.metrics.module import Module, Number, Numbers


class Metric(Module):
    """exp(Σ nats / Σ tokens), of each text's nats and its (tokens, bytes)."""

    key = "perplexity"
    greater_is_better = False
    inputs = "likelihoods"
    best = 0.0
    features = ((Number, Numbers),)

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        return np.asarray(predictions, float) / self.weights(references)

    def weights(self, references: Any) -> np.ndarray:
        return np.asarray(references, float)[:, 0]

    def link(self, mean: float) -> float:
        return math.exp(mean) if mean < 700 else math.inf
