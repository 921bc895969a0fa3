"""How much memory was taken at most."""

from __future__ import annotations

import sys
from typing import NamedTuple

import torch

_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in what getrusage counts memory by."""


class Peak(NamedTuple):
    """In GiB: memory that tensors took on the accelerator that was fullest, and of this process on the host.

    None where there is no such device, or where it does not tell.
    """

    device: float | None
    host: float | None


UNKNOWN = Peak(None, None)


def reset_peak(device: torch.device) -> None:
    """Counts anew from here on what the accelerators gave; the host counts from a process's start."""
    for one, module in _accelerators(device):
        if hasattr(module, "reset_peak_memory_stats"):
            module.reset_peak_memory_stats(one)


def peak(device: torch.device) -> Peak:
    """The most since `reset_peak`, of accelerators of the kind of `device`."""
    counted = [
        module.max_memory_allocated(one)
        for one, module in _accelerators(device)
        if hasattr(module, "max_memory_allocated")
    ]
    return Peak(_gib(max(counted)) if counted else None, _of_the_process())


def _accelerators(device: torch.device) -> list[tuple[int, object]]:
    if device.type == "cpu":
        return []
    module = torch.get_device_module(device)
    return [(number, module) for number in range(module.device_count())]


def _of_the_process() -> float | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    return _gib(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT)


def _gib(size: int) -> float:
    return round(size / 2**30, 3)
