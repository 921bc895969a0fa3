"""The model soup proper: a weighted average of weights.

θ = Σ wᵢθᵢ / Σ wᵢ, or Σ wᵢθᵢ without normalisation.

Wortsman et al. 2022, "Model soups: averaging weights of multiple fine-tuned models improves accuracy without
increasing inference time", arXiv 2203.05482.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch

from soupkitchen.merging.base import MergeMethod, Origin, Vector


class LinearState(NamedTuple):
    """The average, or the sum if not normalised; and the weight."""

    merged: torch.Tensor
    weight: float


@dataclass(frozen=True)
class Linear(MergeMethod):
    """Weighted averaging.

    Attributes:
        normalize: divide by the sum of the weights.
    """

    normalize: bool = True

    @property
    def keeps_untouched(self) -> bool:  # type: ignore[override]
        return self.normalize

    @property
    def keeps_equal(self) -> bool:  # type: ignore[override]
        return self.normalize

    def init(self, like: torch.Tensor) -> LinearState:
        return LinearState(torch.zeros_like(like), 0.0)

    def measure(self, state: LinearState, x: Vector, origin: Origin) -> float:
        return origin.weight

    def add(self, state: LinearState, x: torch.Tensor, measure: float, start: int) -> LinearState:
        weight = state.weight + measure
        if self.normalize:  # lerp keeps equal values bitwise
            return LinearState(torch.lerp(state.merged, x, measure / weight), weight)
        return LinearState(torch.add(state.merged, x, alpha=measure), weight)

    def add_(self, state: LinearState, x: torch.Tensor, measure: float, start: int) -> LinearState:
        weight = state.weight + measure
        if self.normalize:
            return LinearState(state.merged.lerp_(x, measure / weight), weight)
        return LinearState(state.merged.add_(x, alpha=measure), weight)

    def result(self, state: LinearState) -> torch.Tensor:
        return state.merged
