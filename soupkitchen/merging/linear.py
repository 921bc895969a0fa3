"""The model soup proper: a weighted average of weights.

θ = Σ wᵢθᵢ / Σ wᵢ, or Σ wᵢθᵢ without normalisation.

Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned
models improves accuracy without increasing inference time", arXiv 2203.05482.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from soupkitchen.errors import ConfigError
from soupkitchen.merging.base import Origin


class LinearState(NamedTuple):
    total: torch.Tensor
    weight: float


@dataclass(frozen=True)
class Linear:
    """Weighted averaging.

    Attributes:
        normalize: divide by the sum of the weights.
        weights: weight by name of run; 1 for a run that is not named.

    Raises:
        ConfigError: for a weight that is not a positive number.
    """

    normalize: bool = True
    weights: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        for name, weight in (self.weights or {}).items():
            if not (isinstance(weight, (int, float)) and math.isfinite(weight) and weight > 0):
                raise ConfigError(f"method.weights.{name}={weight!r} should be a positive number")

    def weight(self, ingredient: str) -> float:
        return (self.weights or {}).get(ingredient, 1.0)

    def init(self, like: torch.Tensor) -> LinearState:
        return LinearState(torch.zeros_like(like), 0.0)

    def measure(self, state: LinearState, x: torch.Tensor, origin: Origin) -> float:
        return origin.weight

    def add(self, state: LinearState, x: torch.Tensor, measure: float) -> LinearState:
        return LinearState(torch.add(state.total, x, alpha=measure), state.weight + measure)

    def result(self, state: LinearState) -> torch.Tensor:
        return state.total / state.weight if self.normalize else state.total
