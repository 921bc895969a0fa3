"""The Karcher mean: the point on the sphere that is nearest to all ingredients along its surface.

Each tensor is taken as a direction and a length. The mean direction is found by
steps in the tangent plane: from the present guess m, each ingredient u lies at an
angle φ = arccos⟨m, u⟩ along (u − ⟨m, u⟩m); m moves along the weighted mean of these. The
result has the weighted mean length.

Karcher 1977, "Riemannian center of mass and mollifier smoothing".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from soupkitchen.merging.base import StackMethod
from soupkitchen.merging.geometry import dot, norm

_NEARLY_ZERO = 1e-12


@dataclass(frozen=True)
class Karcher(StackMethod):
    """The Riemannian mean of directions, times the mean length. Not incremental.

    Attributes:
        iterations: steps at most.
        tolerance: a step shorter than this, in radians, is the last.

    Raises:
        ConfigError: for iterations below 1.
    """

    iterations: int = 10
    tolerance: float = 1e-5

    def merge(self, tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
        lengths = [norm(x.reshape(-1)) for x in tensors]
        shares = [weight / sum(weights) for weight in weights]
        directed = [
            (x.reshape(-1) / length, share)
            for x, length, share in zip(tensors, lengths, shares, strict=True)
            if length > _NEARLY_ZERO
        ]
        if not directed:
            return torch.zeros_like(tensors[0])
        total = sum(share for _, share in directed)
        units = [(unit, share / total) for unit, share in directed]
        mean = _unit(sum((unit * share for unit, share in units), torch.zeros_like(units[0][0])), units[0][0])
        for _ in range(self.iterations):
            step = torch.zeros_like(mean)
            for unit, share in units:
                cosine = dot(mean, unit)
                sideways = unit - cosine * mean
                if (length := norm(sideways)) > _NEARLY_ZERO:
                    step += sideways * (share * math.atan2(length, cosine) / length)
            angle = norm(step)
            if angle < self.tolerance:
                break
            mean = _unit(mean * math.cos(angle) + step * (math.sin(angle) / angle), mean)
        length = sum(length * share for length, share in zip(lengths, shares, strict=True))
        return (mean * length).reshape(tensors[0].shape)


def _unit(x: torch.Tensor, otherwise: torch.Tensor) -> torch.Tensor:
    """`x` at length 1; `otherwise` where it has no direction."""
    return x / length if (length := norm(x)) > _NEARLY_ZERO else otherwise
