"""Finds the k largest magnitudes of a vector without sorting or copying it.

A sample gives two bounds that almost surely enclose the k-th largest. One pass counts the magnitudes above
and gathers those between, some 2 % of a long vector; quickselect finds the k-th largest among these. If the
sample misled, all are gathered, so the result is always exact. The earlier of equal magnitudes is chosen, so
that every device chooses the same k.

On an accelerator, where the host should not wait for each chunk, `_counted` is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from soupkitchen.merging.base import Vector
from soupkitchen.merging.chunks import chunks

_SHARE, _LEAST, _MOST = 256, 1 << 12, 1 << 16
"""One of so many elements is sampled, within these limits."""
_WIDTH = 3.5
"""Half the distance of the bounds, in standard errors of the sample's quantile."""
_PIECE = 1 << 15
"""Elements for counting ties on a CPU: few, as one piece is searched again."""

_INFINITY = 0x7F800000
"""The bits of infinity; NaNs have larger ones."""
_NONE = 1 << 16

Ties = list[tuple[slice, int]]
"""Counts of magnitudes equal to some value, by part of a vector."""


class Largest(NamedTuple):
    """Marks the k largest magnitudes.

    Attributes:
        threshold: the k-th largest magnitude.
        last_tie: the position of the last chosen element at the threshold; -1 for none, None for all of them.
    """

    threshold: float
    last_tie: int | None

    def keep(self, x: torch.Tensor, start: int) -> torch.Tensor:
        """`x` (flat, a slice from `start`) with the other entries zeroed."""
        if self.threshold == 0:
            return x
        with_ties = x.numel() if self.last_tie is None else self.last_tie + 1 - start
        below = float(np.nextafter(np.float32(self.threshold), np.float32(0)))
        if with_ties >= x.numel():
            return torch.nn.functional.hardshrink(x, below)
        if with_ties <= 0:
            return torch.nn.functional.hardshrink(x, self.threshold)
        shrink, early, late = torch.nn.functional.hardshrink, x[:with_ties], x[with_ties:]
        return torch.cat([shrink(early, below), shrink(late, self.threshold)])

    def after(self, offset: int) -> Largest:
        """The same for the part from `offset`."""
        return self if self.last_tie is None else Largest(self.threshold, self.last_tie - offset)


def largest(x: Vector, k: int) -> Largest:
    """The `k` elements of largest magnitude, the earlier first among equals; all if there are NaNs."""
    if k <= 0:
        return Largest(math.inf, -1)
    if k >= x.numel():
        return Largest(0.0, None)
    if x.device.type != "cpu":
        return _counted(x, k)
    brackets = [(0.0, math.inf)] if x.numel() <= 16 * _LEAST else [_bracket(x, k), (0.0, math.inf)]
    for low, high in brackets:
        if low == high:  # changes of bfloat16 weights take few values, so many are equal
            above, ties = _count(x, low)
            if above < k <= above + sum(number for _, number in ties):
                return Largest(low, _last_tie(x, low, k - above, ties))
        else:
            above, gathered, sizes = _look(x, low, high)
            if above < k <= above + gathered.size:
                return _at(x, k - above, gathered, sizes)
    return Largest(0.0, None)


