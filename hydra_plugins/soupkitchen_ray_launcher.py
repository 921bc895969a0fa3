"""Hydra takes plugins from this namespace only; the launcher itself is `soupkitchen.cli.ray_launcher`."""

from __future__ import annotations

from soupkitchen.cli.ray_launcher import RayLauncher


class SoupkitchenRayLauncher(RayLauncher):
    """The launcher of ``hydra/launcher=ray``."""
