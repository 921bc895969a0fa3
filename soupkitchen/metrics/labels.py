"""Metrics of labels: accuracy, F1 scores, and thresholds on numbers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from soupkitchen.metrics.base import Metric, installed


class Accuracy(Metric):
    """The share of labels, or rows of 0 and 1, that are right."""

    name = "accuracy"
    binary = True

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        equal = np.equal(predictions, references)
        return equal.reshape(len(equal), -1).all(axis=1)


class ExactMatch(Metric):
    """The share of texts or labels that equal the reference exactly."""

    name = "exact_match"
    binary = True

    def per_example(self, predictions: Any, references: Any) -> list[bool]:
        return [str(p) == str(r) for p, r in zip(predictions, references, strict=True)]


class TokenAccuracy(Metric):
    """The share of right tags, over all examples together."""

    name = "token_accuracy"

    def per_example(self, predictions: Any, references: Any) -> list[float]:
        pairs = zip(predictions, references, strict=True)
        return [float(np.mean([a == b for a, b in zip(p, r, strict=True)])) if r else 1.0 for p, r in pairs]

    def weights(self, references: Any) -> list[int]:
        return [len(tags) for tags in references]


class MacroF1(Metric):
    """The unweighted mean of the labels' F1 scores: 2·TP / (2·TP + FP + FN), or 0.

    As scikit-learn's ``f1_score(average="macro", zero_division=0)``: over labels in predictions or
    references, or over all columns of 0 and 1.
    """

    name = "f1_macro"

    def of(self, predictions: Any, references: Any) -> float:
        predicted, actual = np.asarray(predictions), np.asarray(references)
        if predicted.ndim > 1:
            return float(np.mean(_f1((predicted * actual).sum(0), predicted.sum(0) + actual.sum(0))))
        labels, indices = np.unique([predicted, actual], return_inverse=True)
        predicted, actual = indices.reshape(2, -1)
        hits = np.bincount(actual[predicted == actual], minlength=labels.size)
        return float(np.mean(_f1(hits, np.bincount(indices.ravel(), minlength=labels.size))))


class MicroF1(Metric):
    """The F1 score over all entries of rows of 0 and 1."""

    name = "f1_micro"

    def of(self, predictions: Any, references: Any) -> float:
        predicted, actual = np.asarray(predictions), np.asarray(references)
        return float(_f1((predicted * actual).sum(), predicted.sum() + actual.sum()))


def _f1(hits: Any, occurrences: Any) -> Any:
    """F1 scores of TP (hits) and 2·TP + FP + FN (occurrences)."""
    return 2 * hits / np.maximum(occurrences, 1)


class EntityF1(Metric):
    """The F1 score of entities in tags (B-PER, I-PER, O), by seqeval. Extra: metrics.

    An entity is right if its kind and all its words are.
    """

    name = "entity_f1"

    def statistics(self, predictions: Any, references: Any) -> list[list[int]]:
        """Numbers of right, predicted and reference entities: (examples, 3)."""
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


class AveragePrecision(Metric):
    """The mean precision over the recalls of all thresholds, as in scikit-learn; 0 without label 1."""

    name = "average_precision"
    inputs = "values"

    def of(self, predictions: Any, references: Any) -> float:
        right, taken, positive = _by_threshold(predictions, references)
        return float(np.sum(np.diff(right, prepend=0) * right / taken) / max(1, positive))


class BestAccuracy(Metric):
    """The accuracy at the best threshold, which may be above all numbers."""

    name = "best_accuracy"
    inputs = "values"

    def of(self, predictions: Any, references: Any) -> float:
        right, taken, positive = _by_threshold(predictions, references)
        negative = len(references) - positive
        return float(max(negative, np.max(2 * right - taken + negative)) / len(references))


class BestF1(Metric):
    """The F1 score of label 1 at the best threshold."""

    name = "best_f1"
    inputs = "values"

    def of(self, predictions: Any, references: Any) -> float:
        right, taken, positive = _by_threshold(predictions, references)
        return float(np.max(2 * right / (taken + positive)))


def _by_threshold(predictions: Any, references: Any) -> tuple[np.ndarray, np.ndarray, int]:
    """Counts labels of 1, and all labels, from each threshold upwards; also all labels of 1."""
    scores, labels = np.asarray(predictions, float), np.asarray(references, int)
    order = np.argsort(-scores, kind="stable")
    last_of_equals = np.append(np.diff(scores[order]) != 0, True)
    taken = np.flatnonzero(last_of_equals) + 1
    return np.cumsum(labels[order])[last_of_equals], taken, int(labels.sum())
