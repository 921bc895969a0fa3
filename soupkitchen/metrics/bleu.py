"""BLEU of a whole corpus, 0 to 100, as sacrebleu computes it. Extra: metrics.

Post 2018, "A call for clarity in reporting BLEU scores".
"""

from __future__ import annotations

from typing import Any

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
