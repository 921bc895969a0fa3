"""Norms and dot products over whole tensors: float64 sums of float32 products, chunk by chunk."""

from __future__ import annotations

import math

import torch

_CHUNK = 1 << 18


def dot(a: torch.Tensor, b: torch.Tensor) -> float:
    """⟨a, b⟩ over the flattened tensors, accumulated in float64."""
    pieces = zip(a.reshape(-1).split(_CHUNK), b.reshape(-1).split(_CHUNK), strict=True)
    return float(
        sum((torch.dot(x.double(), y.double()) for x, y in pieces), torch.zeros((), dtype=torch.float64))
    )


def norm(a: torch.Tensor) -> float:
    """‖a‖₂ over the flattened tensor."""
    return math.sqrt(dot(a, a))
