"""Model Stock: the angle between fine-tunes decides how far to go from the base to their average.

θ₀ + t·(mean θᵢ − θ₀), with t = k·c / (1 + (k − 1)·c) and c the mean pairwise cosine of the task vectors. With
unit vectors uᵢ = δᵢ/‖δᵢ‖, c = (‖Σuᵢ‖² − k)/(k(k − 1)), so a running sum is enough.

Jang et al. 2024, "Model Stock: All we need is just a few fine-tuned models", arXiv 2403.19522.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from soupkitchen.errors import ConfigError
from soupkitchen.merging.base import MergeMethod, Origin, Vector
from soupkitchen.merging.chunks import gram


class StockState(NamedTuple):
    """`units` is Σuᵢ, `length` its squared norm over the whole tensor, where a task vector of zeros counts
    as a unit vector orthogonal to all others.
    """

    total: torch.Tensor
    units: torch.Tensor
    length: float
    number: int


class StockMeasure(NamedTuple):
    scale: float
    length: float


@dataclass(frozen=True)
class ModelStock(MergeMethod):
    """Averages task vectors with equal weights, and shrinks the average towards the base.

    A task vector of zeros (a frozen tensor) counts as orthogonal to the others. If ingredients cancel so that
    the formula divides by zero, the base is kept.
    """

    needs_base = True
    stepwise = True
    weighs = False
    keeps_equal = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights:
            raise ConfigError("method.weights: Model Stock has one weight for all ingredients; leave it null")

    def init(self, like: torch.Tensor) -> StockState:
        return StockState(torch.zeros_like(like), torch.zeros_like(like), 0.0, 0)

    def measure(self, state: StockState, x: Vector, origin: Origin) -> StockMeasure:
        (_, inner), (_, square) = gram([state.units, x], x.device)
        length = math.sqrt(square)
        scale = 1 / length if length else 0.0
        return StockMeasure(scale, state.length + 2 * inner * scale + 1.0)

    def add(self, state: StockState, x: torch.Tensor, measure: StockMeasure, start: int) -> StockState:
        units = torch.add(state.units, x, alpha=measure.scale)
        return StockState(state.total + x, units, measure.length, state.number + 1)

    def result(self, state: StockState) -> torch.Tensor:
        return state.total * (interpolation(state.length, state.number) / max(state.number, 1))


def interpolation(length: float, k: int) -> float:
    """t of the formula; `length` is ‖Σuᵢ‖²."""
    if k < 2:
        return 1.0
    cosine = (length - k) / (k * (k - 1))
    divisor = 1 + (k - 1) * cosine
    return k * cosine / divisor if divisor > 1e-9 else 0.0
