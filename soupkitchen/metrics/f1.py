"""F1 scores: 2·TP / (2·TP + FP + FN), of labels and of entities; 0 where there are none."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np

from soupkitchen.metrics.extras import installed


@dataclass(frozen=True)
class MacroF1:
    """The unweighted mean over labels of the F1 score of each.

    As in scikit-learn's ``f1_score(average="macro", zero_division=0)``: over the labels that
    occur in predictions or references, or, for rows of 0 and 1, over all columns.
    """

    name = "f1_macro"
    best = 1.0

    def of(self, predictions: Any, references: Any) -> float:
        predicted, actual = np.asarray(predictions), np.asarray(references)
        if predicted.ndim > 1:
            return float(np.mean(_f1((predicted * actual).sum(0), predicted.sum(0) + actual.sum(0))))
        labels, indices = np.unique([predicted, actual], return_inverse=True)
        predicted, actual = indices.reshape(2, -1)
        hits = np.bincount(actual[predicted == actual], minlength=labels.size)
        return float(np.mean(_f1(hits, np.bincount(indices.ravel(), minlength=labels.size))))


@dataclass(frozen=True)
class MicroF1:
    """The F1 score of all labels of all examples together, counted over all entries of rows of 0 and 1."""

    name = "f1_micro"
    best = 1.0

    def of(self, predictions: Any, references: Any) -> float:
        predicted, actual = np.asarray(predictions), np.asarray(references)
        return float(_f1((predicted * actual).sum(), predicted.sum() + actual.sum()))


@dataclass(frozen=True)
class EntityF1:
    """The F1 score of entities in sequences of tags such as B-PER, I-PER, O, as seqeval counts.

    An entity is right if its kind and all its words are. Extra: metrics.
    """

    name = "entity_f1"
    best = 1.0

    def statistics(self, predictions: Any, references: Any) -> list[list[int]]:
        """Entities that are right, that were predicted, and that there are."""
        entities = installed("seqeval.metrics.sequence_labeling", "metrics").get_entities
        rows = []
        with warnings.catch_warnings():  # of tags that are no B- or I- of anything
            warnings.simplefilter("ignore")
            for written, right in zip(predictions, references, strict=True):
                if len(written) != len(right):
                    raise ValueError(f"{len(written)} tags for {len(right)} words")
                predicted, actual = set(entities(list(written))), set(entities(list(right)))
                rows.append([len(predicted & actual), len(predicted), len(actual)])
        return rows

    def of_statistics(self, total: np.ndarray) -> float:
        right, predicted, actual = total
        precision, recall = right / max(1, predicted), right / max(1, actual)
        return 2 * precision * recall / (precision + recall or 1)  # seqeval's order, to the last bit


def _f1(hits: Any, occurrences: Any) -> Any:
    """Of true positives, and of how often labels are predicted or right: 2·TP + FP + FN."""
    return 2 * hits / np.maximum(occurrences, 1)
