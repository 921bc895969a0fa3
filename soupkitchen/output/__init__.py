"""Saves the soup as users load it, and proves that what was saved is what was scored."""

from soupkitchen.output.model import Output
from soupkitchen.output.verify import check_answers, check_weights, prove_filling

__all__ = ["Output", "check_answers", "check_weights", "prove_filling"]
