"""Search strategies: what to try next, given what was tried.

A strategy keeps no state. What it proposes depends on the runs and on the trials so far, and on
nothing else; so a search is continued by replaying its trials.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
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
    """The gain that a candidate needs.

    "better" is strictly better, as in the paper's code; "not_worse" at least as good,
    as in its text; "margin" better by more than an amount; "significant" better
    with a one-sided paired p-value of at most an amount; "any" whatever it is.
    """

    kind: Literal["better", "not_worse", "margin", "significant", "any"] = "better"
    amount: float = 0.0

    @classmethod
    def of(cls, option: Any) -> AcceptRule:
        """The rule that ``search.accept`` asks for, as `Acceptance` has it."""
        if not isinstance(option, Mapping):
            return cls(option)
        ((kind, amount),) = option.items()
        return cls(kind, float(amount))

    @property
    def text(self) -> str:
        """As tables state it."""
        return {
            "any": "any",
            "better": "gain > 0",
            "not_worse": "gain >= 0",
            "margin": f"gain > {self.amount:g}",
            "significant": f"gain > 0 and p <= {self.amount:g}",
        }[self.kind]

    @property
    def margin(self) -> float:
        """The gain that is too small to count."""
        return self.amount if self.kind == "margin" else 0.0

    def check(self, least_p: float | None) -> None:
        """Checks that the rule can accept anything, `least_p` being the least p-value; None for none at all.

        Raises:
            ConfigError: where it can not.
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

        It stays so if the gain grows and the p-value falls: early stopping asks with the most and the least
        that these can still be.

        `p_value` computes how likely such a gain is by chance, where that can be told.

        Raises:
            ConfigError: where the rule needs a p-value and the metric allows none.
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
"""The weight of an ingredient; or its weights in each part of the model's depth, the first layers first."""


@dataclass(frozen=True)
class Ranked:
    """A run and its score.

    Attributes:
        score: on held-out, higher better; on a part of the examples if no more were scored.
        step: the training step that it is a checkpoint of; None if that is not known.
        partial: whether the score is of a part of the examples.
    """

    name: str
    score: float
    step: int | None = None
    partial: bool = False


@dataclass(frozen=True)
class Mixture:
    """Runs to be merged, in this order; a run may be there more than once.

    Attributes:
        coefficients: of each, a factor of the weight that the merge method gives it; None for 1.
        options: of the merge method, by dotted name, that replace the method's own.
    """

    ingredients: tuple[str, ...]
    coefficients: tuple[Coefficient, ...] | None = None
    options: Mapping[str, float] = field(default_factory=dict)

    def plus(self, name: str, coefficient: float = 1.0) -> Mixture:
        """This and one more run."""
        if self.coefficients is None and coefficient == 1.0:
            return Mixture((*self.ingredients, name), None, self.options)
        return Mixture((*self.ingredients, name), (*self.shares, coefficient), self.options)

    def without(self, position: int) -> Mixture:
        """This without one of its ingredients."""
        others = [index for index in range(len(self.ingredients)) if index != position]
        coefficients = self.coefficients and tuple(self.coefficients[index] for index in others)
        return Mixture(tuple(self.ingredients[index] for index in others), coefficients, self.options)

    @property
    def shares(self) -> tuple[Coefficient, ...]:
        """The coefficients, 1 where there are none."""
        return self.coefficients or (1.0,) * len(self.ingredients)


@dataclass(frozen=True)
class Proposal:
    """A mixture that may become the soup.

    Attributes:
        candidate: its name in tables: the run that is added, or any other.
        unscored: of a mixture that takes in several runs at once, those before the last: each becomes a row
            of the trajectory, without a score.
        variant: its name in tables among several of the same candidate.
        among: the name of the set that it is one of, if the search takes the best of many that are not made
            of one another.
    """

    candidate: str
    mixture: Mixture
    unscored: tuple[str, ...] = ()
    variant: str = ""
    among: str = ""


@dataclass(frozen=True)
class Choice:
    """Proposals of which the best that the rule accepts becomes the soup, the first among equals.

    Attributes:
        exact: how many of the best have to be scored in full; each of the others is scored no further than
            it takes to know that it is none of these, nor the one to be kept.
    """

    proposals: tuple[Proposal, ...]
    exact: int = 0


@dataclass(frozen=True)
class Trial:
    """A proposal and its outcome.

    Attributes:
        score: higher better; None if it was not found out in full.
        examples: that were scored for it.
    """

    proposal: Proposal
    score: float | None
    kept: bool
    examples: int = 0


