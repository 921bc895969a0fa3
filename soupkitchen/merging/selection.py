"""Finds the k largest magnitudes of a tensor without sorting it.

Only the k-th largest magnitude has to be known. On a CPU numpy's quickselect
finds it; ties at it are broken by position, the earlier element first, so that
exactly k elements are chosen on every device.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch


class Largest(NamedTuple):
    """Which elements are among the k largest magnitudes.

    Attributes:
        threshold: the k-th largest magnitude; infinity for k = 0.
        last_tie: the position (in the flat tensor) of the last element at the
            threshold that is still chosen; None where all of them are.
    """

    threshold: float
    last_tie: int | None

    def chosen(self, magnitudes: torch.Tensor, start: int) -> torch.Tensor:
        """Which of `magnitudes` (flat, a slice beginning at `start`) are chosen: bool."""
        above = magnitudes >= self.threshold
        if self.last_tie is None:
            return above
        positions = torch.arange(start, start + magnitudes.numel(), device=magnitudes.device)
        return above & ((magnitudes > self.threshold) | (positions <= self.last_tie))

    def keep(self, x: torch.Tensor, start: int) -> torch.Tensor:
        """`x` (flat, a slice beginning at `start`) with all but the chosen entries zeroed.

        Without a tie to break this is `hardshrink` just below the threshold, several
        times as fast as a mask.
        """
        if self.last_tie is not None or math.isinf(self.threshold):
            return x * self.chosen(x.abs(), start)
        if self.threshold == 0:
            return x
        below = float(np.nextafter(np.float32(self.threshold), np.float32(0)))
        return torch.nn.functional.hardshrink(x, below)


def largest(x: torch.Tensor, k: int) -> Largest:
    """The `k` elements of largest magnitude of `x` (float32, any shape), the earlier first among equals."""
    if k <= 0:
        return Largest(float("inf"), None)
    magnitudes = x.reshape(-1).abs()
    total = magnitudes.numel()
    if k >= total:
        return Largest(0.0, None)
    if magnitudes.device.type == "cpu":
        split = np.partition(magnitudes.numpy(), total - k)
        threshold = float(split[total - k])
        surplus = int(np.count_nonzero(split[: total - k] == split[total - k]))
    else:
        threshold = float(torch.kthvalue(magnitudes, total - k + 1).values)
        surplus = int((magnitudes >= threshold).sum()) - k
    if surplus <= 0:
        return Largest(threshold, None)
    ties = (magnitudes == threshold).nonzero().reshape(-1)
    kept = ties.numel() - surplus
    return Largest(threshold, int(ties[kept - 1]))
