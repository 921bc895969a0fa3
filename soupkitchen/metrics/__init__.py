"""Metrics that need no network, and your own.

A shipped metric is a class with a `name` in a file here; it imports nothing heavy before use. `load` finds
these, then other classes, then metrics of `evaluate`.
"""

from soupkitchen.metrics.base import (
    Rows,
    Score,
    TaskMetric,
    installed,
    load,
    shares,
    shipped,
    take,
    weighted_mean,
)

__all__ = ["Rows", "Score", "TaskMetric", "installed", "load", "shares", "shipped", "take", "weighted_mean"]
