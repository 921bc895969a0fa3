"""Which run to try next, and whether it stays."""

from soupkitchen.search.base import Ranked, Search, Trial, rank
from soupkitchen.search.greedy import Greedy
from soupkitchen.search.uniform import Uniform

__all__ = ["Greedy", "Ranked", "Search", "Trial", "Uniform", "rank"]
