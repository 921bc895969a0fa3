"""Chunks of long flat tensors, whose temporaries fit a core's cache; dot products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from soupkitchen.merging.base import Vector

CPU_CHUNK = 1 << 18
"""Elements: enough to share among threads, few enough for the cache."""
GPU_CHUNK = 1 << 26
_MOST_KEPT = (32 << 20) - (1 << 16)
"""Bytes; glibc learns from blocks of up to 32 MiB."""


def keep_freed_memory() -> None:
    """Makes the process keep freed memory.

    Otherwise each chunk's temporaries may go back to the system page by page, which can take longer than the
    arithmetic. glibc keeps up to twice the largest block freed so far (mallopt(3), M_MMAP_THRESHOLD), so one
    is allocated and freed. Other allocators ignore this.
    """
    torch.empty(_MOST_KEPT, dtype=torch.uint8)


def chunks(elements: int, device: torch.device, whole: int = 1, beside: int = 1) -> Iterator[slice]:
    """Yields slices that cover `elements` elements.

    Args:
        whole: length of rows that no slice cuts.
        beside: the number of tensors that are sliced together in memory.
    """
    size = (CPU_CHUNK if device.type == "cpu" else GPU_CHUNK) // beside
    size = max(size // whole, 1) * whole
    for start in range(0, elements, size):
        yield slice(start, min(start + size, elements))


def gram(vectors: Sequence[Vector], device: torch.device) -> np.ndarray:
    """⟨a, b⟩ for all pairs of flat float32 vectors of one length: float64 (n, n), on the host.

    Sums are float64 and stay on `device` until the end, so the host waits once. Vectors may lie elsewhere.
    """
    total = torch.zeros(len(vectors), len(vectors), dtype=widest(device), device=device)
    for part in chunks(vectors[0].numel(), device, beside=len(vectors)):
        rows = torch.stack([vector[part].to(device, total.dtype) for vector in vectors])
        total += rows @ rows.T
    products: np.ndarray = total.cpu().double().numpy()
    return products


def widest(device: torch.device) -> torch.dtype:
    """The dtype of sums: float64, or float32 if the device has none."""
    return torch.float32 if device.type == "mps" else torch.float64
