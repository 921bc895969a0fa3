"""Bits per byte: how many bits a model needs for a byte of text; lower is better, whatever the tokenizer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from soupkitchen.metrics.module import Module, Number, Numbers


class Metric(Module):
    """Σ nats / (ln 2 · Σ bytes), of each text's nats and its (tokens, bytes)."""

    key = "bits_per_byte"
    greater_is_better = False
    inputs = "likelihoods"
    best = 0.0
    features = ((Number, Numbers),)

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        return np.asarray(predictions, float) / math.log(2) / self.weights(references)

    def weights(self, references: Any) -> np.ndarray:
        return np.asarray(references, float)[:, 1]
