"""What a search strategy is: two functions of what happened so far.

A strategy keeps no state. What it proposes depends on the runs and on the
trials so far, and on nothing else; so a search is continued by replaying its
trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Ranked:
    """A run and its own held-out score, higher better."""

    name: str
    score: float


@dataclass(frozen=True)
class Trial:
    """A run that was merged into the soup; `score` (higher better) is the merged soup's, if it was needed."""

    candidate: str
    score: float | None
    kept: bool


class Search(Protocol):
    """A search strategy. Frozen dataclasses implement it; they hold options and no state."""

    @property
    def needs_scores(self) -> bool:
        """Whether decisions depend on the candidates' scores."""
        ...

    @property
    def on_error(self) -> str:
        """What becomes of a run that cannot be scored: "skip" goes on without it, "stop" ends there."""
        ...

    @property
    def rule(self) -> str:
        """What a candidate's gain has to be for it to stay, as the tables state it."""
        ...

    def order(self, pool: Sequence[Ranked]) -> Sequence[Ranked]:
        """The order in which runs are taken, of a pool in pool order. The first starts the soup."""
        ...

    def propose(self, order: Sequence[Ranked], trials: Sequence[Trial]) -> str | None:
        """The name of the run to try next, or None when the search is over."""
        ...

    def accepts(self, gain: float, p_value: Callable[[], float | None]) -> bool:
        """Whether a soup that gains so much on the incumbent replaces it.

        `p_value` computes how likely such a gain is by chance, where that can be told. What is
        accepted has to stay so if the gain grows and the p-value falls: early stopping asks with the
        most and the least that these can still be.
        """
        ...


def rank(pool: Sequence[Ranked]) -> list[Ranked]:
    """The runs, best first; equal scores in pool order; a run whose score is not a number last."""
    return sorted(pool, key=lambda run: math.inf if math.isnan(run.score) else -run.score)
