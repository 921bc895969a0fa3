"""Dot products over whole tensors: float64 sums, chunk by chunk, on the device where tensors are looked at.

The host waits for all products of a merge's tensors once, whatever their number.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from soupkitchen.merging.base import Vector
from soupkitchen.merging.chunks import chunks


def gram(vectors: Sequence[Vector], device: torch.device) -> np.ndarray:
    """⟨a, b⟩ for all pairs of flat float32 vectors of one length: float64 (n, n), on the host.

    Args:
        device: where products are formed; a vector may lie elsewhere.
    """
    total = torch.zeros(len(vectors), len(vectors), dtype=widest(device), device=device)
    for part in chunks(vectors[0].numel(), device, beside=len(vectors)):
        rows = torch.stack([vector[part].to(device, total.dtype) for vector in vectors])
        total += rows @ rows.T
    products: np.ndarray = total.cpu().double().numpy()
    return products


def widest(device: torch.device) -> torch.dtype:
    """What sums are kept in: float64, but where a device has none."""
    return torch.float32 if device.type == "mps" else torch.float64
