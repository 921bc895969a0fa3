"""Runs tasks on the one live model, on whatever devices accelerate gives."""

from soupkitchen.evaluation import identity
from soupkitchen.evaluation.evaluator import Evaluation, Evaluator, Part
from soupkitchen.evaluation.live import LiveModel
from soupkitchen.evaluation.loading import Loading
from soupkitchen.evaluation.options import EvaluationOptions
from soupkitchen.evaluation.runtime import Runtime
from soupkitchen.evaluation.scorer import Recipe, Scored, Scorer
from soupkitchen.evaluation.setup import Splits, evaluator_of, load_splits, warn_of_splits
from soupkitchen.evaluation.statistics import Comparison, compare, confidence_interval, mcnemar_p

__all__ = [
    "Comparison",
    "Evaluation",
    "EvaluationOptions",
    "Evaluator",
    "LiveModel",
    "Loading",
    "Part",
    "Recipe",
    "Runtime",
    "Scored",
    "Scorer",
    "Splits",
    "compare",
    "confidence_interval",
    "evaluator_of",
    "identity",
    "load_splits",
    "mcnemar_p",
    "warn_of_splits",
]
