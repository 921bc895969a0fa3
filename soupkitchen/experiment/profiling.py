"""Tells where a run's time went (`runtime.profile=true`)."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pandas as pd
import torch

from soupkitchen.records import write_csv
from soupkitchen.stopwatch import stopwatch
from soupkitchen.store.layout import PROFILE

log = logging.getLogger(__name__)


def watch(device: torch.device, looks: bool) -> None:
    """Ends "starting"; where somebody `looks`, `device` is waited for between parts from now on."""
    stopwatch.started()
    stopwatch.looks = looks
    if device.type != "cpu":
        stopwatch.settle = partial(torch.accelerator.synchronize, device)


def write_profile(folder: Path) -> None:
    """Writes seconds and shares by part of the work to `folder`, and says them."""
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
