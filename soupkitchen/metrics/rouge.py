"""ROUGE: the overlap of texts in words, pairs of words, or the longest common subsequence of words.

The mean F-measure over the examples. Extra: metrics.

Lin 2004, "ROUGE: A package for automatic evaluation of summaries". Computed by rouge-score,
with its stemmer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from soupkitchen.metrics.extras import installed


@dataclass(frozen=True)
class Rouge1:
    """The mean over examples of the F-measure of words."""

    name = "rouge1"
    inputs = "texts"
    best = 1.0

    def per_example(self, predictions: Any, references: Any) -> list[float]:
        return _f_measures("rouge1", predictions, references)


@dataclass(frozen=True)
class Rouge2:
    """The mean over examples of the F-measure of pairs of words."""

    name = "rouge2"
    inputs = "texts"
    best = 1.0

    def per_example(self, predictions: Any, references: Any) -> list[float]:
        return _f_measures("rouge2", predictions, references)


@dataclass(frozen=True)
class RougeL:
    """The mean over examples of the F-measure of the longest common subsequence of words."""

    name = "rouge_l"
    inputs = "texts"
    best = 1.0

    def per_example(self, predictions: Any, references: Any) -> list[float]:
        return _f_measures("rougeL", predictions, references)


def _f_measures(overlap: str, predictions: Any, references: Any) -> list[float]:
    scorer = installed("rouge_score.rouge_scorer", "metrics").RougeScorer([overlap], use_stemmer=True)
    pairs = zip(references, predictions, strict=True)
    return [scorer.score(right, written)[overlap].fmeasure for right, written in pairs]
