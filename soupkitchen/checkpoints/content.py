"""Every byte of weights, to take a digest of them and to see which values are finite.

Files are read through one small buffer. Mapping their pages takes longer than all that is done with
them here, and threads that do so hinder each other.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cache
from io import BufferedReader
from pathlib import Path

import numpy as np
import torch

from soupkitchen.checkpoints.strangers import open_regular
from soupkitchen.errors import CheckpointError

Block = memoryview
"""Some bytes of one tensor, whole values only."""

_BLOCK = 1 << 21
"""Bytes of a block at most: few enough to be in the cache when looked at twice."""

_LONGEST_HEADER = 100_000_000
"""safetensors' own bound, in bytes."""


class RawFiles(ExitStack):
    """safetensors files, read tensor by tensor in the order that is asked for."""

    def __init__(self) -> None:
        super().__init__()
        self._files: dict[Path, tuple[BufferedReader, dict[str, tuple[int, int]]]] = {}
        self._buffer = memoryview(bytearray(_BLOCK))

    def blocks(self, file: Path, name: str) -> Iterator[Block]:
        """The bytes of the tensor called `name`; a block is overwritten by the next.

        Raises:
            CheckpointError: where the file is not what it was any more.
        """
        try:
            handle, places = self._files.get(file) or self._open(file)
            begin, end = places[name]
            handle.seek(begin)
            while begin < end:
                block = self._buffer[: end - begin]
                if handle.readinto(block) < len(block):
                    raise OSError("it has become shorter")
                begin += len(block)
                yield block
        except (CheckpointError, OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} cannot be read any more ({error})") from error

    def _open(self, file: Path) -> tuple[BufferedReader, dict[str, tuple[int, int]]]:
        handle = self.enter_context(open_regular(file))
        length = int.from_bytes(handle.read(8), "little")
        if length > _LONGEST_HEADER:
            raise ValueError("its header has become too long")
        header = json.loads(handle.read(length))
        header.pop("__metadata__", None)
        places = {name: tuple(8 + length + x for x in info["data_offsets"]) for name, info in header.items()}
        self._files[file] = handle, places
        return self._files[file]


def blocks_of(tensor: torch.Tensor) -> Iterator[Block]:
    """The bytes of a tensor."""
    values = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    for start in range(0, values.size, _BLOCK):
        yield values[start : start + _BLOCK].data


def not_finite(block: Block, dtype: torch.dtype) -> int:
    """How many values of a floating-point `dtype` are NaN or infinite: beyond the largest, by their bits."""
    sign, largest = 1 << (8 * dtype.itemsize - 1), _largest(dtype)
    values = np.frombuffer(block, f"u{dtype.itemsize}")
    # taken as whole numbers with a sign, positive values are in order; without one, negative values
    if values.view(f"i{dtype.itemsize}").max() <= largest and values.max() <= sign + largest:
        return 0
    return int(np.count_nonzero((values & values.dtype.type(sign - 1)) > largest))


@cache
def _largest(dtype: torch.dtype) -> int:
    """The bits of the largest number."""
    largest = torch.tensor([torch.finfo(dtype).max], dtype=dtype).view(torch.uint8)
    return int.from_bytes(largest.numpy().tobytes(), "little")
