"""Shares of what is right: of labels, of texts to the letter, of tags."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Accuracy:
    """The share of predicted labels, or rows of 0 and 1, that equal the reference."""

    name = "accuracy"
    best = 1.0
    binary = True

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        equal = np.equal(predictions, references)
        return equal.reshape(len(equal), -1).all(axis=1)


@dataclass(frozen=True)
class ExactMatch:
    """The share of predictions, texts or labels, that equal the reference to the letter."""

    name = "exact_match"
    best = 1.0
    binary = True

    def per_example(self, predictions: Any, references: Any) -> list[bool]:
        return [str(p) == str(r) for p, r in zip(predictions, references, strict=True)]


@dataclass(frozen=True)
class TokenAccuracy:
    """The share of tags that equal the reference, over all examples together."""

    name = "token_accuracy"
    best = 1.0

    def per_example(self, predictions: Any, references: Any) -> list[float]:
        pairs = zip(predictions, references, strict=True)
        return [float(np.mean([a == b for a, b in zip(p, r, strict=True)])) if r else 1.0 for p, r in pairs]

    def weights(self, references: Any) -> list[int]:
        return [len(tags) for tags in references]
