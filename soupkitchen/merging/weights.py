"""Weights of ingredients: by name, or by how well each run does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from soupkitchen.errors import ConfigError

Weights = Mapping[str, Any]
"""Numbers by name of run; or ``{by: score, temperature: T}``."""


@dataclass(frozen=True)
class ByScore:
    """Weights that follow from held-out scores: exp(score / temperature), the best run's being 1.

    Up to a common factor that is the softmax. `temperature` is in units of the score.
    """

    temperature: float

    @classmethod
    def of(cls, weights: Weights | None) -> ByScore | Mapping[str, float] | None:
        """`weights` as they are, or as `ByScore` where they ask for it.

        Raises:
            ConfigError: for what is not ``{by: score, temperature: T}`` with a positive T.
        """
        if weights is None or "by" not in weights:
            return weights
        temperature: Any = weights.get("temperature")
        if weights["by"] != "score" or set(weights) != {"by", "temperature"} or not _positive(temperature):
            raise ConfigError(
                f"method.weights={dict(weights)}: weights by score are {{by: score, temperature: T}}, with T "
                "above 0, in units of the score (0.01 is one point of accuracy)"
            )
        return cls(temperature)


def softmax(scores: Mapping[str, float], temperature: float) -> dict[str, float]:
    """exp((score − best) / temperature) by name; next to 0 for NaN, and for what is too low for a number."""
    best = max(score for score in scores.values() if not math.isnan(score))
    least = math.ulp(0.0)
    return {
        name: least if math.isnan(score) else max(math.exp((score - best) / temperature), least)
        for name, score in scores.items()
    }


def check_weights(weights: Weights | None, *, negative: bool) -> None:
    """Checks that each weight is a finite number, not 0, and above 0 unless `negative` ones are allowed.

    Raises:
        ConfigError: naming the first that is not.
    """
    by_name = ByScore.of(weights)
    if isinstance(by_name, ByScore):
        return
    for name, weight in (by_name or {}).items():
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool) and math.isfinite(weight)
        if not number or weight == 0 or (weight < 0 and not negative):
            kind = "a number other than 0" if negative else "a positive number"
            raise ConfigError(f"method.weights.{name}={weight!r} should be {kind}")


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
