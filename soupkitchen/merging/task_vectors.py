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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch

from soupkitchen.errors import ConfigError
from soupkitchen.merging.base import MergeMethod, Origin, Vector
from soupkitchen.merging.sparsifiers import Keep, Sparsifier

_NO_WEIGHT = torch.finfo(torch.float32).tiny


class SumState(NamedTuple):
    total: torch.Tensor
    weight: float


class SignState(NamedTuple):
    """Sums of positive and of negative entries; their weights where normalised; votes where counted."""

    positive: torch.Tensor
    negative: torch.Tensor
    positive_weight: torch.Tensor
    negative_weight: torch.Tensor
    votes: torch.Tensor


class Measured(NamedTuple):
    weight: float
    plan: Any


@dataclass(frozen=True)
class TaskVectors(MergeMethod):
    """The family of task arithmetic, TIES, DARE, Breadcrumbs and DELLA.

    A weight below 0 subtracts a run: negation, or "forgetting".

    Attributes:
        sparsifier: what stays of each task vector; None for all of it.
        consensus: None, or how signs are elected: "mass" or "count".
        normalize: divide by the weights.
        scale: λ, what the merged task vector is multiplied by. Of a list, each is tried for
            each candidate, and the best on held-out data taken.

    Raises:
        ConfigError: for options out of range.
    """

    sparsifier: Sparsifier | None = None
    consensus: Literal["mass", "count"] | None = None
    normalize: bool = False
    scale: float | Sequence[float] = 1.0

    needs_base = True
    negative_weights = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.consensus not in ("mass", "count", None):
            raise ConfigError(f"method.consensus={self.consensus}: choose mass, count or null")
        scales = self.scale if isinstance(self.scale, Sequence) else [self.scale]
        if not scales or len(set(scales)) < len(scales) or not all(_finite(scale) for scale in scales):
            raise ConfigError(f"method.scale={self.scale} should be a number, or a list of different numbers")

    @property
    def variants(self) -> Mapping[str, TaskVectors]:
        if not isinstance(self.scale, Sequence):
            return {"": self}
        return {f"scale={scale:g}": replace(self, scale=scale) for scale in self.scale}

    @property
    def surveys(self) -> bool:  # type: ignore[override]
        return self._sparsifier.surveys

    @property
    def stepwise(self) -> bool:  # type: ignore[override]
        return self._sparsifier.large_plans

    def survey(self, vectors: Mapping[str, Vector]) -> Any:
        return self._sparsifier.survey(vectors)

    def init(self, like: torch.Tensor) -> SumState | SignState:
        if self.consensus is None:
            return SumState(torch.zeros_like(like), 0.0)
        unused = like.new_empty(0)
        return SignState(
            torch.zeros_like(like),
            torch.zeros_like(like),
            torch.zeros_like(like) if self.normalize else unused,
            torch.zeros_like(like) if self.normalize else unused,
            torch.zeros_like(like) if self.consensus == "count" else unused,
        )

    def measure(self, state: SumState | SignState, x: Vector, origin: Origin) -> Measured:
        return Measured(origin.weight, self._sparsifier.plan(x, origin))

    def add(
        self, state: SumState | SignState, x: torch.Tensor, measure: Measured, start: int
    ) -> SumState | SignState:
        weight = measure.weight
        sparse = self._sparsifier.apply(x, measure.plan, start)
        if isinstance(state, SumState):
            return SumState(torch.add(state.total, sparse, alpha=weight), state.weight + weight)
        weighted = sparse if weight == 1 else sparse * weight
        positive, negative = state.positive + weighted.relu(), state.negative + weighted.clamp(max=0)
        up, down, votes = state.positive_weight, state.negative_weight, state.votes
        if self.normalize or self.consensus == "count":
            sign = weighted.sign()
            if self.consensus == "count":
                votes = votes + sign
            if self.normalize:
                up = torch.add(up, sign.relu(), alpha=abs(weight))
                down = torch.sub(down, sign.clamp_(max=0), alpha=abs(weight))
        return SignState(positive, negative, up, down, votes)

    def result(self, state: SumState | SignState) -> torch.Tensor:
        assert not isinstance(self.scale, Sequence), "one of the variants has to be chosen first"
        if isinstance(state, SumState):
            divisor = state.weight if self.normalize and state.weight else 1.0
            return state.total * (self.scale / divisor)
        vote = state.votes if self.consensus == "count" else state.positive + state.negative
        # 1 where + is elected, else 0; interpolating with it chooses to the last bit, and
        # is many times as fast as a mask
        plus = vote.sign().add_(1).clamp_(max=1)
        merged = torch.lerp(state.negative, state.positive, plus)
        if self.normalize:
            weight = torch.lerp(state.negative_weight, state.positive_weight, plus)
            merged.div_(weight.clamp_(min=_NO_WEIGHT))  # where no run agrees, 0 is divided
        return merged if self.scale == 1 else merged.mul_(self.scale)

    @property
    def _sparsifier(self) -> Sparsifier:
        return self.sparsifier or Keep()


def _finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
