"""Weights on disk, one tensor at a time: reading, finding and checking runs."""

from soupkitchen.checkpoints.pool import Pool, find_pool
from soupkitchen.checkpoints.reader import Checkpoint, TensorInfo, Tensors

__all__ = ["Checkpoint", "Pool", "TensorInfo", "Tensors", "find_pool"]