def _bracket(x: Vector, k: int) -> tuple[float, float]:
    wanted = min(max(x.numel() // _SHARE, _LEAST), _MOST)
    stride = (x.numel() // wanted) | 1  # odd, so as not to walk down one column of a matrix
    sample = x[::stride].abs().numpy()
    share = 1 - k / x.numel()
    middle = share * sample.size
    reach = _WIDTH * math.sqrt(share * (1 - share) * sample.size) + 1
    below, above = math.floor(middle - reach), math.ceil(middle + reach)
    split = np.partition(sample, [max(below, 0), min(above, sample.size - 1)])
    low = float(split[below]) if below >= 0 else 0.0
    high = float(split[above]) if above < sample.size else math.inf
    return low, high


def _look(x: Vector, low: float, high: float) -> tuple[int, np.ndarray, list[int]]:
    """The number of magnitudes above `high`; those from `low` to `high`, and their number by chunk."""
    above, sizes = 0, []
    gathered = np.empty(x.numel(), np.float32)  # pages are allocated as they are filled
    filled = 0
    for part in chunks(x.numel(), x.device):
        values = x[part].abs().numpy()  # numpy compares and counts several times as fast as torch
        too_high = values > np.float32(high)
        above += int(np.count_nonzero(too_high))
        between = values.take(np.flatnonzero((values >= np.float32(low)) != too_high))
        gathered[filled : filled + between.size] = between
        filled += between.size
        sizes.append(between.size)
    return above, gathered[:filled], sizes


def _count(x: Vector, value: float) -> tuple[int, Ties]:
    above = 0
    ties: Ties = []
    for part in chunks(x.numel(), x.device):
        values = x[part].abs().numpy()
        above += int(np.count_nonzero(values > np.float32(value)))
        equal = values == np.float32(value)
        for start in range(0, equal.size, _PIECE):
            piece = equal[start : start + _PIECE]
            where = slice(part.start + start, part.start + start + piece.size)
            ties.append((where, int(np.count_nonzero(piece))))
    return above, ties


def _at(x: Vector, k: int, gathered: np.ndarray, sizes: list[int]) -> Largest:
    """The k-th largest of the `gathered` magnitudes; `sizes` are their numbers by chunk."""
    threshold = np.partition(gathered, gathered.size - k)[gathered.size - k]
    wanted = k - int(np.count_nonzero(gathered > threshold))
    tied = np.split(gathered == threshold, np.cumsum(sizes)[:-1])
    numbers = [int(np.count_nonzero(part)) for part in tied]
    ties = list(zip(chunks(x.numel(), x.device), numbers, strict=True))
    return Largest(float(threshold), _last_tie(x, float(threshold), wanted, ties))


def _last_tie(x: Vector, threshold: float, wanted: int, ties: Ties) -> int | None:
    """The place of the last of `wanted` magnitudes equal to `threshold`; None if these are all."""
    if wanted == sum(number for _, number in ties):
        return None
    for part, number in ties:
        if wanted <= number:
            positions = np.flatnonzero(x[part].abs().numpy() == np.float32(threshold))
            return part.start + int(positions[wanted - 1])
        wanted -= number
    raise AssertionError("ties were counted")


def _counted(x: Vector, k: int) -> Largest:
    """As `largest`, but the host waits at most four times.

    Bits of nonnegative floats sort like the floats. So magnitudes are counted by their upper 16 bits; those
    with the k-th largest's upper bits are counted by their lower ones.
    """
    upper, above, _ = _bin_of(x, k, lambda bits: torch.where(bits > _INFINITY, _NONE, bits >> 16))
    if upper < 0:
        return Largest(0.0, None)

    def lower_bits(bits: torch.Tensor) -> torch.Tensor:
        return torch.where((bits >> 16 == upper) & (bits <= _INFINITY), bits & 0xFFFF, _NONE)

    lower, more, number = _bin_of(x, k - above, lower_bits)
    threshold = float(np.uint32(upper << 16 | lower).view(np.float32))
    wanted = k - above - more
    return Largest(threshold, None if wanted == number else _position_of_tie(x, threshold, wanted))


def _bin_of(x: Vector, k: int, bin_of: Callable[[torch.Tensor], torch.Tensor]) -> list[int]:
    """The bin of the k-th largest magnitude, the number in higher bins, and in this one.

    `bin_of` maps bits to bins below 2¹⁶, or to `_NONE` to leave them out. The bin is -1 if fewer than k are
    left.
    """
    counts = torch.zeros(_NONE + 1, dtype=torch.int64, device=x.device)
    for part in chunks(x.numel(), x.device):
        bins = bin_of(x[part].abs().view(torch.int32)).long()
        counts.scatter_add_(0, bins, torch.ones_like(bins))
    counts = counts[:_NONE]
    at_least = counts.flip(0).cumsum(0).flip(0)
    found = (at_least >= k).sum() - 1
    total, number = (torch.take(x, found.clamp(min=0)) for x in (at_least, counts))
    return torch.stack([found, total - number, number]).tolist()


def _position_of_tie(x: Vector, threshold: float, wanted: int) -> int:
    position = torch.full((), -1, dtype=torch.int64, device=x.device)
    before = torch.zeros((), dtype=torch.int64, device=x.device)
    for part in chunks(x.numel(), x.device):
        equal = x[part].abs() == threshold
        reached = equal.cumsum(0) + before
        found = (equal & (reached == wanted)).long().argmax()
        is_here = (before < wanted) & (reached[-1] >= wanted)
        position = torch.where(is_here, found + part.start, position)
        before = reached[-1]
    return int(position)


def ascending(rows: torch.Tensor) -> torch.Tensor:
    """Positions (int64) that sort each row of nonnegative float32 values, stably."""
    if rows.device.type != "cpu":
        return rows.argsort(dim=1, stable=True)
    # Bits of nonnegative floats sort like the floats. With the position in the lower bits all keys
    # differ, so an unstable sort will do: several times as fast on a CPU.
    keys = rows.numpy().view(np.uint32).astype(np.uint64)
    keys <<= np.uint64(32)
    keys |= np.arange(rows.shape[1], dtype=np.uint64)
    keys.sort(axis=1)
    keys &= np.uint64(0xFFFFFFFF)
    return torch.from_numpy(keys.view(np.int64))
