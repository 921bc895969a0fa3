"""Recipes: the ingredients, coefficients and merge method of a soup, as plain data.

They can be printed, compared, written to a file, sent to another process and made again there. The method is
its tree of options (see `building`).
"""

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
"""The names that a recipe from a file may use; nothing else is imported for it."""


@dataclass(frozen=True)
class Recipe:
    """The making of weights, as data.

    Attributes:
        ingredients: names of runs, in merge order; a run may be there more than once.
        coefficients: the weight of each in the merge, or its weights in as many parts of the model's depth
            as there are (see `depth`). What counts 0 is left out there, and the others are merged.
        method: the merge method's tree, without weights; None for one run by itself, which is that
            run whatever the method.
        dtype: of the merged tensors that are floating point, as "bfloat16"; None for that of the runs.
        recalibrate: training batches on which batch norm is computed anew.
        variant: what tables call it among alternatives; it has no part in what comes out.
    """

    ingredients: tuple[str, ...]
    coefficients: tuple[float | Annotated[tuple[float, ...], MinLen(1)], ...]
    method: dict[str, Any] | None = field(default=None, hash=False)
    dtype: str | None = None
    recalibrate: Annotated[int, Ge(0)] = 0
    variant: str = field(default="", compare=False)

    @classmethod
    def single(cls, name: str, dtype: str | None = None) -> Recipe:
        """One run by itself."""
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
        """Runs merged by `method`, with its weights where no `coefficients` are given.

        Raises:
            ConfigError: for coefficients that the method cannot merge by.
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
        """The recipe that `data` describes, as `to_data` gave it.

        Args:
            trust: classes of the user's own that it may name. Others are not imported.

        Raises:
            ConfigError: if it describes none, or names what is neither ours nor of `trust`.
        """
        recipe = checked(data, cls, "this is no recipe")
        if len(recipe.ingredients) != len(recipe.coefficients) or not recipe.ingredients:
            raise ConfigError("this is no recipe: that needs ingredients, and a coefficient for each")
        if recipe.dtype is not None and not isinstance(getattr(torch, recipe.dtype, None), torch.dtype):
            raise ConfigError(f"this is no recipe: its dtype={recipe.dtype} is none of PyTorch's")
        check_names(targets(recipe.method), _OURS, trust)
        return replace(recipe, coefficients=tuple(map(plain, recipe.coefficients)))

    def to_data(self) -> dict[str, Any]:
        """The recipe in types of JSON and YAML; `from_data` makes the recipe again."""
        told = {name: getattr(self, name) for name in self.__dataclass_fields__}
        coefficients = [list(one) if isinstance(one, tuple) else one for one in self.coefficients]
        return told | {"ingredients": list(self.ingredients), "coefficients": coefficients}

    @cached_property
    def digest(self) -> str:
        """The same for the same recipe, in any process."""
        told = {name: _numbers(part) for name, part in self.to_data().items() if name != "variant"}
        return xxhash.xxh3_128_hexdigest(json.dumps(told, sort_keys=True).encode())

    @property
    def size(self) -> int:
        """The number of ingredients it has."""
        return len(self.ingredients)

    def merge_method(self) -> MergeMethod | StackMethod:
        """The method, which has no weights of its own: the coefficients are those.

        Raises:
            ConfigError: where the recipe has none, one that cannot be made here, or coefficients that it
                cannot merge by.
        """
        if self.method is None:
            raise ConfigError(f"{self.ingredients[0]} by itself is merged by no method")
        method = build(self.method)
        if not isinstance(method, (MergeMethod, StackMethod)):
            raise ConfigError(f"a recipe merges by no method of merging: {str(self.method)[:200]}")
        check(self.coefficients, self.ingredients, method)
        return method

    def extends(self, soup: Recipe) -> bool:
        """Tells whether it is `soup` and one more run, in a way that a running state of `soup` serves."""
        before = self.ingredients[:-1]
        if not before or before != soup.ingredients or self.dtype != soup.dtype:
            return False
        if soup.method is None:
            return True
        return self.coefficients[:-1] == soup.coefficients and self.fold == soup.fold

    @cached_property
    def fold(self) -> str:
        """The facts that the running state of all but the last ingredient depends on, beside these."""
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
