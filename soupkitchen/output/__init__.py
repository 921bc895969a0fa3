"""Saves the soup as users load it, and proves that the saved model is the one that was scored."""

from soupkitchen.output.model import Output, check_answers, check_weights, prove_filling

__all__ = ["Output", "check_answers", "check_weights", "prove_filling"]
