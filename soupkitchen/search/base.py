"""Search strategies: decide what to try next, given the trials so far.

A strategy has no state: its proposals depend only on runs and trials. So a search is continued by replaying
its trials.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from soupkitchen.errors import ConfigError
from soupkitchen.options import check_fields
from soupkitchen.options.kinds import Acceptance, Ranking, check

_NO_P_VALUES = (
    "search.accept={significant: …} needs a metric with values for examples; this one has none. Choose "
    "better, not_worse or {margin: x}"
)


@dataclass(frozen=True)
class AcceptRule:
    """The gain that a candidate needs, and the scores that it must not fall below.

    "better" (as in the paper's code) is > 0, "not_worse" (as in its text) ≥ 0, "margin" > `amount`;
    "significant" is > 0 with a one-sided paired p-value ≤ `amount`; "any" accepts all. A margin of NaN is one
    that follows from the ranking.

    Attributes:
        floors: the least score of some tasks, by name, higher better; known after the ranking.
    """

    kind: Literal["better", "not_worse", "margin", "significant", "any"] = "better"
    amount: float = 0.0
    floors: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, option: Any) -> AcceptRule:
        if not isinstance(option, Mapping):
            return cls(option)
        ((kind, amount),) = option.items()
        return cls(kind, math.nan if amount == "auto" else float(amount))

    @property
    def text(self) -> str:
        return {
            "any": "any",
            "better": "gain > 0",
            "not_worse": "gain >= 0",
            "margin": f"gain > {self.amount:g}",
            "significant": f"gain > 0 and p <= {self.amount:g}",
        }[self.kind]

    @property
    def margin(self) -> float:
        """The gain that is too small to count; NaN if it follows from the ranking."""
        return self.amount if self.kind == "margin" else 0.0

    def after_ranking(self, noise: float | None) -> AcceptRule:
        """The rule with a margin of `noise`, to one digit, if it is to follow from the ranking."""
        if not math.isnan(self.margin):
            return self
        return replace(self, amount=float(f"{noise or 0.0:.1g}"))

    def check(self, least_p: float | None) -> None:
        """Checks that some gain can be accepted.

        Raises:
            ConfigError: if none can, because `least_p` is too large or None.
        """
        if self.kind != "significant":
            return
        if least_p is None:
            raise ConfigError(_NO_P_VALUES)
        if self.amount < least_p:
            raise ConfigError(
                f"search.accept={{significant: {self.amount:g}}} can accept nothing: the least p-value that "
                f"this metric can give on this held-out data is {least_p:.2g}; take more than that, or "
                "another rule"
            )

    def accepts(self, gain: float, p_value: Callable[[], float | None]) -> bool:
        """Tells whether a gain is enough.

        Monotone: a larger gain or a smaller p-value never turns yes into no. Early stopping relies on that.

        Args:
            p_value: computes the gain's p-value, or None.

        Raises:
            ConfigError: if the rule needs a p-value and gets None.
        """
        if self.kind == "any":
            return True
        if self.kind == "not_worse":
            return gain >= 0
        if self.kind == "margin":
            return gain > self.amount
        if not gain > 0:
            return False
        if self.kind == "better":
            return True
        p = p_value()
        if p is None:
            raise ConfigError(_NO_P_VALUES)
        return p <= self.amount


def missed(floors: Mapping[str, float], scores: Mapping[str, float]) -> dict[str, float]:
    """The floors that scores are below, by task; NaN is below.

    Monotone: better scores never miss more. Early stopping relies on that.
    """
    return {name: floor for name, floor in floors.items() if not scores[name] >= floor}


def confidence_of(ranking: str | Mapping[str, Any]) -> float | None:
    """The confidence of the race that ``search.ranking`` asks for; None to score all in full.

    Raises:
        ConfigError: if it asks for something else.
    """
    check("search.ranking", ranking, Ranking)
    return None if isinstance(ranking, str) else float(ranking["confidence"])


OnError = Literal["skip", "stop"]
"""The treatment of a candidate that cannot be scored, or scores NaN."""


Coefficient = float | tuple[float, ...]
"""An ingredient's weight, or its weights by part of the model's depth, first layers first."""


@dataclass(frozen=True)
class Ranked:
    """A run and its score.

    Attributes:
        score: on held-out, higher better.
        step: the training step, if known.
        partial: the score is of a part of the examples.
    """

    name: str
    score: float
    step: int | None = None
    partial: bool = False


@dataclass(frozen=True)
class Mixture:
    """Runs to be merged, in this order; repeats are allowed.

    Attributes:
        coefficients: factors of the merge method's weights; None for 1.
        options: of the merge method, by dotted name, to replace its own.
    """

    ingredients: tuple[str, ...]
    coefficients: tuple[Coefficient, ...] | None = None
    options: Mapping[str, float] = field(default_factory=dict)

    def plus(self, name: str, coefficient: float = 1.0) -> Mixture:
        """Adds a run."""
        if self.coefficients is None and coefficient == 1.0:
            return Mixture((*self.ingredients, name), None, self.options)
        return Mixture((*self.ingredients, name), (*self.shares, coefficient), self.options)

    def without(self, position: int) -> Mixture:
        """Drops one ingredient."""
        others = [index for index in range(len(self.ingredients)) if index != position]
        coefficients = self.coefficients and tuple(self.coefficients[index] for index in others)
        return Mixture(tuple(self.ingredients[index] for index in others), coefficients, self.options)

    @property
    def shares(self) -> tuple[Coefficient, ...]:
        """The coefficients, 1 by default."""
        return self.coefficients or (1.0,) * len(self.ingredients)


@dataclass(frozen=True)
class Proposal:
    """A mixture that may become the soup.

    Attributes:
        candidate: its name in tables: the added run, or another.
        unscored: runs that it adds before the last; each gets a row without a score.
        variant: its name in tables among several of the same candidate.
        among: the name of its set, if the search takes the best of many independent mixtures.
    """

    candidate: str
    mixture: Mixture
    unscored: tuple[str, ...] = ()
    variant: str = ""
    among: str = ""


@dataclass(frozen=True)
class Choice:
    """Proposals of which the best accepted one becomes the soup, the first among equals.

    Attributes:
        exact: how many of the best need full scores.
    """

    proposals: tuple[Proposal, ...]
    exact: int = 0


@dataclass(frozen=True)
class Trial:
    """A proposal and its outcome.

    Attributes:
        score: higher better; None if not scored in full, or below a floor.
        examples: that were scored for it.
    """

    proposal: Proposal
    score: float | None
    kept: bool
    examples: int = 0


@dataclass(frozen=True)
class Facts:
    """Facts of the merge method and the model.

    Attributes:
        options: the method's, by dotted name.
        subtracts: the method takes coefficients below 0.
        weighs: it uses coefficients.
        layers: of the model; 0 if unknown.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    subtracts: bool = False
    weighs: bool = True
    layers: int = 0


class Search:
    """A search strategy: a frozen dataclass with options and no state."""

    on_error: OnError
    """"skip" goes on without a candidate that cannot be scored."""

    guaranteed = True
    """True if the soup must be no worse on held-out than the best single run.

    If False, a candidate that cannot be scored ends the run.
    """

    ranking: Ranking = "full"
    """The ranking before the search."""

    again = False
    """True if the same runs are merged often, with other coefficients."""

    @property
    def rule(self) -> AcceptRule:
        """Decides when a proposal becomes the soup."""
        raise NotImplementedError

    def knowing(self, facts: Facts) -> Search:
        """Adapts the search to method and model, before anything is scored.

        Raises:
            ConfigError: if it cannot search with these.
        """
        return self

    def extremes(self) -> Sequence[Mapping[str, float]]:
        """The method's options at both ends of the searched ranges."""
        return []

    def check(self, pool: Sequence[Ranked]) -> None:
        """Checks the runs, in pool order; scores are still NaN.

        Raises:
            ConfigError: if it cannot search them.
        """

    def most(self, runs: int) -> int:
        """About the largest number of scored mixtures, for progress bars."""
        return runs - 1

    def start(self, pool: Sequence[Ranked]) -> Mixture:
        """The first soup, of a pool in pool order: the best run."""
        return Mixture((rank(pool)[0].name,))

    def propose(
        self, pool: Sequence[Ranked], soup: Mixture, trials: Sequence[Trial]
    ) -> Sequence[Proposal | Choice]:
        """The next proposals in order; none to end the search.

        All may be scored at once. The first kept one becomes the soup; later ones were made for another soup,
        so they count as not tried. Of a `Choice` all are tried.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Guarded(Search):
    """A search that keeps what a rule accepts, and ends no worse than the best single run.

    Attributes:
        accept: see `AcceptRule`.
        ranking: "full", or ``{confidence: 0.999}`` for a race, which the best run wins with that probability.

    Raises:
        ConfigError: if an option is out of range.
    """

    accept: Acceptance = "better"
    on_error: OnError = "skip"
    ranking: Ranking = "full"

    def __post_init__(self) -> None:
        check_fields(self, "search")

    @property
    def rule(self) -> AcceptRule:
        return AcceptRule.of(self.accept)


def rank(pool: Sequence[Ranked]) -> list[Ranked]:
    """The runs, best first; full scores before partial ones, NaN last; pool order breaks ties."""

    def place(run: Ranked) -> tuple[float, bool, float]:
        lost = math.isnan(run.score)
        return lost, run.partial, 0.0 if lost else -run.score

    return sorted(pool, key=place)


def candidates_of(pool: Sequence[Ranked], most: int | None = None) -> list[str]:
    return [run.name for run in rank(pool)][:most]


Phase = Callable[[Sequence[Ranked], Mixture, Sequence[Trial]], Sequence[Proposal | Choice]]
"""Proposes as `Search.propose` does; sees only its own trials."""


def in_turn(
    phases: Sequence[Phase], pool: Sequence[Ranked], start: Mixture, trials: Sequence[Trial]
) -> Sequence[Proposal | Choice]:
    """The next proposals of phases, each of which starts with the soup of the one before."""
    soup, left = start, trials
    for phase in phases:
        proposed, soup, left = played(phase, pool, soup, left)
        if proposed:
            return proposed
    return []


def played(
    phase: Phase, pool: Sequence[Ranked], start: Mixture, trials: Sequence[Trial]
) -> tuple[Sequence[Proposal | Choice], Mixture, Sequence[Trial]]:
    """A phase's proposals after these trials, its soup, and the trials left for later phases."""
    soup, left = start, deque(trials)
    own_trials: list[Trial] = []
    while proposed := phase(pool, soup, own_trials):
        if not left:
            return proposed, soup, []
        taken = _taken(proposed, left)
        own_trials += taken
        soup = next((trial.proposal.mixture for trial in taken if trial.kept), soup)
    return [], soup, list(left)


def _taken(proposed: Sequence[Proposal | Choice], left: deque[Trial]) -> list[Trial]:
    taken: list[Trial] = []
    for entry in proposed:
        size = len(entry.proposals) if isinstance(entry, Choice) else 1
        some = [left.popleft() for _ in range(min(size, len(left)))]
        taken += some
        if not left or any(trial.kept for trial in some):
            break
    return taken
