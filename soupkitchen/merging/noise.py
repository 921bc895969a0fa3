"""Random numbers that depend on what they are for, and on nothing else.

The numbers of a tensor follow from a seed, the ingredient's fingerprint and the
tensor's name. They come from a counter-based generator, so any slice of them can be
had by itself, and they are the same on every device.

Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (Philox).
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

_PER_COUNTER = 8
"""32-bit numbers that Philox makes of one value of its counter."""


def key_of(seed: int, ingredient: str, tensor: str) -> int:
    """The 128-bit key of a tensor's numbers."""
    text = f"{seed}\0{ingredient}\0{tensor}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


def uniform(key: int, start: int, number: int, device: torch.device) -> torch.Tensor:
    """Numbers `start` to ``start + number`` of a tensor, uniform in [0, 1): float32, flat."""
    first, skipped = divmod(start, _PER_COUNTER)
    generator = np.random.Generator(np.random.Philox(key=key, counter=first))
    drawn = generator.random(skipped + number, dtype=np.float32)[skipped:]
    return torch.from_numpy(drawn).to(device)
