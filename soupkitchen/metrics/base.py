"""A metric as the rest of soupkitchen sees it: higher is better, per example if it can be."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, Literal, NewType

import numpy as np

from soupkitchen.errors import ConfigError, MetricError, calling
from soupkitchen.options.building import TARGET
from soupkitchen.store.digests import source_of

Rows = Sequence[Any] | np.ndarray
"""One entry an example."""

Inputs = Literal["labels", "logits", "texts", "values", "likelihoods"]
"""Predictions: labels, rows of logits, texts, numbers, or rows of (nats, tokens, bytes)."""

_ROUNDING = 1e-9
"""Relative rounding error allowed above the best value."""

Score = NewType("Score", float)
"""A metric's value, higher better: a loss is negated, once, here."""


@dataclass(frozen=True)
class Metric:
    """A shipped metric: from 0 to 1 unless it says otherwise. Two of one class and options are equal."""

    best: ClassVar[float | None] = 1.0


@dataclass(frozen=True)
class TaskMetric:
    """A metric with its name, direction and inputs.

    `module` is a plain object with one of these; the first that it has is used:

    - ``per_example(predictions, references)``: one number an example; the score is their mean;
    - ``statistics(predictions, references)``: numbers (examples, k); the score is ``of_statistics`` of their
      sum, so a resample costs a sum;
    - ``of(predictions, references)``: the score of all examples, fast enough for a thousand resamples;
    - ``compute(predictions, references, **options)``: a mapping with the score, as in `evaluate`.

    It may also have these, unless `compute` gets options:

    - ``weights(references)``: the examples' weights in the mean;
    - ``link(mean)``: a strictly increasing function from mean to score;
    - ``best``: the best value of an example (without `per_example`, of the score), for early decisions;
    - ``binary``: True if each example is 1 or 0;
    - ``compares``: False if it reads no references, so that a task needs none;
    - ``reads_rows``: True if its references are `soupkitchen.metrics.graders.Asked`;
    - ``source()``: file and digest of the code that it calls; else that of its class;
    - ``name``, ``greater_is_better``, ``inputs``: defaults for `load`.

    Attributes:
        name: the name in tables.
        module: the metric itself.
        key: the score's entry in the result of `compute`.
        greater_is_better: False for a loss.
        inputs: the kind of predictions.
        options: made `module`, or go to its `compute`.
        arguments: of `load`, or None.
    """

    name: str
    module: Any
    key: str
    greater_is_better: bool = True
    inputs: Inputs = "labels"
    options: Mapping[str, Any] = field(default_factory=dict)
    arguments: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)

    def identity(self) -> list[str]:
        """Facts that scores depend on, besides predictions and references."""
        options = f"{self.key} {self.greater_is_better} {sorted(self.options.items())}"
        if source := self._own("source"):
            return [self.name, options, *source()]
        shipped = type(self.module).__module__.startswith("soupkitchen.")  # these have a version
        return [self.name, options, *([] if shipped else source_of(type(self.module)))]

    def describe(self) -> dict[str, Any]:
        """The arguments of `load`, as a tree for `soupkitchen.options.building.build`.

        Raises:
            ConfigError: if `load` did not make it.
        """
        if self.arguments is None:
            raise ConfigError(
                f"the metric {self.name!r} was not made by soupkitchen.metrics.load, so that nothing says "
                "what to make it of: name its class to load, as my_module.Recall"
            )
        return {TARGET: "soupkitchen.metrics.load", **self.arguments}

    def score(self, predictions: Rows, references: Rows) -> Score:
        """The score of all examples, higher better.

        Raises:
            MetricError: if the metric refuses the input or returns no `key`.
        """
        values = self.per_example(predictions, references)
        if values is not None:
            return self.of_values(values, self.weights(references))
        if (quick := self.quick(predictions, references)) is not None:
            return quick
        if lost(predictions).any():
            return Score(math.nan)
        with self._computing():
            computed = self.module.compute(predictions=predictions, references=references, **self.options)
            if computed and self.key in computed:
                return self._turned(float(computed[self.key]))
        raise MetricError(
            f"the metric {self.name!r} gives {', '.join(computed or {}) or 'nothing'}, not {self.key!r}; "
            "set task.metric.key to one of them"
        )

    def per_example(self, predictions: Rows, references: Rows) -> np.ndarray | None:
        """One value an example, higher better, NaN for NaN predictions; None if the score is no mean."""
        if not self.is_mean:
            return None
        scored = np.flatnonzero(~lost(predictions))
        values = np.full(len(predictions), math.nan)
        if scored.size < len(values):
            predictions, references = take(predictions, scored), take(references, scored)
        if scored.size:
            with self._computing():
                values[scored] = numbers(self.module.per_example(predictions, references), scored.shape)
        return self._checked(self._turned(1.0) * values)

    def weights(self, references: Rows) -> np.ndarray | None:
        """The examples' weights in the score; None if equal."""
        weights = self._own("weights")
        return weights and numbers(weights(references), (len(references),))

    def of_values(self, values: np.ndarray, weights: np.ndarray | None = None) -> Score:
        """The score from the examples' values; it grows with each."""
        return self.of_mean(float(weighted_mean(values, weights)))

    def of_mean(self, mean: float) -> Score:
        """The score from the (weighted) mean of the examples' values."""
        if link := self._own("link"):
            return self._turned(float(link(self._turned(mean))))
        return Score(mean)

    def quick(self, predictions: Rows, references: Rows) -> Score | None:
        """The score of all examples, if it is no mean and fast to compute; else None."""
        if self.is_mean or not self.can_be_resampled:
            return None
        if lost(predictions).any():
            return Score(math.nan)
        if (statistics := self.statistics(predictions, references)) is not None:
            score = self.of_statistics(statistics.sum(0))
        else:
            with self._computing():
                score = self._turned(float(self.module.of(predictions, references)))
        self._checked(np.array([score]))
        return score

    def statistics(self, predictions: Rows, references: Rows) -> np.ndarray | None:
        """Each example's summand for `of_statistics`, or None."""
        if not self._own("statistics"):
            return None
        with self._computing():
            return numbers(self.module.statistics(predictions, references))

    def of_statistics(self, total: np.ndarray) -> Score:
        """The score from the sum of examples' statistics."""
        return self._turned(float(self.module.of_statistics(total)))

    @property
    def is_mean(self) -> bool:
        """True if the score follows from one value an example."""
        return self._own("per_example") is not None

    @property
    def is_plain_mean(self) -> bool:
        """True if the score is the mean of these values, without weights or `link`."""
        return self.is_mean and not (self._own("weights") or self._own("link"))

    @property
    def can_be_resampled(self) -> bool:
        """True if scores of resamples are fast."""
        return any(self._own(function) for function in ("per_example", "statistics", "of"))

    @property
    def best(self) -> float:
        """The best value of an example, or the best score if there are none; higher better."""
        best = self._own("best")
        return math.inf if best is None else self._turned(float(best))

    @property
    def best_score(self) -> float:
        """The best score, higher better."""
        return self.of_mean(self.best) if self.is_mean and math.isfinite(self.best) else self.best

    @property
    def binary(self) -> bool:
        """True if each example's value is 0 or 1."""
        return bool(self._own("binary"))

    @property
    def compares(self) -> bool:
        """True if it reads references."""
        return self._own("compares") is not False

    @property
    def reads_rows(self) -> bool:
        """True if its references are prompts and rows, `soupkitchen.metrics.graders.Asked`."""
        return bool(self._own("reads_rows"))

    def shown(self, score: float) -> float:
        """`score` with the metric's own sign, for tables."""
        return float(self._turned(score))

    def _checked(self, values: np.ndarray) -> np.ndarray:
        """The values. One above the best would stop candidates that may still win.

        Raises:
            MetricError: if there is one.
        """
        limit = self.best + _ROUNDING * max(1.0, abs(self.best))
        if values.size and (highest := np.fmax.reduce(values, axis=None)) > limit:
            option = self._own("best_option")
            where = f"{option}={self.shown(self.best):g}" if option else f"the metric {self.name!r}"
            remedy = "raise it, or leave it null" if self.greater_is_better else "lower it, or leave it null"
            raise MetricError(
                f"{where}: a value is {self.shown(highest):g}, which is better than the best that there "
                f"should be, {self.shown(self.best):g}; {remedy if option else 'its `best` is wrong'}"
            )
        return values

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """Turns the metric's errors into `MetricError`."""
        try:
            with calling(f"task.metric={self.name}"):
                yield
        except (AttributeError, TypeError, ValueError) as error:
            raise MetricError(f"the metric {self.name!r} could not be computed: {error}") from error

    def _own(self, name: str) -> Any:
        """An attribute of `module`; None if there is none, or if options may change it."""
        if self.options and hasattr(self.module, "compute"):
            return None
        return getattr(self.module, name, None)

    def _turned(self, value: float) -> Score:
        return Score(value if self.greater_is_better else -value)


