"""Who scores what is asked for, and in how many at once."""

from soupkitchen.executors.base import Executor, Request, Scoring
from soupkitchen.executors.bench import Bench
from soupkitchen.executors.fake import Fake
from soupkitchen.executors.local import Local
from soupkitchen.executors.ray import Ray
from soupkitchen.executors.spmd import Spmd

__all__ = ["Bench", "Executor", "Fake", "Local", "Ray", "Request", "Scoring", "Spmd"]
