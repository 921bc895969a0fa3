"""Merging what fine-tuning changed: sparsifier × consensus × normalisation × scale.

With δᵢ = θᵢ − θ₀ the task vectors, δ̂ᵢ what a sparsifier leaves of them, and vᵢ = wᵢδ̂ᵢ:

- without consensus, Σ vᵢ, divided by Σ wᵢ if normalised (task arithmetic; DARE);
- with consensus (TIES), a sign γ is elected for each entry, by mass (the sign of
  Σ vᵢ) or by count (of Σ sign vᵢ), + where that is 0; then Σ of the vᵢ of that sign,
  divided by Σ |wᵢ| over these if normalised, 0 where there are none.

The result is λ times that. All of it is kept as running sums, so a candidate costs
the same whatever the size of the soup.

Ilharco et al. 2023, "Editing models with task arithmetic", arXiv 2212.04089.
Yadav et al. 2023, "TIES-Merging", arXiv 2306.01708.
Yu et al. 2024, "Language models are Super Mario" (DARE), arXiv 2311.03099.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from soupkitchen.errors import ConfigError
from soupkitchen.merging.base import Origin
from soupkitchen.merging.sparsifiers import Keep, Sparsifier
from soupkitchen.merging.weights import Weights, check_weights, weight_of

_NO_WEIGHT = torch.finfo(torch.float32).tiny


class SumState(NamedTuple):
    total: torch.Tensor
    weight: float


class SignState(NamedTuple):
    """Sums and weights of the positive and of the negative entries; `votes` is empty unless counted."""

    positive: torch.Tensor
    negative: torch.Tensor
    positive_weight: torch.Tensor
    negative_weight: torch.Tensor
    votes: torch.Tensor


class Measured(NamedTuple):
    weight: float
    plan: Any


@dataclass(frozen=True)
class TaskVectors:
    """The family of task arithmetic, TIES, DARE, Breadcrumbs and DELLA.

    Attributes:
        sparsifier: what stays of each task vector; None for all of it.
        consensus: None, or how signs are elected: "mass" or "count".
        normalize: divide by the weights.
        scale: λ, what the merged task vector is multiplied by.
        weights: weight by name of run; 1 for a run that is not named. Below 0 a run is
            subtracted: negation, or "forgetting".

    Raises:
        ConfigError: for options out of range.
    """

    sparsifier: Sparsifier | None = None
    consensus: Literal["mass", "count"] | None = None
    normalize: bool = False
    scale: float = 1.0
    weights: Weights | None = None

    needs_base = True
    ordered = False

    def __post_init__(self) -> None:
        check_weights(self.weights, negative=True)
        if self.consensus not in ("mass", "count", None):
            raise ConfigError(f"method.consensus={self.consensus}: choose mass, count or null")

    def weight(self, ingredient: str) -> float:
        return weight_of(self.weights, ingredient)

    def init(self, like: torch.Tensor) -> SumState | SignState:
        if self.consensus is None:
            return SumState(torch.zeros_like(like), 0.0)
        votes = torch.zeros_like(like) if self.consensus == "count" else like.new_empty(0)
        up, down, up_weight, down_weight = (torch.zeros_like(like) for _ in range(4))
        return SignState(up, down, up_weight, down_weight, votes)

    def measure(self, state: SumState | SignState, x: torch.Tensor, origin: Origin) -> Measured:
        return Measured(origin.weight, self._sparsifier.plan(x, origin))

    def add(
        self, state: SumState | SignState, x: torch.Tensor, measure: Measured, start: int
    ) -> SumState | SignState:
        weight = measure.weight
        sparse = self._sparsifier.apply(x, measure.plan, start)
        if isinstance(state, SumState):
            return SumState(torch.add(state.total, sparse, alpha=weight), state.weight + weight)
        weighted = sparse * weight
        sign = weighted.sign()
        return SignState(
            state.positive + weighted.clamp(min=0),
            state.negative + weighted.clamp(max=0),
            torch.add(state.positive_weight, sign.clamp(min=0), alpha=abs(weight)),
            torch.sub(state.negative_weight, sign.clamp(max=0), alpha=abs(weight)),
            state.votes + sign if self.consensus == "count" else state.votes,
        )

    def result(self, state: SumState | SignState) -> torch.Tensor:
        if isinstance(state, SumState):
            divisor = state.weight if self.normalize and state.weight else 1.0
            return state.total * (self.scale / divisor)
        vote = state.votes if self.consensus == "count" else state.positive + state.negative
        # 1 where + is elected, else 0: arithmetic on floats is several times as fast as masks
        plus = torch.heaviside(vote, vote.new_ones(()))
        minus = 1 - plus
        merged = plus * state.positive + minus * state.negative
        if self.normalize:
            weight = plus * state.positive_weight + minus * state.negative_weight
            merged = merged / weight.clamp(min=_NO_WEIGHT)  # where no run agrees, 0 is divided
        return merged * self.scale

    @property
    def _sparsifier(self) -> Sparsifier:
        return self.sparsifier or Keep()
