"""Merge methods: pure functions on tensors. They know no files and no models."""

from soupkitchen.merging.base import MergeMethod, Origin
from soupkitchen.merging.linear import Linear

__all__ = ["Linear", "MergeMethod", "Origin"]
