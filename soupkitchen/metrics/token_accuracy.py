"""Token accuracy: the share of tags that are right, over all examples together."""

from __future__ import annotations

from typing import Any

import numpy as np

from soupkitchen.metrics.module import Module, Texts


class Metric(Module):
    """The share of tags that equal the reference."""

    key = "token_accuracy"
    best = 1.0
    features = ((Texts, Texts),)

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        pairs = zip(predictions, references, strict=True)
        return np.array(
            [np.mean([a == b for a, b in zip(p, r, strict=True)]) if r else 1.0 for p, r in pairs]
        )

    def weights(self, references: Any) -> np.ndarray:
        return np.array([len(tags) for tags in references], float)
