"""Makes recipes, which hold all that weights depend on, from a search's mixtures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from soupkitchen.errors import ConfigError
from soupkitchen.merging import MergeMethod, Method, StackMethod, alternatives
from soupkitchen.merging.weights import ByStep, check_names, parsed
from soupkitchen.options.building import build, describe
from soupkitchen.search import Choice, Mixture, Proposal, Ranked
from soupkitchen.search.window import check_steps
from soupkitchen.soup import Recipe


class Candidate(NamedTuple):
    """A proposal with one of its recipes: one for each method of a grid."""

    proposal: Proposal
    recipe: Recipe


@dataclass(frozen=True)
class Contest:
    """Candidates of which the best accepted one becomes the soup.

    Attributes:
        exact: how many of the best need full scores, accepted or not.
    """

    candidates: tuple[Candidate, ...]
    exact: int = 0


@dataclass(frozen=True)
class Recipes:
    """Makes the recipes of one experiment.

    Attributes:
        method: may be a grid.
        dtype: of all weights; None for that of the runs.
        steps: known training steps by run.
    """

    method: MergeMethod | StackMethod
    dtype: str | None = None
    steps: Mapping[str, int] = field(default_factory=dict)

    def single(self, name: str) -> Recipe:
        return Recipe.single(name, self.dtype)

    def of(self, mixture: Mixture) -> list[Recipe]:
        """The recipes of a mixture, one for each method of the grid."""
        if len(mixture.ingredients) == 1:
            return [self.single(mixture.ingredients[0])]
        method = self.method if not mixture.options else with_options(self.method, mixture.options)
        return [
            Recipe.of(mixture.ingredients, one, self._weights(mixture, one), self.dtype, variant)
            for variant, one in alternatives(method).items()
        ]

    def contest(self, proposed: Proposal | Choice) -> Contest:
        choice = proposed if isinstance(proposed, Choice) else Choice((proposed,))
        candidates = [
            Candidate(proposal, recipe)
            for proposal in choice.proposals
            for recipe in self.of(proposal.mixture)
        ]
        return Contest(tuple(candidates), choice.exact)

    def _weights(self, mixture: Mixture, method: Method) -> list[Any] | None:
        by_step = parsed(method.weights)
        if isinstance(by_step, ByStep):
            weights = by_step.coefficients([self.steps[name] for name in mixture.ingredients])
        elif mixture.coefficients is None:
            return None
        else:
            weights = [method.weight(name) for name in mixture.ingredients]
        return [
            tuple(weight * part for part in one) if isinstance(one, tuple) else weight * one
            for weight, one in zip(weights, mixture.shares, strict=True)
        ]


def check_weights(method: Method, runs: Sequence[Ranked]) -> None:
    """Checks that the method's weights fit the runs.

    Raises:
        ConfigError: if a name is no run's, or a training step is unknown.
    """
    check_names(method.weights, [run.name for run in runs])
    if isinstance(parsed(method.weights), ByStep):
        check_steps(runs, "method.weights={by: step, …}")


def with_options(method: Method, options: Mapping[str, float]) -> Any:
    """The method with other options, by dotted name.

    Raises:
        ConfigError: if it has no such option or refuses the value.
    """
    tree = describe(replace(method, weights=None))
    for name, value in options.items():
        *above, last = name.split(".")
        part = tree
        for key in above:
            part = part[key] if isinstance(part, Mapping) and key in part else None
        if not isinstance(part, dict) or last not in part:
            raise ConfigError(f"the method has no option {name}")
        part[last] = value
    return replace(build(tree), weights=method.weights)
