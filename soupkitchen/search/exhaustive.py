"""Every subset of the runs: the true optimum, for small pools and to judge other searches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from soupkitchen.errors import ConfigError
from soupkitchen.options.kinds import AtLeast1
from soupkitchen.search.base import Guarded, Mixture, Proposal, Ranked, Trial, candidates_of

MOST_RUNS = 12
"""They have 4,083 subsets of two and more."""


@dataclass(frozen=True)
class Exhaustive(Guarded):
    """Tries all subsets of the best `candidates`, small ones first, and keeps the best."""

    candidates: AtLeast1 | None = None

    def check(self, pool: Sequence[Ranked]) -> None:
        if (runs := min(len(pool), self.candidates or len(pool))) > MOST_RUNS:
            raise ConfigError(
                f"search=exhaustive tries all subsets, which for {runs} runs are too many: "
                f"search.candidates={MOST_RUNS} or fewer takes those of the best runs; greedy and evolve "
                "need no such limit"
            )

    def most(self, runs: int) -> int:
        runs = min(runs, self.candidates or runs)
        return 2**runs - runs - 1

    def propose(self, pool: Sequence[Ranked], soup: Mixture, trials: Sequence[Trial]) -> list[Proposal]:
        names = candidates_of(pool, self.candidates)
        subsets = [some for size in range(2, len(names) + 1) for some in combinations(names, size)]
        total = len(subsets)
        return [
            Proposal(f"subset {number} of {total}", Mixture(some), among="subsets")
            for number, some in enumerate(subsets[len(trials) :], start=len(trials) + 1)
        ]
