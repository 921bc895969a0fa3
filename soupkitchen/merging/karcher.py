"""The Karcher mean: the point on the sphere nearest to all ingredients along its surface.

Each tensor is a direction and a length. Steps in the tangent plane find the mean direction: from the present
guess m, an ingredient u lies at the angle φ = arccos⟨m, u⟩ along u − ⟨m, u⟩m; m moves along their weighted
mean. The result has the weighted mean length.

Karcher 1977, "Riemannian center of mass and mollifier smoothing".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from soupkitchen.merging.base import StackMethod
from soupkitchen.merging.chunks import gram
from soupkitchen.options.kinds import AtLeast1, Positive

_NEARLY_ZERO = 1e-12


@dataclass(frozen=True)
class Karcher(StackMethod):
    """The Riemannian mean of directions, times the mean length. Not incremental.

    Attributes:
        iterations: the largest number of steps.
        tolerance: in radians; a shorter step is the last.
    """

    iterations: AtLeast1 = 10
    tolerance: Positive = 1e-5

    keeps_equal = True

    def merge(self, tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
        flat = [x.reshape(-1) for x in tensors]
        products = gram(flat, tensors[0].device)
        lengths = np.sqrt(np.diag(products))
        shares = np.asarray(weights) / sum(weights)
        directed = lengths > _NEARLY_ZERO
        total = torch.zeros_like(flat[0])
        if directed.any():
            units = products[np.ix_(directed, directed)] / np.outer(lengths[directed], lengths[directed])
            mean = self._mean(units, shares[directed] / shares[directed].sum())
            factors = np.zeros_like(lengths)
            factors[directed] = mean * (lengths @ shares) / lengths[directed]
            for x, factor in zip(flat, factors, strict=True):
                total.add_(x, alpha=float(factor))
        return total.reshape(tensors[0].shape)

    def _mean(self, units: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """The mean direction, as coefficients (n,) of the units with inner products `units` (n, n)."""
        every = np.eye(len(shares))
        mean = _unit(shares, units, every[0])
        for _ in range(self.iterations):
            cosines = units @ mean
            sideways = every - np.outer(cosines, mean)  # one a row
            lengths = np.array([_length(row, units) for row in sideways])
            moved = lengths > _NEARLY_ZERO
            angles = np.arctan2(lengths, cosines)
            step = (shares[moved] * angles[moved] / lengths[moved]) @ sideways[moved]
            angle = _length(step, units)
            if angle < self.tolerance:
                break
            mean = _unit(mean * math.cos(angle) + step * (math.sin(angle) / angle), units, mean)
        return mean


def _length(coefficients: np.ndarray, units: np.ndarray) -> float:
    return math.sqrt(max(float(coefficients @ units @ coefficients), 0.0))


def _unit(coefficients: np.ndarray, units: np.ndarray, otherwise: np.ndarray) -> np.ndarray:
    length = _length(coefficients, units)
    return coefficients / length if length > _NEARLY_ZERO else otherwise
