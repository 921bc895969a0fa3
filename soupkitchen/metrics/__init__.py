"""Metrics that need no network, in the form that the `evaluate` package gives them.

A metric is a module of this folder with one class `Metric`, an
`evaluate.Metric`; its file's name is its name. `soupkitchen.metrics.load` finds
these, then metrics on disk, then the hub's.
"""

from soupkitchen.metrics.base import Rows, Score, TaskMetric, take
from soupkitchen.metrics.loading import load, shipped

__all__ = ["Rows", "Score", "TaskMetric", "load", "shipped", "take"]
