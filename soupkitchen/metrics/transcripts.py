"""Error rates of transcripts: how many edits make of what was heard what was said. Lower is better.

An edit puts in, leaves out or replaces one word, or one character. Rates may exceed 1.

Hyyrö 2003, "A bit-vector algorithm for computing Levenshtein and Damerau edit distances", section 4.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class WordErrorRate:
    """Σ edits / Σ words of the references, over all examples together."""

    name = "word_error_rate"
    greater_is_better = False
    inputs = "texts"
    best = 0.0

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        pairs = zip(predictions, references, strict=True)
        return np.array([edits(p.split(), r.split()) for p, r in pairs]) / self.weights(references)

    def weights(self, references: Any) -> np.ndarray:
        return _lengths([reference.split() for reference in references])


@dataclass(frozen=True)
class CharacterErrorRate:
    """Σ edits / Σ characters of the references, with the spaces inside, over all examples together."""

    name = "character_error_rate"
    greater_is_better = False
    inputs = "texts"
    best = 0.0

    def per_example(self, predictions: Any, references: Any) -> np.ndarray:
        pairs = zip(predictions, references, strict=True)
        return np.array([edits(p.strip(), r.strip()) for p, r in pairs]) / self.weights(references)

    def weights(self, references: Any) -> np.ndarray:
        return _lengths([reference.strip() for reference in references])


def edits(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """The least number of entries to put in, leave out or replace that makes `other` of `one`.

    A column of the table of distances between their beginnings is two whole numbers: in bit i of `rise` and
    of `fall` stands whether row i + 1 is one more, or one less, than row i.
    """
    if not one:
        return len(other)
    places: dict[Hashable, int] = {}
    for row, entry in enumerate(one):
        places[entry] = places.get(entry, 0) | 1 << row
    every = (1 << len(one)) - 1
    rise, fall, distance = every, 0, len(one)
    for entry in other:
        equal = places.get(entry, 0)
        diagonal = (((equal & rise) + rise) ^ rise) | equal | fall
        more, less = fall | ~(diagonal | rise), rise & diagonal
        distance += (more >> len(one) - 1 & 1) - (less >> len(one) - 1 & 1)
        more, less = more << 1 | 1, less << 1
        rise, fall = (less | ~(diagonal | more)) & every, more & diagonal & every
    return distance


def _lengths(references: Sequence[Sequence[Any]]) -> np.ndarray:
    """How many entries each reference has.

    Raises:
        ValueError: where one has none, of which errors could be a share.
    """
    lengths = np.array([len(reference) for reference in references], float)
    if not lengths.all():
        raise ValueError(
            "a reference is empty, and errors are a share of its length; leave such examples out"
        )
    return lengths
