"""Hydra takes plugins from this namespace only; the sweeper itself is `soupkitchen.cli.sweeper`."""

from __future__ import annotations

from soupkitchen.cli.sweeper import FittingSweeper


class SoupkitchenSweeper(FittingSweeper):
    """The sweeper of ``hydra/sweeper=soupkitchen``."""
