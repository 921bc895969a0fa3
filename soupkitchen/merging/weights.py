"""Weights of ingredients, by name."""

from __future__ import annotations

import math
from collections.abc import Mapping

from soupkitchen.errors import ConfigError

Weights = Mapping[str, float]


def check_weights(weights: Weights | None, *, negative: bool) -> None:
    """Checks that each weight is a finite number, not 0, and above 0 unless `negative` ones are allowed.

    Raises:
        ConfigError: naming the first that is not.
    """
    for name, weight in (weights or {}).items():
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool) and math.isfinite(weight)
        if not number or weight == 0 or (weight < 0 and not negative):
            kind = "a number other than 0" if negative else "a positive number"
            raise ConfigError(f"method.weights.{name}={weight!r} should be {kind}")


def weight_of(weights: Weights | None, ingredient: str) -> float:
    """The weight of `ingredient`; 1 where none is given."""
    return float((weights or {}).get(ingredient, 1.0))
