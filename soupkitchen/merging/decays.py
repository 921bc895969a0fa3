"""Averages of one run's checkpoints that stand for a decay of its learning rate. Knows no torch.

Checkpoints θ₀, …, θ_k of a run at constant learning rate, the oldest first, are what updates g made:
θⱼ = θ₀ − g₁ − … − gⱼ. So Σⱼ cⱼθⱼ = θ₀ − Σᵢ wᵢgᵢ with wᵢ = cᵢ + … + c_k: to average checkpoints is to
let the later updates count less. The other way round, a decay 1 ≥ w₁ ≥ … ≥ w_k ≥ 0 is the average with

    c₀ = 1 − w₁,  cⱼ = wⱼ − wⱼ₊₁,  c_k = w_k

which are no less than 0 and sum to 1. That is exact for the updates that the run made; with a decayed
rate it would have made others, by a difference of second order in the rate.

    linear          wᵢ = 1 − x with x = i/(k + 1): the plain average, cⱼ = 1/(k + 1)
    cosine          wᵢ = (1 + cos πx)/2
    one_minus_sqrt  wᵢ = 1 − √x
    inverse_sqrt    wᵢ = 1/√(1 + i): it does not end at 0, and does not depend on k
    ema             wᵢ = 1 − (1 − α)^(k + 1 − i): the exponential moving average m₀ = θ₀,
                    mⱼ = (1 − α)mⱼ₋₁ + αθⱼ, that is c₀ = (1 − α)^k and cⱼ = α(1 − α)^(k − j)

Tian et al. 2025, "WSM: Decay-Free Learning Rate Schedule via Checkpoint Merging for LLM Pre-training",
arXiv 2507.17634, theorem 3.1. It compares ema, the plain average and 1 − √x, and finds that the
number of checkpoints matters more than which of them is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

ALPHA = 0.2
"""The default weight of the newest checkpoint in an exponential moving average."""

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
    """The weights of `size` checkpoints, the oldest first: c₀, …, c_k with k = size − 1.

    Args:
        decay: one of `DECAYS`.
        alpha: that of "ema", above 0 and below 1; the others do not look at it.
    """
    k = size - 1
    counts = [1.0, *(DECAYS[decay](i, k, alpha) for i in range(1, size)), 0.0]
    return tuple(counts[j] - counts[j + 1] for j in range(size))
