"""The uniform ("naive") soup: every run, in pool order.

Wortsman et al. 2022, "Model soups", arXiv 2203.05482. Nothing guards it: one diverged run can ruin it, and it
may be worse than the best single run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from soupkitchen.options import check_fields
from soupkitchen.options.kinds import AtLeast1
from soupkitchen.search.base import (
    AcceptRule,
    Mixture,
    OnError,
    Proposal,
    Ranked,
    Search,
    Trial,
    candidates_of,
)


@dataclass(frozen=True)
class Uniform(Search):
    """Merges all runs, or the best `candidates`, and scores only the finished soup.

    Raises:
        ConfigError: if an option is out of range.
    """

    on_error: OnError = "skip"
    candidates: AtLeast1 | None = None

    guaranteed = False

    def __post_init__(self) -> None:
        check_fields(self, "search")

    @property
    def rule(self) -> AcceptRule:
        return AcceptRule("any")

    def start(self, pool: Sequence[Ranked]) -> Mixture:
        return Mixture((self._names(pool)[0],))

    def propose(self, pool: Sequence[Ranked], soup: Mixture, trials: Sequence[Trial]) -> list[Proposal]:
        first, *others = self._names(pool)
        if trials or not others:
            return []
        return [Proposal(others[-1], Mixture((first, *others)), unscored=tuple(others[:-1]))]

    def _names(self, pool: Sequence[Ranked]) -> list[str]:
        best = set(candidates_of(pool, self.candidates))
        return [run.name for run in pool if run.name in best]
