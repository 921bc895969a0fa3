"""Accuracy: the share of examples whose predicted label (or set of labels) is the right one."""

from __future__ import annotations

from typing import Any

import numpy as np

from soupkitchen.metrics.module import Label, Labels, Module


class Metric(Module):
    """The share of predicted labels, or rows of 0 and 1, that equal the reference."""

    key = "accuracy"
    best = 1.0
    binary = True
    features = ((Label, Label), (Labels, Labels))

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        equal = np.equal(predictions, references)
        return equal.reshape(len(equal), -1).all(axis=1).astype(np.float64)
