"""Drops ingredients while that helps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile

from soupkitchen.search.base import Choice, Guarded, Mixture, Proposal, Ranked, Trial, in_turn, rank


@dataclass(frozen=True)
class Pruned(Guarded):
    """Starts with the uniform soup, and drops ingredients while that helps, the worst run first."""

    def most(self, runs: int) -> int:
        return runs * runs // 2

    def start(self, pool: Sequence[Ranked]) -> Mixture:
        found = [run.name for run in rank(pool) if run.score == run.score]
        return Mixture(tuple(found))

    def propose(
        self, pool: Sequence[Ranked], soup: Mixture, trials: Sequence[Trial]
    ) -> Sequence[Proposal | Choice]:
        return in_turn([drop_while_it_helps], pool, self.start(pool), trials)


def drop_while_it_helps(pool: Sequence[Ranked], soup: Mixture, trials: Sequence[Trial]) -> list[Proposal]:
    """The soup without each ingredient, the worst run first, minus those tried."""
    if len(soup.ingredients) == 1:
        return []
    place = {run.name: number for number, run in enumerate(rank(pool))}
    positions = sorted(range(len(soup.ingredients)), key=lambda at: -place[soup.ingredients[at]])
    drops = [Proposal(f"without {soup.ingredients[at]}", soup.without(at)) for at in positions]
    tried = sum(1 for _ in takewhile(lambda trial: not trial.kept, reversed(trials)))
    return drops[tried:]
