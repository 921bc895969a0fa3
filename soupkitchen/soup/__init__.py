"""Merges whole checkpoints: recipes are data, a mixer turns them into tensors."""

from soupkitchen.soup.memory import StateMemory
from soupkitchen.soup.mixer import Mixer, check_unchanged
from soupkitchen.soup.recipe import Recipe
from soupkitchen.soup.soup import Soup, in_dtype

__all__ = ["Mixer", "Recipe", "Soup", "StateMemory", "check_unchanged", "in_dtype"]
