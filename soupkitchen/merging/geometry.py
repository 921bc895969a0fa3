"""Norms and dot products over whole tensors: float64 sums, chunk by chunk."""

from __future__ import annotations

import math

import torch

from soupkitchen.merging.base import Vector
from soupkitchen.merging.chunks import chunks


def dot(a: Vector, b: Vector) -> float:
    """⟨a, b⟩ of flat float32 vectors, accumulated in float64."""
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for part in chunks(a.numel(), a.device):
        total += torch.dot(a[part].double(), b[part].double())
    return float(total)


def norm(a: Vector) -> float:
    """‖a‖₂ of a flat float32 vector."""
    total = torch.zeros((), dtype=torch.float64, device=a.device)
    for part in chunks(a.numel(), a.device):
        x = a[part].double()
        total += torch.dot(x, x)
    return math.sqrt(float(total))
