"""Weights of ingredients: by name, by how well each run does, or by its place in the training of one run."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soupkitchen.errors import ConfigError
from soupkitchen.merging.decays import ALPHA, DECAYS, coefficients
from soupkitchen.options import is_number, kinds

Weights = Mapping[str, Any]
"""Numbers by name of run; ``{by: score, temperature: T}``; or ``{by: step, decay: NAME}``."""


@dataclass(frozen=True)
class ByScore:
    """Weights that follow from held-out scores: exp(score / temperature), the best run's being 1.

    Up to a common factor that is the softmax. `temperature` is in units of the score.
    """

    temperature: float


@dataclass(frozen=True)
class ByStep:
    """Weights that follow from the training steps of the ingredients, checkpoints of one run.

    Attributes:
        decay: one of `DECAYS`; or several, from which held-out data is to choose.
        alpha: that of "ema".
    """

    decay: str | tuple[str, ...]
    alpha: float = ALPHA

    def coefficients(self, steps: Sequence[int]) -> list[float]:
        """The weight of each ingredient, in the order of `steps`; of equal ones the first is the older."""
        assert isinstance(self.decay, str), "one of the alternatives has to be chosen first"
        oldest_first = sorted(range(len(steps)), key=steps.__getitem__)
        counts = dict(zip(oldest_first, coefficients(self.decay, len(steps), self.alpha), strict=True))
        return [counts[index] for index in range(len(steps))]


def parsed(weights: Weights | None) -> ByScore | ByStep | Mapping[str, float] | None:
    """`weights` as they are, or what they ask for where they are to follow from something.

    Raises:
        ConfigError: for what is neither ``{by: score, temperature: T}`` nor ``{by: step, decay: NAME}``.
    """
    if weights is None or "by" not in weights or is_number(weights["by"]):
        return weights  # a run may be called so
    return _by_step(weights) if weights["by"] == "step" else _by_score(weights)


def _by_score(weights: Weights) -> ByScore:
    temperature: Any = weights.get("temperature")
    if (
        weights["by"] != "score"
        or set(weights) != {"by", "temperature"}
        or not is_number(temperature)
        or temperature <= 0
    ):
        raise ConfigError(
            f"method.weights={dict(weights)}: weights by score are {{by: score, temperature: T}}, with T "
            "above 0, in units of the score (0.01 is one point of accuracy); those by training step are "
            "{by: step, decay: NAME}"
        )
    return ByScore(temperature)


def _by_step(weights: Weights) -> ByStep:
    decay: Any = weights.get("decay")
    alpha: Any = weights.get("alpha", ALPHA)
    several = isinstance(decay, Sequence) and not isinstance(decay, str)
    asked = list(decay) if several else [decay]
    known = asked and all(isinstance(one, str) and one in DECAYS for one in asked)
    if not known or len(set(asked)) < len(asked) or not set(weights) <= {"by", "decay", "alpha"}:
        raise ConfigError(
            f"method.weights={dict(weights)}: weights by training step are {{by: step, decay: NAME}}, with "
            f"NAME one of {', '.join(DECAYS)}, or a list of different ones; ema takes alpha, too"
        )
    if "alpha" in weights and ("ema" not in asked or not is_number(alpha) or not 0 < alpha < 1):
        raise ConfigError(
            f"method.weights.alpha={alpha}: it is that of decay: ema, what the newest checkpoint counts, a "
            "number above 0 and below 1"
        )
    return ByStep(tuple(asked) if several else decay, float(alpha))


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
    by_name = parsed(weights)
    if isinstance(by_name, (ByScore, ByStep)):
        return
    for name in map(str, by_name or {}):
        if name not in runs:
            near = difflib.get_close_matches(name, runs, n=1)
            hint = f" Did you mean {near[0]}?" if near else ""
            word = kinds.mapping("method.weights", {(near or list(runs))[0]: "1"})
            how = f"; on a command line write {word}" if word else "; a list of runs gives runs other names"
            shown = "" if all(map(kinds.is_plain, runs)) else how
            raise ConfigError(
                f"method.weights.{name}: no run of the pool is called so.{hint} There are {', '.join(runs)}"
                f"{shown}"
            )


def check_weights(weights: Weights | None, *, negative: bool) -> None:
    """Checks that each weight is a finite number, not 0, and above 0 unless `negative` ones are allowed.

    Raises:
        ConfigError: naming the first that is not.
    """
    by_name = parsed(weights)
    if isinstance(by_name, (ByScore, ByStep)):
        return
    for name, weight in (by_name or {}).items():
        if not is_number(weight) or weight == 0 or (weight < 0 and not negative):
            kind = "a number other than 0" if negative else "a positive number"
            raise ConfigError(f"method.weights.{name}={weight!r} should be {kind}")
