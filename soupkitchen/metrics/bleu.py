"""BLEU of a whole corpus, 0 to 100, as sacrebleu computes it. Extra: metrics.

Post 2018, "A call for clarity in reporting BLEU scores".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from soupkitchen.metrics.extras import installed


@dataclass(frozen=True)
class Bleu:
    """Corpus BLEU with sacrebleu's defaults."""

    name = "bleu"
    inputs = "texts"
    best = 100.0

    def statistics(self, predictions: Any, references: Any) -> list[list[int]]:
        """Lengths of prediction and reference, then matches and numbers of n-grams of each order."""
        bleu = installed("sacrebleu", "metrics").BLEU(effective_order=True)
        pairs = zip(predictions, references, strict=True)
        scores = [bleu.sentence_score(written, [right]) for written, right in pairs]
        return [[one.sys_len, one.ref_len, *one.counts, *one.totals] for one in scores]

    def of_statistics(self, total: np.ndarray) -> float:
        lengths, orders = total[:2].astype(int).tolist(), total[2:].astype(int).reshape(2, -1).tolist()
        return (
            installed("sacrebleu", "metrics").BLEU.compute_bleu(*orders, *lengths, smooth_method="exp").score
        )
