"""Merge methods: pure functions on tensors. They know no files and no models."""

from soupkitchen.merging.base import MergeMethod, Method, Origin, StackMethod, Vector, alternatives
from soupkitchen.merging.karcher import Karcher
from soupkitchen.merging.linear import Linear
from soupkitchen.merging.model_stock import ModelStock
from soupkitchen.merging.slerp import Slerp
from soupkitchen.merging.sparsifiers import Magnitude, MagnitudeOutliers, Random, RankRandom
from soupkitchen.merging.task_vectors import TaskVectors

__all__ = [
    "Karcher",
    "Linear",
    "Magnitude",
    "MagnitudeOutliers",
    "MergeMethod",
    "Method",
    "ModelStock",
    "Origin",
    "Random",
    "RankRandom",
    "Slerp",
    "StackMethod",
    "TaskVectors",
    "Vector",
    "alternatives",
]
