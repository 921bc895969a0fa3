"""BLEU of a whole corpus, 0 to 100, as sacrebleu computes it. Extra: metrics.

Post 2018, "A call for clarity in reporting BLEU scores".
"""

from __future__ import annotations

from typing import Any

import numpy as np

from soupkitchen.metrics.module import Module, Text, installed


class Metric(Module):
    """Corpus BLEU with sacrebleu's defaults."""

    key = "bleu"
    inputs = "texts"
    best = 100.0
    features = ((Text, Text),)

    def of(self, predictions: Any, references: Any) -> float:
        return float(
            installed("sacrebleu", "metrics").corpus_bleu(list(predictions), [list(references)]).score
        )

    def statistics(self, predictions: Any, references: Any) -> np.ndarray:
        """Lengths of prediction and reference, then matches and numbers of n-grams of each order."""
        bleu = installed("sacrebleu", "metrics").BLEU(effective_order=True)
        scores = [
            bleu.sentence_score(written, [right])
            for written, right in zip(predictions, references, strict=True)
        ]
        return np.array([[one.sys_len, one.ref_len, *one.counts, *one.totals] for one in scores], float)

    def of_statistics(self, total: np.ndarray) -> float:
        numbers = [round(number) for number in total]
        orders = (len(numbers) - 2) // 2
        correct, totals = numbers[2 : 2 + orders], numbers[2 + orders :]
        bleu = installed("sacrebleu", "metrics").BLEU
        return float(bleu.compute_bleu(correct, totals, *numbers[:2], smooth_method="exp").score)
