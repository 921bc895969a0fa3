"""Saves the soup, and proves that the saved model is the scored one."""

from soupkitchen.output.model import Output, check_answers, check_weights, prove_filling

__all__ = ["Output", "check_answers", "check_weights", "prove_filling"]
