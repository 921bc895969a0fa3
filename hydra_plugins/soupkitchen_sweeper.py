"""Hydra takes plugins from this namespace only; the sweeper itself is `soupkitchen.cli.sweeps`."""

from __future__ import annotations

from soupkitchen.cli.sweeps import FittingSweeper


class SoupkitchenSweeper(FittingSweeper):
    """The sweeper of ``hydra/sweeper=soupkitchen``."""
