"""Mean cross-entropy of the right label, in nats: lower is better."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import logsumexp

from soupkitchen.metrics.module import Label, Module, Numbers


class Metric(Module):
    """The mean of -log softmax(logits)[reference], in nats."""

    key = "cross_entropy"
    greater_is_better = False
    inputs = "logits"
    best = 0.0
    features = ((Numbers, Label),)

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        logits = np.asarray(predictions, np.float64)
        right = np.take_along_axis(logits, np.asarray(references)[:, None], axis=1)[:, 0]
        return logsumexp(logits, axis=1) - right
