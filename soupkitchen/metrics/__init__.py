"""Metrics that need no network, and your own.

A shipped metric is a class with a `name` in a file here; it imports nothing heavy before use. `load` finds
these, then other classes and graders, then metrics of `evaluate`.
"""

from soupkitchen.metrics.base import (
    Rows,
    Score,
    TaskMetric,
    installed,
    shares,
    take,
    weighted_mean,
)
from soupkitchen.metrics.graders import Asked
from soupkitchen.metrics.loading import load, shipped

__all__ = [
    "Asked",
    "Rows",
    "Score",
    "TaskMetric",
    "installed",
    "load",
    "shares",
    "shipped",
    "take",
    "weighted_mean",
]
