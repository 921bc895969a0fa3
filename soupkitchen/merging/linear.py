"""The model soup proper: a weighted average of weights.

θ = Σ wᵢθᵢ / Σ wᵢ, or Σ wᵢθᵢ without normalisation.

Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned
models improves accuracy without increasing inference time", arXiv 2203.05482.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from soupkitchen.merging.base import Origin
from soupkitchen.merging.weights import Weights, check_weights, weight_of


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
    weights: Weights | None = None

    needs_base = False
    ordered = False

    def __post_init__(self) -> None:
        check_weights(self.weights, negative=False)

    def weight(self, ingredient: str) -> float:
        return weight_of(self.weights, ingredient)

    def init(self, like: torch.Tensor) -> LinearState:
        return LinearState(torch.zeros_like(like), 0.0)

    def measure(self, state: LinearState, x: torch.Tensor, origin: Origin) -> float:
        return origin.weight

    def add(self, state: LinearState, x: torch.Tensor, measure: float, start: int) -> LinearState:
        return LinearState(torch.add(state.total, x, alpha=measure), state.weight + measure)

    def result(self, state: LinearState) -> torch.Tensor:
        return state.total / state.weight if self.normalize and state.weight else state.total
