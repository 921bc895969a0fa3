"""Scores weights: fills the live model, runs the task, and never scores the same weights twice."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from soupkitchen.checkpoints.reader import Tensors
from soupkitchen.evaluation.evaluator import Evaluation, Evaluator, Progress

Announce = Callable[[str], Progress]
"""Told what is about to be scored; returns what is called as examples are done."""


@dataclass(frozen=True)
class Scored:
    """An evaluation and what it took.

    Attributes:
        ingredients: what the scored weights are made of, in merge order.
        merge_seconds: reading, merging and filling the model.
        cached: whether these ingredients were scored before, in this run.
    """

    ingredients: tuple[str, ...]
    evaluation: Evaluation
    merge_seconds: float
    cached: bool = False


class Scorer:
    """Scores the weights of one pool by one method, each set of ingredients once for each split."""

    def __init__(self, evaluator: Evaluator, announce: Announce) -> None:
        self.evaluator = evaluator
        self._announce = announce
        self._scored: dict[tuple[str, tuple[str, ...]], Scored] = {}

    def score(
        self, what: str, ingredients: tuple[str, ...], weights: Callable[[], Tensors], split: str = "heldout"
    ) -> Scored:
        """Scores `weights()`, which the names in `ingredients` identify; `what` is for the progress bar."""
        if seen := self._scored.get((split, ingredients)):
            return Scored(ingredients, seen.evaluation, merge_seconds=0.0, cached=True)
        progress = self._announce(what)
        started = time.perf_counter()
        self.evaluator.live.fill(weights())
        merge_seconds = time.perf_counter() - started
        scored = Scored(ingredients, self.evaluator.score(split, progress), merge_seconds)
        self._scored[split, ingredients] = scored
        return scored
