"""Runs a task on the one live model, on whatever devices accelerate gives."""

from soupkitchen.evaluation.confidence import confidence_interval
from soupkitchen.evaluation.evaluator import Evaluation, Evaluator
from soupkitchen.evaluation.live import LiveModel
from soupkitchen.evaluation.runtime import Runtime
from soupkitchen.evaluation.scorer import Scored, Scorer

__all__ = [
    "Evaluation",
    "Evaluator",
    "LiveModel",
    "Runtime",
    "Scored",
    "Scorer",
    "confidence_interval",
]
