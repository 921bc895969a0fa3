"""The greedy soup: best run first, then each next one if it helps.

Wortsman et al. 2022, "Model soups", arXiv 2203.05482, Recipe 1:

    rank the pool by held-out score; the soup is the best run
    for each next run in that order:
        candidate = merge(soup, run)
        if it scores better on the held-out set: keep it as the soup

So the soup is never worse on the held-out set than the best single run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soupkitchen.search.base import Mixture, Proposal, Ranked, Trial, rank
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

    guaranteed = True

    def __post_init__(self) -> None:
        AcceptRule.of(self.accept)
        check_on_error(self.on_error)

    @property
    def rule(self) -> AcceptRule:
        return AcceptRule.of(self.accept)

    def start(self, pool: Sequence[Ranked]) -> Mixture:
        return Mixture((rank(pool)[0].name,))

    def propose(self, pool: Sequence[Ranked], soup: Mixture, trials: Sequence[Trial]) -> list[Proposal]:
        tried = len(trials)
        queue = rank(pool)[1 + tried :]
        return [Proposal(run.name, soup.plus(run.name)) for run in queue]
