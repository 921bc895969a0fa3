"""Evolves a soup's coefficients and the merge method's options by CMA-ES.

Hansen 2016, "The CMA Evolution Strategy: a tutorial", arXiv 1604.00772, by the package `cma`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from soupkitchen.errors import ConfigError
from soupkitchen.options import is_number
from soupkitchen.options.kinds import AtLeast1, Positive, Ranges, Seed, at_least, whole
from soupkitchen.search.base import (
    Choice,
    Facts,
    Guarded,
    Mixture,
    Proposal,
    Ranked,
    Trial,
    candidates_of,
    played,
)
from soupkitchen.search.greedy import Greedy

if TYPE_CHECKING:
    from soupkitchen.search.space import Space

_STILL = 1e-3
"""The search ends once all standard deviations are smaller."""


@dataclass(frozen=True)
class Evolve(Guarded):
    """Searches coefficients with CMA-ES, starting at a soup that is found first.

    A coefficient multiplies the method's weight. The soup is the best accepted mixture, the initial one
    included. Half of a generation become parents, and only these are scored in full.

    `conf/search/evolve.yaml` describes the options.

    Attributes:
        examples: the generation that reaches this number is the last.
        population: with fewer than 6, `cma` would rank non-parents, too.
        options: `scale` is searched by its logarithm.

    Raises:
        ConfigError: if an option is out of range.
    """

    initial: Literal["greedy", "uniform", "best"] = "greedy"
    evaluations: AtLeast1 = 100
    examples: AtLeast1 | None = None
    population: Annotated[int, at_least(6)] | None = None
    sigma: Positive = 0.2
    seed: Seed = 0
    layers: Annotated[int, whole(1, 1000)] = 1
    negative: bool = False
    options: Ranges | None = field(default=None, hash=False)
    candidates: Annotated[int, at_least(2)] | None = None

    again = True
    _now: Mapping[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def ranges(self) -> Mapping[str, Sequence[float]]:
        return self.options or {}

    def knowing(self, facts: Facts) -> Evolve:
        options = facts.options
        if not facts.weighs:
            raise ConfigError(
                "search=evolve looks for coefficients, which this method does not look at: take another "
                "method, or search=greedy"
            )
        if self.layers > max(1, facts.layers):
            raise ConfigError(
                f"search.layers={self.layers}: the model has {facts.layers} layers, so some of as many parts "
                "would be empty"
            )
        if self.negative and not facts.subtracts:
            raise ConfigError(
                "search.negative=true: this method takes no coefficients below 0; those on task vectors "
                "do, as method=task_arithmetic"
            )
        for name, value in options.items():
            if isinstance(value, Sequence) and not isinstance(value, str) and name not in self.ranges:
                raise ConfigError(
                    f"search=evolve scores each mixture once, so method.{name} has to be one value, not a "
                    f"list; search.options={{{name}: [LOW, HIGH]}} has it searched"
                )
        for name in self.ranges:
            if name not in options or isinstance(options[name], (str, bool, type(None))):
                numbers = ", ".join(one for one, value in options.items() if is_number(value))
                raise ConfigError(
                    f"search.options: the method has no number called {name} that could be searched; it has "
                    f"{numbers or 'none'}"
                )
        search = replace(self)
        now = {name: float(options[name]) for name in self.ranges if is_number(options[name])}
        object.__setattr__(search, "_now", now)
        return search

    def extremes(self) -> Sequence[Mapping[str, float]]:
        return [{name: limits[end] for name, limits in self.ranges.items()} for end in (0, 1)]

    def most(self, runs: int) -> int:
        return self.evaluations + (runs - 1 if self.initial == "greedy" else 1)

    def propose(
        self, pool: Sequence[Ranked], soup: Mixture, trials: Sequence[Trial]
    ) -> Sequence[Proposal | Choice]:
        from soupkitchen.search.space import Range, Space  # numpy imports slowly

        proposed, begun, own_trials = played(self._initial, pool, self.start(pool), trials)
        if proposed:
            return proposed
        names = tuple(candidates_of(pool, self.candidates))
        ranges = tuple(Range(name, *limits) for name, limits in self.ranges.items())
        space = Space(names, self.layers, self.negative, ranges)
        begun = Mixture(names) if self.initial == "uniform" else begun
        return next(self._generations(space, begun, own_trials), [])

    def _initial(
        self, pool: Sequence[Ranked], soup: Mixture, trials: Sequence[Trial]
    ) -> Sequence[Proposal | Choice]:
        if self.initial == "greedy":
            return Greedy(self.accept, candidates=self.candidates).propose(pool, soup, trials)
        if self.initial == "uniform" and not trials:
            return [Proposal("uniform", Mixture(tuple(candidates_of(pool, self.candidates))))]
        return []

    def _generations(
        self, space: Space, begun: Mixture, trials: Sequence[Trial]
    ) -> Iterator[Sequence[Choice]]:
        """Replays the tried generations, and yields the next one."""
        first = space.place(begun, self._now)
        size = self.population or 4 + math.floor(3 * math.log(len(first)))
        strategy = _strategy(first, self.sigma, size, self.seed)
        number, done = 0, 0
        while done < self.evaluations and max(strategy.stds) > _STILL:
            if self.examples is not None and sum(trial.examples for trial in trials[:done]) >= self.examples:
                return
            number += 1
            with _unwarned():
                points = strategy.ask()
            tried = trials[done : done + size]
            if not tried:
                members = []
                for member, mixture in enumerate(map(space.mixture, points), start=1):
                    name, variant = f"generation {number}, {member} of {size}", space.shown(mixture)
                    members.append(Proposal(name, mixture, variant=variant, among="generations"))
                yield [Choice(tuple(members[: self.evaluations - done]), exact=strategy.sp.weights.mu)]
                return
            done += len(tried)
            if len(tried) == size:
                with _unwarned():
                    strategy.tell(list(map(space.inside, points)), _ranks(tried))


def _strategy(begun: Any, sigma: float, size: int, seed: int) -> Any:
    """CMA-ES with weights for parents only, and its own random generator."""
    import numpy as np

    with _unwarned():
        import cma
    options = {
        "popsize": size,
        "CMA_active": False,
        "randn": np.random.RandomState(seed).randn,
        "seed": math.nan,  # leaves numpy's own seed alone
        "verbose": -9,
        "verb_disp": 0,
        "verb_log": 0,
    }
    return cma.CMAEvolutionStrategy(begun, sigma, options)


@contextmanager
def _unwarned() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _ranks(tried: Sequence[Trial]) -> list[float]:
    """Ranks, 0 for the best; the first among equals; without a full score last."""
    scores = [-math.inf if trial.score is None else trial.score for trial in tried]
    finite = [-math.inf if math.isnan(score) else score for score in scores]
    ranks = [0.0] * len(tried)
    for rank, place in enumerate(sorted(range(len(tried)), key=lambda place: -finite[place])):
        ranks[place] = float(rank)
    return ranks
