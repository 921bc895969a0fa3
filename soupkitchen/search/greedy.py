"""The greedy soup: best run first, then each next one if it helps.

Wortsman et al. 2022, "Model soups", arXiv 2203.05482, Recipe 1:

    rank the pool by held-out score; the soup is the best run
    for each next run in that order:
        candidate = merge(soup, run)
        if it scores better on the held-out set: keep it as the soup

So the soup is never worse on the held-out set than the best single run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from soupkitchen.errors import ConfigError
from soupkitchen.search.base import Ranked, Trial, rank


@dataclass(frozen=True)
class Greedy:
    """Greedy search.

    Attributes:
        min_gain: a candidate is kept if its score exceeds the soup's by more than
            this. 0 is strictly better, as in the paper's code.
        accept_equal: also keep a candidate whose gain is exactly `min_gain`; with
            0 that is "at least as good", as in the paper's text.

    Raises:
        ConfigError: for a negative `min_gain`, which could end below the best run.
    """

    min_gain: float = 0.0
    accept_equal: bool = False

    def __post_init__(self) -> None:
        if not self.min_gain >= 0:
            raise ConfigError(
                f"search.min_gain={self.min_gain} should be 0 or more: with less, the soup could end below "
                "the best single run"
            )

    @property
    def needs_scores(self) -> bool:
        return True

    @property
    def rule(self) -> str:
        return f"gain {'>=' if self.accept_equal else '>'} {self.min_gain:g}"

    def order(self, pool: Sequence[Ranked]) -> Sequence[Ranked]:
        return rank(pool)

    def propose(self, order: Sequence[Ranked], trials: Sequence[Trial]) -> str | None:
        following = order[1 + len(trials) :]
        return following[0].name if following else None

    def accepts(self, score: float, best: float) -> bool:
        bar = best + self.min_gain
        return score >= bar if self.accept_equal else score > bar
