"""Entity F1, as seqeval counts: an entity is right if its kind and all its words are. Extra: metrics."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from soupkitchen.metrics.module import Module, Texts, installed


class Metric(Module):
    """The F1 score of entities in sequences of tags such as B-PER, I-PER, O."""

    key = "entity_f1"
    best = 1.0
    features = ((Texts, Texts),)

    def of(self, predictions: Any, references: Any) -> float:
        seqeval = installed("seqeval.metrics", "metrics")
        with warnings.catch_warnings():  # of tags that are no B- or I- of anything
            warnings.simplefilter("ignore")
            return float(seqeval.f1_score(list(references), list(predictions), zero_division=0))

    def statistics(self, predictions: Any, references: Any) -> np.ndarray:
        """Entities that are right, that were predicted, and that there are."""
        entities = installed("seqeval.metrics.sequence_labeling", "metrics").get_entities
        rows = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for written, right in zip(predictions, references, strict=True):
                predicted, actual = set(entities(list(written))), set(entities(list(right)))
                rows.append([len(predicted & actual), len(predicted), len(actual)])
        return np.array(rows, float)

    def of_statistics(self, total: np.ndarray) -> float:
        right, predicted, actual = total
        return float(2 * right / max(1.0, predicted + actual))
