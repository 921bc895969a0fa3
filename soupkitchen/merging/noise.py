"""Random numbers that depend only on a seed, the ingredient's fingerprint and the tensor's name.

Each block has its own stream (SFC64, seeded by a hash), so any slice can be drawn alone, the same on every
device.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import torch
from numpy.random.bit_generator import ISeedSequence

_BLOCK = 1 << 17
"""Numbers drawn from one stream."""


def key_of(seed: int, ingredient: str, tensor: str) -> int:
    text = f"{seed}\0{ingredient}\0{tensor}".encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=16).digest(), "little")


def uniform(key: int, start: int, number: int, device: torch.device) -> torch.Tensor:
    """Numbers `start` to ``start + number`` of a tensor, uniform in [0, 1): float32, flat."""
    blocks = [_stream(key, block).random_raw(_BLOCK // 2).view(np.uint32) for block in _blocks(start, number)]
    bits = np.concatenate(blocks)[start % _BLOCK :][:number]
    return torch.from_numpy((bits >> np.uint32(8)).astype(np.float32) * np.float32(2**-24)).to(device)


def attainable(probability: float) -> float:
    """The probability that `survivors` uses: the nearest multiple of 2⁻¹⁶ above 0."""
    return max(round(probability * 2**16), 1) / 2**16


def survivors(key: int, start: int, number: int, probability: float, device: torch.device) -> torch.Tensor:
    """1 with the `attainable` probability, else 0, from element `start`: float32, flat."""
    wanted = round(attainable(probability) * 2**16)
    packed = np.concatenate([_chances(key, block, wanted) for block in _blocks(start, number)])
    drawn = np.unpackbits(packed, bitorder="little")[start % _BLOCK :][:number]
    return torch.from_numpy(drawn).to(device).float()


def _chances(key: int, block: int, wanted: int) -> np.ndarray:
    """Bits that are 1 with probability `wanted` / 2¹⁶, as bytes.

    Fair bits are combined word by word, once for each binary digit: "and" with fair bits turns probability p
    into p / 2, "or" into (1 + p) / 2.
    """
    if wanted == 2**16:
        return np.full(_BLOCK // 8, 0xFF, np.uint8)
    digits = f"{wanted:016b}".rstrip("0")
    fair = _stream(key, block).random_raw(len(digits) * _BLOCK // 64).reshape(len(digits), -1)
    chances = fair[0]
    for digit, bits in zip(digits[-2::-1], fair[1:], strict=True):
        combine = np.bitwise_or if digit == "1" else np.bitwise_and
        combine(chances, bits, out=chances)
    return chances.view(np.uint8)


def _blocks(start: int, number: int) -> range:
    return range(start // _BLOCK, (start + max(number, 1) - 1) // _BLOCK + 1)


def _stream(key: int, block: int) -> np.random.SFC64:
    seed: Any = _Hashed(f"{key} {block}".encode())  # numpy takes any ISeedSequence, its type hints do not
    return np.random.SFC64(seed)


class _Hashed(ISeedSequence):
    """Seeds a generator by a hash: as good as numpy's SeedSequence, ten times as fast."""

    def __init__(self, name: bytes) -> None:
        self._name = name

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        size = n_words * np.dtype(dtype).itemsize
        return np.frombuffer(hashlib.blake2b(self._name, digest_size=size).digest(), dtype)
