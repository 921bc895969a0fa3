"""Walks over long flat tensors in chunks, so that temporaries stay in a core's cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch

CPU_CHUNK = 1 << 17
"""Elements at once on a CPU: enough for torch's threads to share, few enough for the cache."""
GPU_CHUNK = 1 << 26


def chunks(elements: int, device: torch.device, whole: int = 1) -> Iterator[slice]:
    """Slices that cover `elements` elements; none cuts through a row of `whole` elements."""
    size = CPU_CHUNK if device.type == "cpu" else GPU_CHUNK
    size = max(size // whole, 1) * whole
    for start in range(0, elements, size):
        yield slice(start, min(start + size, elements))
