"""Hydra takes plugins from this namespace only; the sweeper itself is `soupkitchen.cli.sweeper`."""

from __future__ import annotations

from soupkitchen.cli.sweeper import FittingSweeper


class SoupkitchenSweeper(FittingSweeper):
    """What ``hydra/sweeper=soupkitchen`` names."""
