"""Exact match: the share of predictions, texts or labels, that equal the reference to the letter."""

from __future__ import annotations

from typing import Any

import numpy as np

from soupkitchen.metrics.module import Label, Module, Text


class Metric(Module):
    """The share of predictions that equal the reference to the letter."""

    key = "exact_match"
    best = 1.0
    binary = True
    features = ((Text, Text), (Label, Label))

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        pairs = zip(predictions, references, strict=True)
        return np.array([str(prediction) == str(reference) for prediction, reference in pairs], float)
