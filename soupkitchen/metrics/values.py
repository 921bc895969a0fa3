"""Arrays of predictions and of scores, whatever metrics and models give them as."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

Rows = Sequence[Any] | np.ndarray
"""One entry an example."""


def lost(predictions: Rows) -> np.ndarray:
    """Which predictions are NaN, as what a model puts out is where it is not finite: bool (examples,)."""
    if isinstance(predictions, np.ndarray) and predictions.dtype != object:
        if predictions.dtype.kind != "f":
            return np.zeros(len(predictions), bool)
        return np.isnan(predictions.reshape(len(predictions), -1).sum(axis=1))
    return np.array([isinstance(p, float) and math.isnan(p) for p in predictions], bool)


def numbers(values: Any, shape: tuple[int, ...] | None = None) -> np.ndarray:
    """What a metric gives, numbers of any kind or a tensor on any device, as float64.

    Raises:
        ValueError: if it is of another shape than `shape`.
    """
    if not isinstance(values, np.ndarray):
        values = values.tolist() if hasattr(values, "tolist") else list(values)
        values = [value.tolist() if hasattr(value, "tolist") else value for value in values]
    array = np.asarray(values, np.float64)
    if shape is not None and array.shape != shape:
        raise ValueError(f"it gives numbers of shape {array.shape} for {shape[0]} examples")
    return array


def weighted_mean(values: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The mean over the last axis, of the same weight each where there are no weights."""
    return values.mean(-1) if weights is None else (values * weights).sum(-1) / weights.sum(-1)


def take(rows: Rows, indices: np.ndarray) -> Rows:
    """The rows of these numbers."""
    return rows[indices] if isinstance(rows, np.ndarray) else [rows[index] for index in indices]
