"""Searches: propose mixtures, and say which become the soup. They know no torch."""

from soupkitchen.search.base import (
    AcceptRule,
    Choice,
    Facts,
    Guarded,
    Mixture,
    Proposal,
    Ranked,
    Search,
    Trial,
    rank,
)
from soupkitchen.search.evolve import Evolve
from soupkitchen.search.exhaustive import Exhaustive
from soupkitchen.search.greedy import Greedy
from soupkitchen.search.pruning import Pruned
from soupkitchen.search.uniform import Uniform
from soupkitchen.search.window import Window

__all__ = [
    "AcceptRule",
    "Choice",
    "Evolve",
    "Exhaustive",
    "Facts",
    "Greedy",
    "Guarded",
    "Mixture",
    "Proposal",
    "Pruned",
    "Ranked",
    "Search",
    "Trial",
    "Uniform",
    "Window",
    "rank",
]
