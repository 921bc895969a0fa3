"""Weights of ingredients: by name, or by how well each run does."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soupkitchen.errors import ConfigError
from soupkitchen.options import POSITIVE, is_number

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
        if weights is None or "by" not in weights or is_number(weights["by"]):
            return weights  # a run may be called so
        temperature: Any = weights.get("temperature")
        if (
            weights["by"] != "score"
            or set(weights) != {"by", "temperature"}
            or not POSITIVE.fits(temperature)
        ):
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


def check_names(weights: Weights | None, runs: Sequence[str]) -> None:
    """Checks that weights by name are those of runs that there are.

    Raises:
        ConfigError: naming the first that is not, and the run that may be meant.
    """
    by_name = ByScore.of(weights)
    if isinstance(by_name, ByScore):
        return
    for name in map(str, by_name or {}):
        if name not in runs:
            near = difflib.get_close_matches(name, runs, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ConfigError(
                f"method.weights.{name}: no run of the pool is called so.{hint} There are {', '.join(runs)}"
            )


def check_weights(weights: Weights | None, *, negative: bool) -> None:
    """Checks that each weight is a finite number, not 0, and above 0 unless `negative` ones are allowed.

    Raises:
        ConfigError: naming the first that is not.
    """
    by_name = ByScore.of(weights)
    if isinstance(by_name, ByScore):
        return
    for name, weight in (by_name or {}).items():
        if not is_number(weight) or weight == 0 or (weight < 0 and not negative):
            kind = "a number other than 0" if negative else "a positive number"
            raise ConfigError(f"method.weights.{name}={weight!r} should be {kind}")
