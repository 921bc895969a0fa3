"""From mixtures, which searches propose, to recipes, which say all that weights are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from soupkitchen.merging import MergeMethod, Method, StackMethod, alternatives
from soupkitchen.merging.weights import ByStep, parsed
from soupkitchen.search import Mixture
from soupkitchen.soup import Recipe


@dataclass(frozen=True)
class Recipes:
    """Makes the recipes of one experiment.

    Attributes:
        method: how runs are merged; it may be a grid.
        dtype: of all weights; None for that of the runs.
        steps: the training step of each run, where the method's weights follow from these.
    """

    method: MergeMethod | StackMethod
    dtype: str | None = None
    steps: Mapping[str, int] = field(default_factory=dict)

    def single(self, name: str) -> Recipe:
        """That of a run by itself."""
        return Recipe.single(name, self.dtype)

    def of(self, mixture: Mixture) -> list[Recipe]:
        """Those of a mixture: one, or one for each method of the grid, of which the best is to be taken."""
        if len(mixture.ingredients) == 1:
            return [self.single(mixture.ingredients[0])]
        return [
            Recipe.of(mixture.ingredients, method, self._coefficients(mixture, method), self.dtype, variant)
            for variant, method in alternatives(self.method).items()
        ]

    def uniform(self, names: Sequence[str]) -> list[Recipe]:
        """Those of some runs, merged with the method's weights."""
        return self.of(Mixture(tuple(names)))

    def _coefficients(self, mixture: Mixture, method: Method) -> Sequence[Any] | None:
        """What the ingredients count; None for what the method's weights by name say."""
        weights = parsed(method.weights)
        if not isinstance(weights, ByStep):
            return mixture.coefficients
        own = weights.coefficients([self.steps[name] for name in mixture.ingredients])
        return [
            tuple(weight * part for part in share) if isinstance(share, tuple) else weight * share
            for weight, share in zip(own, mixture.shares, strict=True)
        ]
