"""Coefficients of ingredients, as functions of a tensor's name: one number, or one by part of the depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from soupkitchen.errors import ConfigError
from soupkitchen.merging import Method
from soupkitchen.search.base import Coefficient
from soupkitchen.soup.depth import parts


def by_tensor(coefficient: Coefficient, names: Iterable[str]) -> Callable[[str], float]:
    """The coefficient in each tensor, by its name, of a model whose tensors have these names."""
    if not isinstance(coefficient, tuple):
        return lambda name: coefficient
    part_of = parts(names, len(coefficient))
    return lambda name: coefficient[part_of[name]]


def plain(coefficient: Any) -> Coefficient:
    """A coefficient of plain numbers; the same in all parts is one number.

    Raises:
        TypeError, ValueError: if it is none.
    """
    if isinstance(coefficient, (str, bytes)):
        raise TypeError(f"{coefficient!r} is no number")
    if not isinstance(coefficient, Sequence):
        return float(coefficient)
    numbers = tuple(map(float, coefficient))
    if not numbers:
        raise ValueError("a coefficient for no part of the depth")
    return numbers[0] if len(set(numbers)) == 1 else numbers


def check(coefficients: Sequence[Coefficient], ingredients: Sequence[str], method: Method) -> None:
    """Checks coefficients as far as that is possible without looking at any tensor.

    Raises:
        ConfigError: naming the ingredient, or the part of the depth.
    """
    by_part = [one if isinstance(one, tuple) else (one,) for one in coefficients]
    numbers = {len(one) for one in by_part} - {1}
    if len(numbers) > 1:
        raise ConfigError(
            f"coefficients for {' and for '.join(map(str, sorted(numbers)))} parts of the depth: all "
            "ingredients need theirs for the same number of parts"
        )
    for name, values in zip(ingredients, by_part, strict=False):
        for value in values:
            if not math.isfinite(value):
                raise ConfigError(f"the coefficient of {name} is {value}, which is no finite number")
            if value < 0 and not method.negative_weights:
                raise ConfigError(
                    f"the coefficient of {name} is {value:g}: {type(method).__name__} subtracts no runs, so "
                    "it should be 0 or more"
                )
    if not method.weighs and len({value for values in by_part for value in values} - {0.0}) > 1:
        raise ConfigError(
            f"{type(method).__name__} has one weight for all ingredients: their coefficients should be 1, "
            "or 0 for one that is left out"
        )
    for part in range(max(numbers, default=1)):
        if not any(values[part % len(values)] for values in by_part):
            where = f" in part {part + 1} of the depth" if numbers else ""
            raise ConfigError(f"the coefficients of all ingredients are 0{where}: give one of them another")
