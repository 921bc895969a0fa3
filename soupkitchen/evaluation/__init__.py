"""Scores the live model on its tasks."""

from soupkitchen.evaluation import identity
from soupkitchen.evaluation.confidence import ConfidentStopping, ConfidentThreshold
from soupkitchen.evaluation.evaluator import Evaluator
from soupkitchen.evaluation.identity import Identity
from soupkitchen.evaluation.live import LiveModel
from soupkitchen.evaluation.outcome import Evaluation, Part
from soupkitchen.evaluation.runtime import EvaluationOptions, Runtime
from soupkitchen.evaluation.scoring import EarlyStopping, Threshold
from soupkitchen.evaluation.setup import (
    Splits,
    check_batchnorm,
    evaluator_of,
    find_columns,
    fit_to,
    load_splits,
    warn_of_splits,
)
from soupkitchen.evaluation.statistics import Comparison, compare, confidence_interval

__all__ = [
    "Comparison",
    "ConfidentStopping",
    "ConfidentThreshold",
    "EarlyStopping",
    "Evaluation",
    "EvaluationOptions",
    "Evaluator",
    "Identity",
    "LiveModel",
    "Part",
    "Runtime",
    "Splits",
    "Threshold",
    "check_batchnorm",
    "compare",
    "confidence_interval",
    "evaluator_of",
    "find_columns",
    "fit_to",
    "identity",
    "load_splits",
    "warn_of_splits",
]
