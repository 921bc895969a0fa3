"""The greedy soup: best run first, then each next one if it helps.

Wortsman et al. 2022, "Model soups", arXiv 2203.05482, Recipe 1:

    rank the pool by held-out score; the soup is the best run
    for each next run in that order:
        candidate = merge(soup, run)
        if it scores better on the held-out set: keep it as the soup

So the soup is never worse on the held-out set than the best single run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soupkitchen.search.base import Ranked, Trial, rank
from soupkitchen.search.rules import AcceptRule, OnError, check_on_error


@dataclass(frozen=True)
class Greedy:
    """Greedy search.

    Attributes:
        accept: when a candidate stays: "better", "not_worse", ``{margin: x}`` or
            ``{significant: α}``; see `AcceptRule`.
        on_error: "skip" goes on without a run that cannot be scored, "stop" ends the run.

    Raises:
        ConfigError: for another rule.
    """

    accept: str | Mapping[str, Any] = "better"
    on_error: OnError = "skip"

    def __post_init__(self) -> None:
        AcceptRule.of(self.accept)
        check_on_error(self.on_error)

    @property
    def needs_scores(self) -> bool:
        return True

    @property
    def rule(self) -> str:
        return AcceptRule.of(self.accept).text

    def order(self, pool: Sequence[Ranked]) -> Sequence[Ranked]:
        return rank(pool)

    def propose(self, order: Sequence[Ranked], trials: Sequence[Trial]) -> str | None:
        following = order[1 + len(trials) :]
        return following[0].name if following else None

    def accepts(self, gain: float, p_value: Callable[[], float | None]) -> bool:
        return AcceptRule.of(self.accept).accepts(gain, p_value)
