"""Recipes: a soup's ingredients, coefficients and merge method as plain data."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Annotated, Any

import torch
import xxhash
from annotated_types import Ge, MinLen

from soupkitchen import merging
from soupkitchen.errors import ConfigError
from soupkitchen.merging import MergeMethod, Method, StackMethod
from soupkitchen.options.building import build, check_names, describe, targets
from soupkitchen.search.base import Coefficient
from soupkitchen.soup.coefficients import check, plain
from soupkitchen.store.files import checked

_OURS = frozenset(f"{merging.__name__}.{name}" for name in merging.__all__)
"""The only names that a recipe from a file may import."""


@dataclass(frozen=True)
class Recipe:
    """All that weights are made of, as data to print, compare, save and send.

    Attributes:
        ingredients: names of runs, in merge order; repeats are allowed.
        coefficients: each one's weight, or its weights by part of the model's depth (see
            `soup.coefficients`).
        method: the merge method's options, without weights; None for a single run.
        dtype: of merged floating-point tensors, as "bfloat16"; None for that of the runs.
        recalibrate: training batches for batch-norm statistics.
        variant: the name in tables among alternatives.
    """

    ingredients: tuple[str, ...]
    coefficients: tuple[float | Annotated[tuple[float, ...], MinLen(1)], ...]
    method: dict[str, Any] | None = field(default=None, hash=False)
    dtype: str | None = None
    recalibrate: Annotated[int, Ge(0)] = 0
    variant: str = field(default="", compare=False)

    @classmethod
    def single(cls, name: str, dtype: str | None = None) -> Recipe:
        """A run by itself."""
        return cls((name,), (1.0,), dtype=dtype)

    @classmethod
    def of(
        cls,
        ingredients: Sequence[str],
        method: Method,
        coefficients: Sequence[Coefficient] | None = None,
        dtype: str | None = None,
        variant: str = "",
    ) -> Recipe:
        """Runs merged by `method`, by default with its weights.

        Raises:
            ConfigError: if the method cannot merge by the coefficients.
        """
        if len(ingredients) == 1:
            return cls.single(ingredients[0], dtype)
        if coefficients is None:
            coefficients = [method.weight(name) for name in ingredients]
        shares = tuple(map(plain, coefficients))
        check(shares, ingredients, method)
        tree = describe(replace(method, weights=None))
        return cls(tuple(ingredients), shares, tree, dtype, method.recalibrate_batchnorm, variant)

    @classmethod
    def from_data(cls, data: Any, trust: Collection[str] = ()) -> Recipe:
        """The inverse of `to_data`; `trust` names the user's own classes.

        Raises:
            ConfigError: if `data` is no recipe, or names other code.
        """
        recipe = checked(data, cls, "this is no recipe")
        if len(recipe.ingredients) != len(recipe.coefficients) or not recipe.ingredients:
            raise ConfigError("this is no recipe: that needs ingredients, and a coefficient for each")
        if recipe.dtype is not None and not isinstance(getattr(torch, recipe.dtype, None), torch.dtype):
            raise ConfigError(f"this is no recipe: its dtype={recipe.dtype} is none of PyTorch's")
        check_names(targets(recipe.method), _OURS, trust)
        return replace(recipe, coefficients=tuple(map(plain, recipe.coefficients)))

    def to_data(self) -> dict[str, Any]:
        """The recipe in types of JSON and YAML."""
        told = {name: getattr(self, name) for name in self.__dataclass_fields__}
        coefficients = [list(one) if isinstance(one, tuple) else one for one in self.coefficients]
        return told | {"ingredients": list(self.ingredients), "coefficients": coefficients}

    @cached_property
    def digest(self) -> str:
        """Equal for equal recipes, in all processes."""
        told = {name: _numbers(part) for name, part in self.to_data().items() if name != "variant"}
        return xxhash.xxh3_128_hexdigest(json.dumps(told, sort_keys=True).encode())

    @property
    def size(self) -> int:
        """The number of ingredients."""
        return len(self.ingredients)

    def merge_method(self) -> MergeMethod | StackMethod:
        """The method, without weights.

        Raises:
            ConfigError: if there is none, it cannot be built, or it cannot merge by the coefficients.
        """
        if self.method is None:
            raise ConfigError(f"{self.ingredients[0]} by itself is merged by no method")
        method = build(self.method)
        if not isinstance(method, (MergeMethod, StackMethod)):
            raise ConfigError(f"a recipe merges by no method of merging: {str(self.method)[:200]}")
        check(self.coefficients, self.ingredients, method)
        return method

    def extends(self, soup: Recipe) -> bool:
        """Tells whether it is `soup` and one more run, so that a running state serves."""
        before = self.ingredients[:-1]
        if not before or before != soup.ingredients or self.dtype != soup.dtype:
            return False
        if soup.method is None:
            return True
        return self.coefficients[:-1] == soup.coefficients and self.fold == soup.fold

    @cached_property
    def fold(self) -> str:
        """The options that a running state depends on."""
        assert self.method is not None
        late = self.merge_method().late
        kept = {name: _numbers(part) for name, part in self.method.items() if name not in late}
        return json.dumps([kept, self.dtype], sort_keys=True)


def _numbers(tree: Any) -> Any:
    """`tree` with 1 and 1.0 as the same number."""
    if isinstance(tree, Mapping):
        return {name: _numbers(part) for name, part in tree.items()}
    if isinstance(tree, (list, tuple)):
        return [_numbers(part) for part in tree]
    return float(tree) if isinstance(tree, int) and not isinstance(tree, bool) else tree
