"""Hydra takes plugins from this namespace only; the classes themselves are in `soupkitchen.cli.sweeps`."""

from __future__ import annotations

from soupkitchen.cli.sweeps import FittingSweeper, RayLauncher


class SoupkitchenRayLauncher(RayLauncher):
    """The launcher of ``hydra/launcher=ray``."""


class SoupkitchenSweeper(FittingSweeper):
    """The sweeper of ``hydra/sweeper=soupkitchen``."""