@dataclass(frozen=True)
class Facts:
    """Facts of the merge method and of the model that a search may use.

    Attributes:
        options: the method's, by dotted name.
        subtracts: whether the method takes coefficients below 0.
        weighs: whether it looks at coefficients at all.
        layers: of the model; 0 if nothing is numbered.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    subtracts: bool = False
    weighs: bool = True
    layers: int = 0


class Search:
    """A search strategy. Frozen dataclasses extend it; they hold options and no state."""

    on_error: OnError
    """Tells whether the run goes on without a candidate that cannot be scored ("skip"), or ends ("stop")."""

    guaranteed = True
    """Tells whether the soup has to be no worse on held-out than the best single run.

    If not, as when every run is taken, a candidate that cannot be scored ends the run.
    """

    ranking: Ranking = "full"
    """The kind of ranking before the search."""

    again = False
    """Tells whether the same runs are merged time and again, with other coefficients."""

    @property
    def rule(self) -> AcceptRule:
        """When a proposal becomes the soup."""
        raise NotImplementedError

    def knowing(self, facts: Facts) -> Search:
        """The search with facts of the merge method and the model; called before anything is scored.

        Raises:
            ConfigError: if it cannot search with these.
        """
        return self

    def extremes(self) -> Sequence[Mapping[str, float]]:
        """The method's options at the ends of the ranges in which the search proposes others."""
        return []

    def check(self, pool: Sequence[Ranked]) -> None:
        """Checks that it can search these runs, in pool order, whose scores are not known yet (NaN).

        Raises:
            ConfigError: if it cannot.
        """

    def most(self, runs: int) -> int:
        """About how many mixtures of a pool of so many runs are scored at most: for progress bars."""
        return runs - 1

    def start(self, pool: Sequence[Ranked]) -> Mixture:
        """The mixture that the soup starts as, of a pool in pool order: the best run."""
        return Mixture((rank(pool)[0].name,))

    def propose(
        self, pool: Sequence[Ranked], soup: Mixture, trials: Sequence[Trial]
    ) -> Sequence[Proposal | Choice]:
        """The next proposals, in this order; none when the search is over.

        All of it may be scored at once. The first that is kept becomes the soup; those after it were
        proposed for another soup, so they count as not tried. Of a `Choice` all are tried.
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Guarded(Search):
    """A search that keeps candidates that a rule accepts, and ends no worse than the best single run.

    Attributes:
        accept: when a candidate becomes the soup: "better", "not_worse", ``{margin: x}`` or
            ``{significant: α}``; see `AcceptRule`.
        on_error: "skip" goes on without a run that cannot be scored, "stop" ends the run.
        ranking: "full" ranks the pool by scores on all held-out data, ``{examples: 0.1}`` by those on a
            tenth: the best single run is found exactly all the same, the order of the others is not.

    Raises:
        ConfigError: for another rule, and for options out of range.
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
    """The runs, best first; equal scores in pool order; runs without a number last.

    Runs that were scored in full, as the best was, come before those whose score is of a part.
    """

    def place(run: Ranked) -> tuple[float, bool, float]:
        lost = math.isnan(run.score)
        return lost, run.partial, 0.0 if lost else -run.score

    return sorted(pool, key=place)


def candidates_of(pool: Sequence[Ranked], most: int | None = None) -> list[str]:
    """The names of at most so many runs, best first."""
    return [run.name for run in rank(pool)][:most]


Phase = Callable[[Sequence[Ranked], Mixture, Sequence[Trial]], Sequence[Proposal | Choice]]
"""Proposes as a `Search` does; it sees only its own trials."""


def in_turn(
    phases: Sequence[Phase], pool: Sequence[Ranked], start: Mixture, trials: Sequence[Trial]
) -> Sequence[Proposal | Choice]:
    """The next proposals of phases, each of which begins with the soup that the one before it ended with."""
    soup, left = start, trials
    for phase in phases:
        proposed, soup, left = played(phase, pool, soup, left)
        if proposed:
            return proposed
    return []


def played(
    phase: Phase, pool: Sequence[Ranked], start: Mixture, trials: Sequence[Trial]
) -> tuple[Sequence[Proposal | Choice], Mixture, Sequence[Trial]]:
    """A phase's proposals after these trials, the soup then, and the trials that are no longer its own."""
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
    """The trials that came of what was proposed: up to the first that was kept."""
    taken: list[Trial] = []
    for entry in proposed:
        size = len(entry.proposals) if isinstance(entry, Choice) else 1
        some = [left.popleft() for _ in range(min(size, len(left)))]
        taken += some
        if not left or any(trial.kept for trial in some):
            break
    return taken
