"""Answers cut out of a text, as SQuAD compares them: by their words, the best of several right ones.

A prediction is where the answer begins and ends, in characters of the context, or (-1, -1) for none; a
reference is {"context": text, "answers": texts}, none of which there are where the question has no answer.

Rajpurkar et al. 2016, "SQuAD", section 6.1, arXiv 1606.05250.
Rajpurkar et al. 2018, "Know what you don't know", arXiv 1806.03822.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


@dataclass(frozen=True)
class AnswerExact:
    """The share of answers that equal a right one but for case, punctuation and articles."""

    name = "answer_exact"
    inputs = "values"
    best = 1.0
    binary = True

    def per_example(self, predictions: Any, references: Any) -> list[float]:
        return _best(predictions, references, lambda given, right: float(given == right))


@dataclass(frozen=True)
class AnswerF1:
    """The mean F1 of the words of the answer and of a right one."""

    name = "answer_f1"
    inputs = "values"
    best = 1.0

    def per_example(self, predictions: Any, references: Any) -> list[float]:
        return _best(predictions, references, _f1)


def _best(predictions: Any, references: Any, alike: Callable[[list[str], list[str]], float]) -> list[float]:
    values = []
    for (start, end), told in zip(predictions, references, strict=True):
        given = _words(told["context"][int(start) : int(end)] if start >= 0 else "")
        right = [_words(answer) for answer in told["answers"]] or [[]]
        values.append(max(alike(given, one) for one in right))
    return values


def _f1(given: list[str], right: list[str]) -> float:
    if not given or not right:
        return float(given == right)
    common = sum((Counter(given) & Counter(right)).values())
    return 2 * common / (len(given) + len(right))


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()
