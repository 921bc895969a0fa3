"""Hydra takes plugins from this namespace only; the launcher itself is `soupkitchen.cli.sweeps`."""

from __future__ import annotations

from soupkitchen.cli.sweeps import RayLauncher


class SoupkitchenRayLauncher(RayLauncher):
    """The launcher of ``hydra/launcher=ray``."""
