"""Metrics of texts: ROUGE, BLEU, answers of SQuAD, error rates of transcripts."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from soupkitchen.metrics.base import Metric, installed

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


class Rouge1(Metric):
    """The mean F-measure of words, by rouge-score with its stemmer. Extra: metrics.

    Source: Lin 2004, "ROUGE: A package for automatic evaluation of summaries".
    """

    name = "rouge1"
    inputs = "texts"

    def per_example(self, predictions: Any, references: Any) -> list[float]:
        overlap = self.name.replace("_l", "L")  # rouge-score's name for it
        scorer = installed("rouge_score.rouge_scorer", "metrics").RougeScorer([overlap], use_stemmer=True)
        pairs = zip(references, predictions, strict=True)
        return [scorer.score(right, written)[overlap].fmeasure for right, written in pairs]


class Rouge2(Rouge1):
    """The mean F-measure of pairs of words."""

    name = "rouge2"


class RougeL(Rouge1):
    """The mean F-measure of the longest common subsequence of words."""

    name = "rouge_l"


class Bleu(Metric):
    """Corpus BLEU, 0 to 100, with sacrebleu's defaults. Extra: metrics.

    Source: Post 2018, "A call for clarity in reporting BLEU scores".
    """

    name = "bleu"
    inputs = "texts"
    best = 100.0

    def statistics(self, predictions: Any, references: Any) -> list[list[int]]:
        """Lengths of prediction and reference, then matches and n-grams by order."""
        bleu = installed("sacrebleu", "metrics").BLEU(effective_order=True)
        pairs = zip(predictions, references, strict=True)
        scores = [bleu.sentence_score(written, [right]) for written, right in pairs]
        return [[score.sys_len, score.ref_len, *score.counts, *score.totals] for score in scores]

    def of_statistics(self, total: np.ndarray) -> float:
        lengths, orders = total[:2].astype(int).tolist(), total[2:].astype(int).reshape(2, -1).tolist()
        bleu = installed("sacrebleu", "metrics").BLEU
        return bleu.compute_bleu(*orders, *lengths, smooth_method="exp").score


class AnswerExact(Metric):
    """The share of answers that equal a right one but for case, punctuation and articles.

    A prediction is the answer's start and end in characters of the context, or (-1, -1) for no answer. A
    reference is {"context": text, "answers": texts}.

    Source: Rajpurkar et al. 2016, "SQuAD", section 6.1, arXiv 1606.05250; 2018, arXiv 1806.03822.
    """

    name = "answer_exact"
    inputs = "values"
    binary = True

    def alike(self, given: list[str], right: list[str]) -> float:
        """Compares the words of an answer with those of a right one: 0 to 1."""
        return float(given == right)

    def per_example(self, predictions: Any, references: Any) -> list[float]:
        values = []
        for (start, end), reference in zip(predictions, references, strict=True):
            given = _words(reference["context"][int(start) : int(end)] if start >= 0 else "")
            answers = [_words(answer) for answer in reference["answers"]] or [[]]
            values.append(max(self.alike(given, right) for right in answers))
        return values


class AnswerF1(AnswerExact):
    """The mean F1 of the answer's words and the best right one's; see `AnswerExact`."""

    name = "answer_f1"
    binary = False

    def alike(self, given: list[str], right: list[str]) -> float:
        if not given or not right:
            return float(given == right)
        common = sum((Counter(given) & Counter(right)).values())
        return 2 * common / (len(given) + len(right))


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()


class ErrorRate(Metric):
    """Edits per unit of the references, over all examples together; lower is better, and it may exceed 1.

    An edit inserts, deletes or replaces a unit.
    """

    greater_is_better = False
    inputs = "texts"
    best = 0.0

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        pairs = zip(predictions, references, strict=True)
        return np.array([edits(self.units(p), self.units(r)) for p, r in pairs]) / self.weights(references)

    def weights(self, references: Any) -> np.ndarray:
        lengths = np.array([len(self.units(reference)) for reference in references], float)
        if not lengths.all():
            raise ValueError(
                "a reference is empty, and errors are a share of its length; leave such examples out"
            )
        return lengths

    def units(self, text: str) -> Sequence[str]:
        """The words or characters of a text."""
        raise NotImplementedError


class WordErrorRate(ErrorRate):
    """Σ edits / Σ words of the references."""

    name = "word_error_rate"

    def units(self, text: str) -> list[str]:
        return text.split()


class CharacterErrorRate(ErrorRate):
    """Σ edits / Σ characters of the references, with inner spaces."""

    name = "character_error_rate"

    def units(self, text: str) -> str:
        return text.strip()


def edits(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """The Levenshtein distance: the fewest insertions, deletions and replacements.

    A column of the table of distances is two whole numbers: bit i of `rise` (`fall`) is set if row i + 1 is
    one more (less) than row i.

    Source: Hyyrö 2003, "A bit-vector algorithm for computing Levenshtein and Damerau edit distances",
        section 4.
    """
    if not first:
        return len(second)
    places: dict[Hashable, int] = {}
    for row, entry in enumerate(first):
        places[entry] = places.get(entry, 0) | 1 << row
    every = (1 << len(first)) - 1
    rise, fall, distance = every, 0, len(first)
    for entry in second:
        equal = places.get(entry, 0)
        diagonal = (((equal & rise) + rise) ^ rise) | equal | fall
        more, less = fall | ~(diagonal | rise), rise & diagonal
        distance += (more >> len(first) - 1 & 1) - (less >> len(first) - 1 & 1)
        more, less = more << 1 | 1, less << 1
        rise, fall = (less | ~(diagonal | more)) & every, more & diagonal & every
    return distance
