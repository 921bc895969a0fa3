"""Weights of ingredients: by name, by score, or by training step.

Averages of one run's checkpoints imitate a decay of its learning rate. Checkpoints θ₀, …, θ_k of a run at
constant learning rate, oldest first, consist of updates g: θⱼ = θ₀ − g₁ − … − gⱼ. So Σⱼ cⱼθⱼ = θ₀ − Σᵢ wᵢgᵢ
with wᵢ = cᵢ + … + c_k: averaging gives later updates less weight. Conversely, a decay 1 ≥ w₁ ≥ … ≥ w_k ≥ 0 is
the average with

    c₀ = 1 − w₁,  cⱼ = wⱼ − wⱼ₊₁,  c_k = w_k

which are at least 0 and sum to 1. That is exact for this run's updates; a decayed rate would have made
others, to second order in the rate.

    linear          wᵢ = 1 − x with x = i/(k + 1): the plain average, cⱼ = 1/(k + 1)
    cosine          wᵢ = (1 + cos πx)/2
    one_minus_sqrt  wᵢ = 1 − √x
    inverse_sqrt    wᵢ = 1/√(1 + i): does not end at 0
    ema             wᵢ = 1 − (1 − α)^(k + 1 − i): the exponential moving average m₀ = θ₀,
                    mⱼ = (1 − α)mⱼ₋₁ + αθⱼ, so c₀ = (1 − α)^k and cⱼ = α(1 − α)^(k − j)

Tian et al. 2025, "WSM: Decay-Free Learning Rate Schedule via Checkpoint Merging for LLM Pre-training", arXiv
2507.17634, theorem 3.1. The number of checkpoints matters more than the decay.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from soupkitchen.errors import ConfigError
from soupkitchen.options import is_number, kinds

Weights = Mapping[str, Any]
"""Numbers by name of run; ``{by: score, temperature: T}``; or ``{by: step, decay: NAME}``."""


ALPHA = 0.2
"""The default weight of the newest checkpoint in "ema"."""

Decay = Callable[[int, int, float], float]
"""wᵢ of i, k and α."""


def _linear(i: int, k: int, alpha: float) -> float:
    return 1 - i / (k + 1)


def _cosine(i: int, k: int, alpha: float) -> float:
    return (1 + math.cos(math.pi * i / (k + 1))) / 2


def _inverse_sqrt(i: int, k: int, alpha: float) -> float:
    return 1 / math.sqrt(1 + i)


def _one_minus_sqrt(i: int, k: int, alpha: float) -> float:
    return 1 - math.sqrt(i / (k + 1))


def _ema(i: int, k: int, alpha: float) -> float:
    return 1 - (1 - alpha) ** (k + 1 - i)


DECAYS: Mapping[str, Decay] = {
    "linear": _linear,
    "cosine": _cosine,
    "inverse_sqrt": _inverse_sqrt,
    "one_minus_sqrt": _one_minus_sqrt,
    "ema": _ema,
}


def coefficients(decay: str, size: int, alpha: float = ALPHA) -> tuple[float, ...]:
    """The weights c₀, …, c_k of `size` = k + 1 checkpoints, oldest first."""
    k = size - 1
    counts = [1.0, *(DECAYS[decay](i, k, alpha) for i in range(1, size)), 0.0]
    return tuple(counts[j] - counts[j + 1] for j in range(size))


@dataclass(frozen=True)
class ByScore:
    """Weights exp((score − best) / temperature); `temperature` is in units of the score."""

    temperature: float


@dataclass(frozen=True)
class ByStep:
    """Weights by training step, for checkpoints of one run.

    Attributes:
        decay: one of `DECAYS`, or several, from which held-out data chooses.
        alpha: of "ema", above 0 and below 1.
    """

    decay: str | tuple[str, ...]
    alpha: float = ALPHA

    def coefficients(self, steps: Sequence[int]) -> list[float]:
        """The weights in the order of `steps`; the first of equal steps counts as older."""
        assert isinstance(self.decay, str), "one of the alternatives has to be chosen first"
        oldest_first = sorted(range(len(steps)), key=steps.__getitem__)
        counts = dict(zip(oldest_first, coefficients(self.decay, len(steps), self.alpha), strict=True))
        return [counts[index] for index in range(len(steps))]


def parsed(weights: Weights | None) -> ByScore | ByStep | Mapping[str, float] | None:
    """Replaces ``{by: …}`` by `ByScore` or `ByStep`.

    Raises:
        ConfigError: if it is neither ``{by: score, temperature: T}`` nor ``{by: step, decay: NAME}``.
    """
    if weights is None or "by" not in weights or is_number(weights["by"]):
        return weights  # a run may have the name "by"
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
    """exp((score − best) / temperature) by name; almost 0 for NaN and on underflow."""
    best = max(score for score in scores.values() if not math.isnan(score))
    least = math.ulp(0.0)
    return {
        name: least if math.isnan(score) else max(math.exp((score - best) / temperature), least)
        for name, score in scores.items()
    }


def check_names(weights: Weights | None, runs: Sequence[str]) -> None:
    """Raises:
    ConfigError: if a weight's name is no run's.
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
    """Raises:
    ConfigError: if a weight is 0, no finite number, or negative without `negative`.
    """
    by_name = parsed(weights)
    if isinstance(by_name, (ByScore, ByStep)):
        return
    for name, weight in (by_name or {}).items():
        if not is_number(weight) or weight == 0 or (weight < 0 and not negative):
            kind = "a number other than 0" if negative else "a positive number"
            raise ConfigError(f"method.weights.{name}={weight!r} should be {kind}")
