"""Metrics that need no network, and those of one's own.

A shipped metric is a class with a `name` in a file of this folder, and imports nothing heavy before it is
computed. `soupkitchen.metrics.load` finds these, then classes elsewhere, then metrics of `evaluate`.
"""

from soupkitchen.metrics.base import Rows, Score, TaskMetric, installed, load, shipped, take, weighted_mean

__all__ = ["Rows", "Score", "TaskMetric", "installed", "load", "shipped", "take", "weighted_mean"]
