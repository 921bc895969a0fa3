"""Which mixtures to try, and when one becomes the soup. Knows no torch."""

from soupkitchen.search.base import Choice, Mixture, Proposal, Ranked, Search, Trial, rank
from soupkitchen.search.greedy import Greedy
from soupkitchen.search.rules import AcceptRule
from soupkitchen.search.uniform import Uniform
from soupkitchen.search.window import Window

__all__ = [
    "AcceptRule",
    "Choice",
    "Greedy",
    "Mixture",
    "Proposal",
    "Ranked",
    "Search",
    "Trial",
    "Uniform",
    "Window",
    "rank",
]
