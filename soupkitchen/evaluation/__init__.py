"""Runs tasks on the one live model, on whatever devices accelerate gives."""

from soupkitchen.evaluation.evaluator import Evaluation, Evaluator, Part
from soupkitchen.evaluation.live import LiveModel
from soupkitchen.evaluation.options import EvaluationOptions
from soupkitchen.evaluation.runtime import Runtime
from soupkitchen.evaluation.scorer import Recipe, Scored, Scorer
from soupkitchen.evaluation.statistics import Comparison, compare, confidence_interval, mcnemar_p

__all__ = [
    "Comparison",
    "Evaluation",
    "EvaluationOptions",
    "Evaluator",
    "LiveModel",
    "Part",
    "Recipe",
    "Runtime",
    "Scored",
    "Scorer",
    "compare",
    "confidence_interval",
    "mcnemar_p",
]
