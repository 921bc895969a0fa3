"""From mixtures, which searches propose, to recipes, which say all that weights are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from soupkitchen.merging import MergeMethod, StackMethod, alternatives
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
        return [
            Recipe.of(mixture.ingredients, method, mixture.coefficients, self.dtype, variant)
            for variant, method in alternatives(self.method).items()
        ]

    def uniform(self, names: Sequence[str]) -> list[Recipe]:
        """Those of some runs, merged with the method's weights."""
        return self.of(Mixture(tuple(names)))
