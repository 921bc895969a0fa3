"""Combines sparse task vectors: sums them, or elects a sign for each entry first.

With wᵢ the weights, δ̂ᵢ the sparse task vectors, and vᵢ = wᵢδ̂ᵢ:

- `Sum`, without consensus: Σ vᵢ, divided by Σ wᵢ if normalised;
- `Mass` and `Count` (TIES): a sign for each entry, by mass (the sign of Σ vᵢ) or by count (of Σ sign vᵢ), +
  if that is 0; then Σ of the vᵢ of that sign, divided by their Σ |wᵢ| if normalised, 0 if there are none.

All are running sums. Sums of weights take a byte as long as all weights are whole numbers.

Yadav et al. 2023, "TIES-Merging", arXiv 2306.01708, section 3.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

_NO_WEIGHT = torch.finfo(torch.float32).tiny
_MOST = torch.iinfo(torch.int8).max


class Consensus(Protocol):
    """A fold over sparse task vectors, float32 and flat, element by element; its state is private."""

    def init(self, like: torch.Tensor) -> Any:
        """The empty state for tensors like `like`."""
        ...

    def add(self, state: Any, sparse: torch.Tensor, weight: float, factor: float, out: Any = None) -> Any:
        """The state with `factor` (above 0) times `sparse` more; changes neither argument.

        `out` is a state to write the result to, as in torch; it may be `state`.
        """
        ...

    def merged(self, state: Any) -> torch.Tensor:
        """The merged task vector; may be a tensor of the state."""
        ...


class SumState(NamedTuple):
    total: torch.Tensor
    weight: float


@dataclass(frozen=True)
class Sum:
    normalize: bool

    def init(self, like: torch.Tensor) -> SumState:
        return SumState(torch.zeros_like(like), 0.0)

    def add(
        self, state: SumState, sparse: torch.Tensor, weight: float, factor: float, out: SumState | None = None
    ) -> SumState:
        total = torch.add(state.total, sparse, alpha=weight * factor, out=out and out.total)
        return SumState(total, state.weight + weight)

    def merged(self, state: SumState) -> torch.Tensor:
        return state.total / state.weight if self.normalize and state.weight else state.total


class MassState(NamedTuple):
    """Σ vᵢ and Σ |vᵢ|; if normalised, the weights of positive and of negative entries; Σ |wᵢ|.

    The entries of one sign sum to half of Σ |vᵢ| ± Σ vᵢ. The elected sign has the larger sum, so nothing
    cancels.
    """

    total: torch.Tensor
    magnitude: torch.Tensor
    positive_weight: torch.Tensor
    negative_weight: torch.Tensor
    weight: float


@dataclass(frozen=True)
class Mass:
    normalize: bool

    def init(self, like: torch.Tensor) -> MassState:
        return MassState(torch.zeros_like(like), torch.zeros_like(like), *_no_weights(like, self.normalize))

    def add(
        self,
        state: MassState,
        sparse: torch.Tensor,
        weight: float,
        factor: float,
        out: MassState | None = None,
    ) -> MassState:
        sign = sparse.sign()
        total = torch.add(state.total, sparse, alpha=weight * factor, out=out and out.total)
        magnitude = torch.addcmul(
            state.magnitude, sparse, sign, value=abs(weight) * factor, out=out and out.magnitude
        )
        if not self.normalize:
            return state._replace(total=total, magnitude=magnitude)
        return MassState(total, magnitude, *_weights(state, sign.neg_() if weight < 0 else sign, weight, out))

    def merged(self, state: MassState) -> torch.Tensor:
        merged = torch.copysign(state.magnitude, state.total).add_(state.total).mul_(0.5)
        if not self.normalize:
            return merged
        return _normalized(merged, state, _elected(state.total))


class CountState(NamedTuple):
    """Sums of positive and of negative entries; votes; the entries' weights if normalised; Σ |wᵢ|."""

    positive: torch.Tensor
    negative: torch.Tensor
    votes: torch.Tensor
    positive_weight: torch.Tensor
    negative_weight: torch.Tensor
    weight: float


@dataclass(frozen=True)
class Count:
    normalize: bool

    def init(self, like: torch.Tensor) -> CountState:
        positive, negative, votes = (torch.zeros_like(like) for _ in range(3))
        return CountState(positive, negative, votes, *_no_weights(like, self.normalize))

    def add(
        self,
        state: CountState,
        sparse: torch.Tensor,
        weight: float,
        factor: float,
        out: CountState | None = None,
    ) -> CountState:
        weighted = sparse * (weight * factor)
        sign = weighted.sign()
        positive = torch.add(state.positive, weighted.relu(), out=out and out.positive)
        negative = torch.add(state.negative, weighted.clamp_(max=0), out=out and out.negative)
        votes = torch.add(state.votes, sign, out=out and out.votes)
        if not self.normalize:
            return state._replace(positive=positive, negative=negative, votes=votes)
        return CountState(positive, negative, votes, *_weights(state, sign, weight, out))

    def merged(self, state: CountState) -> torch.Tensor:
        plus = _elected(state.votes)
        merged = torch.lerp(state.negative, state.positive, plus)
        if not self.normalize:
            return merged
        return _normalized(merged, state, plus)


def _no_weights(like: torch.Tensor, used: bool) -> tuple[torch.Tensor, torch.Tensor, float]:
    size = like.numel() if used else 0
    positive, negative = (torch.zeros(size, dtype=torch.int8, device=like.device) for _ in range(2))
    return positive, negative, 0.0


def _weights(
    state: MassState | CountState, sign: torch.Tensor, weight: float, out: MassState | CountState | None
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Adds a task vector's weight by sign; overwrites `sign`.

    int8 becomes float32 at the first weight that is not whole or does not fit.
    """
    step, total = abs(weight), state.weight + abs(weight)
    alpha: float = step
    if state.positive_weight.dtype == torch.int8:
        if step.is_integer() and total <= _MOST:
            sign, alpha = sign.to(torch.int8), int(step)
        else:
            out = None
    positive = torch.add(
        state.positive_weight, sign.clamp(min=0), alpha=alpha, out=out and out.positive_weight
    )
    negative = torch.sub(
        state.negative_weight, sign.clamp_(max=0), alpha=alpha, out=out and out.negative_weight
    )
    return positive, negative, total


def _elected(votes: torch.Tensor) -> torch.Tensor:
    """1 if + is elected, else 0: lerp with it selects exactly, faster than a mask."""
    return votes.sign().add_(1).clamp_(max=1)


def _normalized(merged: torch.Tensor, state: MassState | CountState, plus: torch.Tensor) -> torch.Tensor:
    positive, negative = state.positive_weight, state.negative_weight
    if positive.dtype == torch.int8:
        least: float = 1
        weight = (positive - negative).mul_(plus.to(torch.int8)).add_(negative)
    else:
        least, weight = _NO_WEIGHT, torch.lerp(negative, positive, plus)
    return merged.div_(weight.clamp_(min=least))  # 0 / least if no run agrees