def lost(predictions: Rows) -> np.ndarray:
    """Marks NaN predictions, from outputs that are not finite: bool (examples,)."""
    if isinstance(predictions, np.ndarray) and predictions.dtype != object:
        if predictions.dtype.kind != "f":
            return np.zeros(len(predictions), bool)
        return np.isnan(predictions.reshape(len(predictions), -1).sum(axis=1))
    return np.array([isinstance(p, float) and math.isnan(p) for p in predictions], bool)


def numbers(values: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """Any numbers, or a tensor on any device, as float64.

    Raises:
        ValueError: if they do not have `shape`.
    """
    if not isinstance(values, np.ndarray):
        values = values.tolist() if hasattr(values, "tolist") else list(values)
        values = [value.tolist() if hasattr(value, "tolist") else value for value in values]
    array = np.asarray(values, np.float64)
    if shape is not None and array.shape != shape:
        raise ValueError(f"it gives numbers of shape {array.shape} for {shape[0]} examples")
    return array


def weighted_mean(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The mean over the last axis."""
    return values.mean(-1) if weights is None else (values * weights).sum(-1) / weights.sum(-1)


def shares(weights: np.ndarray | None, examples: int) -> np.ndarray:
    """Each example's share of the weighted mean, 1 on average: float64 (examples,)."""
    return np.ones(examples) if weights is None else weights * (examples / weights.sum())


def take(rows: Rows, indices: np.ndarray) -> Rows:
    """The rows with these numbers."""
    return rows[indices] if isinstance(rows, np.ndarray) else [rows[index] for index in indices]


def installed(package: str, extra: str) -> Any:
    """Imports a package of one of soupkitchen's extras.

    Raises:
        MetricError: if it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise MetricError(
            f"{package.split('.')[0]} is needed here and not installed: pip install 'soupkitchen[{extra}]'"
        ) from error
