"""Executors: score requests, here or in other processes."""

from soupkitchen.executors.base import Bench, Executor, Local, Request, Scoring
from soupkitchen.executors.fake import Fake
from soupkitchen.executors.ray import Ray
from soupkitchen.executors.spmd import Spmd

__all__ = ["Bench", "Executor", "Fake", "Local", "Ray", "Request", "Scoring", "Spmd"]
