"""The uniform ("naive") soup: every run, in pool order, whatever it scores.

Wortsman et al. 2022, "Model soups", arXiv 2203.05482. Nothing guards it: one
diverged run can ruin it, and it may well be worse than the best single run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from soupkitchen.search.base import Mixture, Proposal, Ranked, Trial
from soupkitchen.search.rules import AcceptRule, OnError, check_on_error


@dataclass(frozen=True)
class Uniform:
    """Merges all runs. Only the finished soup is scored, as no decision depends on a score.

    Attributes:
        on_error: "skip" goes on without a run that cannot be scored, "stop" ends the run.
    """

    on_error: OnError = "skip"

    rule = AcceptRule("any")
    guaranteed = False

    def __post_init__(self) -> None:
        check_on_error(self.on_error)

    def start(self, pool: Sequence[Ranked]) -> Mixture:
        return Mixture((pool[0].name,))

    def propose(self, pool: Sequence[Ranked], soup: Mixture, trials: Sequence[Trial]) -> list[Proposal]:
        first, *others = (run.name for run in pool)
        if trials or not others:
            return []
        return [Proposal(others[-1], Mixture((first, *others)), unscored=tuple(others[:-1]))]
