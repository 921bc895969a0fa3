"""Finds, checks and reads runs, one tensor at a time."""

from soupkitchen.checkpoints.checkpoint import Checkpoint
from soupkitchen.checkpoints.pool import Pool, find_pool
from soupkitchen.checkpoints.weights import TensorInfo, Tensors

__all__ = ["Checkpoint", "Pool", "TensorInfo", "Tensors", "find_pool"]
