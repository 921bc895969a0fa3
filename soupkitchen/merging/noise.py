"""Random numbers that depend on what they are for, and on nothing else.

The numbers of a tensor follow from a seed, the ingredient's fingerprint and the
tensor's name. They are drawn block by block, each block from a stream of its own,
so any slice of them can be had by itself; and they are the same on every device.

numpy's `SeedSequence` keeps the streams apart; the generator is SFC64.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch

_BLOCK = 1 << 17
"""Numbers drawn from one stream."""


def key_of(seed: int, ingredient: str, tensor: str) -> int:
    """The 128-bit key of a tensor's numbers."""
    text = f"{seed}\0{ingredient}\0{tensor}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


def uniform(key: int, start: int, number: int, device: torch.device) -> torch.Tensor:
    """Numbers `start` to ``start + number`` of a tensor, uniform in [0, 1): float32, flat."""
    drawn = (_bits(key, start, number, np.uint32) >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)
    return torch.from_numpy(drawn).to(device)


def attainable(probability: float) -> float:
    """The probability with which `survivors` are chosen: the nearest multiple of 2⁻¹⁶ above 0."""
    return max(round(probability * 2**16), 1) / 2**16


def survivors(key: int, start: int, number: int, probability: float, device: torch.device) -> torch.Tensor:
    """1 with the `attainable` probability, else 0, for elements from `start` on: float32, flat."""
    drawn = _bits(key, start, number, np.uint16) <= np.uint16(attainable(probability) * 2**16 - 1)
    return torch.from_numpy(drawn.view(np.uint8)).to(device).float()


def _bits(key: int, start: int, number: int, dtype: type[np.unsignedinteger[Any]]) -> np.ndarray:
    first, last = start // _BLOCK, (start + max(number, 1) - 1) // _BLOCK
    blocks = [_block(key, block, dtype) for block in range(first, last + 1)]
    whole = blocks[0] if len(blocks) == 1 else np.concatenate(blocks)
    return whole[start - first * _BLOCK :][:number]


def _block(key: int, block: int, dtype: type[np.unsignedinteger[Any]]) -> np.ndarray:
    stream = np.random.SFC64(np.random.SeedSequence(key, spawn_key=(block,)))
    return stream.random_raw(_BLOCK * np.dtype(dtype).itemsize // 8).view(dtype)
