"""ROUGE-L: the overlap of texts in the longest common subsequence of words.

The mean F-measure over the examples. Extra: metrics.

Lin 2004, "ROUGE: A package for automatic evaluation of summaries". Computed by rouge-score,
with its stemmer.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from soupkitchen.metrics.module import Module, Text, installed


class Metric(Module):
    """The mean over examples of the F-measure of the longest common subsequence of words."""

    key = "rouge_l"
    inputs = "texts"
    best = 1.0
    features = ((Text, Text),)

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        scorer = installed("rouge_score.rouge_scorer", "metrics").RougeScorer(["rougeL"], use_stemmer=True)
        pairs = zip(references, predictions, strict=True)
        return np.array([scorer.score(right, written)["rougeL"].fmeasure for right, written in pairs])
