"""What a search strategy is: what to try next, given what was tried.

A strategy keeps no state. What it proposes depends on the runs and on the trials so far, and on
nothing else; so a search is continued by replaying its trials.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from soupkitchen.search.rules import AcceptRule, OnError


@dataclass(frozen=True)
class Ranked:
    """A run and its own held-out score, higher better."""

    name: str
    score: float


@dataclass(frozen=True)
class Mixture:
    """Runs to be merged, in this order.

    Attributes:
        coefficients: the weight of each; None for those that the merge method gives.
    """

    ingredients: tuple[str, ...]
    coefficients: tuple[float, ...] | None = None

    def plus(self, name: str) -> Mixture:
        """This and one more run, weighted by the method."""
        return Mixture((*self.ingredients, name))


@dataclass(frozen=True)
class Proposal:
    """A mixture that may become the soup.

    Attributes:
        candidate: what tables call it: the run that is added, or any other name.
        unscored: of a mixture that takes in several runs at once, those before the last: each
            becomes a row of the trajectory, without a score.
    """

    candidate: str
    mixture: Mixture
    unscored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Trial:
    """A proposal and what became of it.

    Attributes:
        score: higher better; None where it was not found out in full.
    """

    proposal: Proposal
    score: float | None
    kept: bool


class Search(Protocol):
    """A search strategy. Frozen dataclasses implement it; they hold options and no state."""

    @property
    def rule(self) -> AcceptRule:
        """When a proposal becomes the soup."""
        ...

    @property
    def guaranteed(self) -> bool:
        """Whether what comes out has to be no worse on held-out than the best single run.

        Where it has not, as where every run is taken, what cannot be scored ends the run.
        """
        ...

    @property
    def on_error(self) -> OnError:
        """What becomes of a run that cannot be scored: "skip" goes on without it, "stop" ends there."""
        ...

    def start(self, pool: Sequence[Ranked]) -> str:
        """The run that the soup starts as, of a pool in pool order."""
        ...

    def propose(self, pool: Sequence[Ranked], soup: Mixture, trials: Sequence[Trial]) -> Sequence[Proposal]:
        """What to try next, in this order; nothing when the search is over.

        All of it may be scored at once. The first that is kept becomes the soup; those after it were
        proposed for another soup, so they count as not tried.
        """
        ...


def rank(pool: Sequence[Ranked]) -> list[Ranked]:
    """The runs, best first; equal scores in pool order; a run whose score is not a number last."""
    return sorted(pool, key=lambda run: math.inf if math.isnan(run.score) else -run.score)
