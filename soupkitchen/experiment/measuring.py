"""Measures peak memory and, with `runtime.profile=true`, time by part."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from soupkitchen.process import stopwatch
from soupkitchen.records import write_csv
from soupkitchen.store.folder import PROFILE

log = logging.getLogger(__name__)

_UNIT = 1 if sys.platform == "darwin" else 1024
"""Bytes in getrusage's unit."""


def watch(device: torch.device, looks: bool) -> None:
    """Ends "starting"; with `looks`, `device` is synchronized between parts from now on."""
    stopwatch.started()
    stopwatch.looks = looks
    if device.type != "cpu":
        stopwatch.settle = partial(torch.accelerator.synchronize, device)


def write_profile(folder: Path) -> None:
    table = pd.DataFrame(stopwatch.spent().items(), columns=["part", "seconds"])
    total = table["seconds"].sum()
    table["share"] = table["seconds"] / total
    table["bytes"] = pd.array(
        [stopwatch.read if part == "reading" else None for part in table["part"]], "Int64"
    )
    write_csv(folder / PROFILE, table.round({"seconds": 3, "share": 4}))
    log.info("profile  %.1f s in all, %.2f GB of weights read", total, stopwatch.read / 1e9)
    for part, seconds, share, _ in table.itertuples(index=False):
        log.info("  %-12s %6.1f %%  %8.2f s", part, 100 * share, seconds)


class Peak(NamedTuple):
    """Peak GiB of tensors on the fullest accelerator, and of this process; None if unknown."""

    device: float | None
    host: float | None


UNKNOWN = Peak(None, None)


def reset_peak(device: torch.device) -> None:
    """Restarts the accelerators' peak; the host's always counts from the start."""
    for one, module in _accelerators(device):
        if hasattr(module, "reset_peak_memory_stats"):
            module.reset_peak_memory_stats(one)


def peak(device: torch.device) -> Peak:
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
