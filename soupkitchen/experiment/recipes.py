"""From mixtures, which searches propose, to recipes, which say all that weights are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from soupkitchen.errors import ConfigError
from soupkitchen.merging import MergeMethod, Method, StackMethod, alternatives
from soupkitchen.options.building import build, describe
from soupkitchen.search import Mixture
from soupkitchen.soup import Recipe


@dataclass(frozen=True)
class Recipes:
    """Makes the recipes of one experiment.

    Attributes:
        method: how runs are merged; it may be a grid.
        dtype: of all weights; None for that of the runs.
    """

    method: MergeMethod | StackMethod
    dtype: str | None = None

    def single(self, name: str) -> Recipe:
        """That of a run by itself."""
        return Recipe.single(name, self.dtype)

    def of(self, mixture: Mixture) -> list[Recipe]:
        """Those of a mixture: one, or one for each method of the grid, of which the best is to be taken."""
        if len(mixture.ingredients) == 1:
            return [self.single(mixture.ingredients[0])]
        method = self.method if not mixture.options else with_options(self.method, mixture.options)
        return [
            Recipe.of(mixture.ingredients, one, _weighed(mixture, one), self.dtype, variant)
            for variant, one in alternatives(method).items()
        ]

    def uniform(self, names: Sequence[str]) -> list[Recipe]:
        """Those of some runs, merged with the method's weights."""
        return self.of(Mixture(tuple(names)))


def with_options(method: Method, options: Mapping[str, float]) -> Any:
    """A method with other values of options, by dotted name.

    Raises:
        ConfigError: where it has no such option, or it may not be that.
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


def _weighed(mixture: Mixture, method: Method) -> list[Any] | None:
    """What each ingredient counts: the mixture's coefficient times the method's weight."""
    if mixture.coefficients is None:
        return None
    weights = [method.weight(name) for name in mixture.ingredients]
    return [
        tuple(weight * part for part in one) if isinstance(one, tuple) else weight * one
        for weight, one in zip(weights, mixture.coefficients, strict=True)
    ]
