"""Long flat tensors, walked over in chunks so that temporaries stay in a core's cache; their dot products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from soupkitchen.merging.base import Vector

CPU_CHUNK = 1 << 18
"""Elements at once on a CPU: enough for torch's threads to share, few enough for the cache."""
GPU_CHUNK = 1 << 26
_MOST_KEPT = (32 << 20) - (1 << 16)
"""Bytes; glibc learns from blocks of up to 32 MiB."""


def keep_freed_memory() -> None:
    """Has the process keep memory that is freed for the next request.

    Else each chunk's temporaries may be given back to the system and taken from it again, page by
    page, which can take longer than the arithmetic. glibc holds on to as much as twice the largest
    block that was freed so far (mallopt(3), M_MMAP_THRESHOLD), so one is taken, not touched, and
    freed. With other allocators this does nothing.
    """
    torch.empty(_MOST_KEPT, dtype=torch.uint8)


def chunks(elements: int, device: torch.device, whole: int = 1, beside: int = 1) -> Iterator[slice]:
    """Slices that cover `elements` elements.

    Args:
        whole: no slice cuts through a row of so many elements.
        beside: slices of how many tensors are in memory at once.
    """
    size = (CPU_CHUNK if device.type == "cpu" else GPU_CHUNK) // beside
    size = max(size // whole, 1) * whole
    for start in range(0, elements, size):
        yield slice(start, min(start + size, elements))


def gram(vectors: Sequence[Vector], device: torch.device) -> np.ndarray:
    """⟨a, b⟩ for all pairs of flat float32 vectors of one length: float64 (n, n), on the host.

    Sums are float64 and stay on the device until the end: the host waits once.

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
    """The dtype of sums: float64, or float32 if a device has none."""
    return torch.float32 if device.type == "mps" else torch.float64
