"""The uniform ("naive") soup: every run, in pool order, whatever it scores.

Wortsman et al. 2022, "Model soups", arXiv 2203.05482. Nothing guards it: one
diverged run can ruin it, and it may well be worse than the best single run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from soupkitchen.search.base import Ranked, Trial
from soupkitchen.search.rules import OnError, check_on_error


@dataclass(frozen=True)
class Uniform:
    """Merges all runs. Only the finished soup is scored, as no decision depends on a score.

    Attributes:
        on_error: "skip" goes on without a run that cannot be scored, "stop" ends the run.
    """

    on_error: OnError = "skip"

    def __post_init__(self) -> None:
        check_on_error(self.on_error)

    @property
    def needs_scores(self) -> bool:
        return False

    @property
    def rule(self) -> str:
        return "any"

    def order(self, pool: Sequence[Ranked]) -> Sequence[Ranked]:
        return pool

    def propose(self, order: Sequence[Ranked], trials: Sequence[Trial]) -> str | None:
        following = order[1 + len(trials) :]
        return following[0].name if following else None

    def accepts(self, gain: float, p_value: Callable[[], float | None]) -> bool:
        return True
