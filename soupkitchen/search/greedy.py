"""The greedy soup: the best run first, then each next one if it helps.

Wortsman et al. 2022, "Model soups", arXiv 2203.05482, Recipe 1:

    rank the pool by held-out score; the soup is the best run
    for each next run in that order:
        candidate = merge(soup, run)
        if it scores better on the held-out set: keep it as the soup

So the soup is never worse on the held-out set than the best single run.

With replacement it is ensemble selection (Caruana et al. 2004, "Ensemble selection from libraries of models",
section 2): the run that helps most enters, those in the soup included, until none helps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from soupkitchen.errors import ConfigError
from soupkitchen.options.kinds import AtLeast1, SeveralPositive
from soupkitchen.search.base import (
    Choice,
    Facts,
    Guarded,
    Mixture,
    Proposal,
    Ranked,
    Trial,
    candidates_of,
    in_turn,
)
from soupkitchen.search.pruning import drop_while_it_helps


@dataclass(frozen=True)
class Greedy(Guarded):
    """Greedy search; `conf/search/greedy.yaml` describes the options.

    Attributes:
        passes: how often discarded runs are tried; with `replacement`, how many runs enter at most.
        candidate_scale: factors of a candidate's weight, of which the best is taken.
    """

    candidates: AtLeast1 | None = None
    passes: AtLeast1 | None = None
    replacement: bool = False
    candidate_scale: SeveralPositive | None = None
    prune: bool = False

    def knowing(self, facts: Facts) -> Greedy:
        if self.candidate_scale is not None and not facts.weighs:
            raise ConfigError(
                "search.candidate_scale: this method does not look at coefficients; leave it null, or take "
                "another method"
            )
        return self

    def most(self, runs: int) -> int:
        runs = min(runs, self.candidates or runs)
        tried = runs * (self.passes or runs) if self.replacement else (runs - 1) * (self.passes or 1)
        return tried * len(self.candidate_scale or (1,)) + (runs * runs // 2 if self.prune else 0)

    def propose(
        self, pool: Sequence[Ranked], soup: Mixture, trials: Sequence[Trial]
    ) -> Sequence[Proposal | Choice]:
        phases = [self._with_replacement if self.replacement else self._once_each]
        if self.prune:
            phases.append(drop_while_it_helps)
        return in_turn(phases, pool, self.start(pool), trials)

    def _once_each(
        self, pool: Sequence[Ranked], soup: Mixture, trials: Sequence[Trial]
    ) -> Sequence[Proposal | Choice]:
        best, *others = candidates_of(pool, self.candidates)
        alternatives = len(self.candidate_scale or (1,))
        tried = [
            any(trial.kept for trial in trials[start : start + alternatives])
            for start in range(0, len(trials), alternatives)
        ]
        inside, since = {best}, 0  # ingredients, and discards since the last one entered
        for _ in range(self.passes or 1):
            queue = [name for name in others if name not in inside]
            for number, name in enumerate(queue):
                left = len(others) + 1 - len(inside) - since  # not yet tried with this soup
                if not left:
                    return []
                if not tried:
                    return [self._with(soup, one) for one in queue[number:][:left]]
                inside, since = (inside | {name}, 0) if tried.pop(0) else (inside, since + 1)
        return []

    def _with_replacement(
        self, pool: Sequence[Ranked], soup: Mixture, trials: Sequence[Trial]
    ) -> Sequence[Proposal | Choice]:
        """All runs, of which the best enters; nothing after a round without gain."""
        names = candidates_of(pool, self.candidates)
        round_ = len(names) * len(self.candidate_scale or (1,))
        over = trials and not any(trial.kept for trial in trials[-round_:])
        if over or len(trials) >= (self.passes or len(names)) * round_:
            return []
        return [Choice(tuple(one for name in names for one in self._scaled(soup, name)))]

    def _with(self, soup: Mixture, name: str) -> Proposal | Choice:
        proposals = self._scaled(soup, name)
        return proposals[0] if self.candidate_scale is None else Choice(tuple(proposals))

    def _scaled(self, soup: Mixture, name: str) -> list[Proposal]:
        if self.candidate_scale is None:
            return [Proposal(name, soup.plus(name))]
        return [
            Proposal(name, soup.plus(name, scale), variant=f"×{scale:g}") for scale in self.candidate_scale
        ]
