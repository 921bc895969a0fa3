"""What the shipped metrics have in common: `evaluate` metrics that say what `TaskMetric` wants to know."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

import datasets
import evaluate
import numpy as np

from soupkitchen.errors import MetricError

Label, Number, Text = datasets.Value("int64"), datasets.Value("float64"), datasets.Value("string")
Labels, Numbers, Texts = datasets.Sequence(Label), datasets.Sequence(Number), datasets.Sequence(Text)


class Module(evaluate.Metric):
    """A metric with either `per_example` (and perhaps `weights` and `link`) or `of`.

    The first line of the docstring describes it. `features` is the kind of a prediction and of a
    reference, or several such pairs. For the rest see `TaskMetric`.
    """

    key: str
    greater_is_better = True
    inputs = "labels"
    best: float | None = None
    binary = False
    features: tuple[tuple[Any, Any], ...] = ((Label, Label),)

    def _info(self) -> evaluate.MetricInfo:
        kinds = [datasets.Features({"predictions": p, "references": r}) for p, r in self.features]
        return evaluate.MetricInfo(
            description=(self.__doc__ or "").splitlines()[0],
            citation="",
            features=kinds[0] if len(kinds) == 1 else kinds,
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        if hasattr(self, "of"):
            return {self.key: float(self.of(predictions, references))}
        values = self.per_example(predictions, references)
        weights = self.weights(references) if hasattr(self, "weights") else None
        mean = float(np.average(values, weights=weights))
        return {self.key: float(self.link(mean)) if hasattr(self, "link") else mean}


def correlation(coefficient: Callable[..., Any], predictions: Any, references: Any) -> float:
    """scipy's `coefficient` of two rows of numbers; 0 where one of them is constant."""
    predicted, actual = np.asarray(predictions, float), np.asarray(references, float)
    if len(predicted) < 2 or np.ptp(predicted) == 0 or np.ptp(actual) == 0:
        return 0.0
    return float(coefficient(predicted, actual).statistic)


def installed(package: str, extra: str) -> Any:
    """The package, which comes with one of soupkitchen's extras.

    Raises:
        MetricError: where it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MetricError(
            f"{package.split('.')[0]} is needed here and not installed: pip install 'soupkitchen[{extra}]'"
        ) from error
