"""Predictions on their way from a device to the host, which goes on with the next batch meanwhile."""

from __future__ import annotations

import math

import numpy as np
import torch

from soupkitchen.metrics import Rows
from soupkitchen.tasks.base import Predictions


class OnItsWay:
    """A batch's predictions, on their way to the host.

    Args:
        finite: whether all that the model has put out is finite; 0-dimensional.
    """

    def __init__(self, predictions: Predictions, finite: torch.Tensor | None) -> None:
        self._predictions = _sent(predictions) if isinstance(predictions, torch.Tensor) else predictions
        self._finite = None if finite is None else _sent(finite)
        on_cuda = any(isinstance(x, torch.Tensor) and x.device.type == "cuda" for x in (predictions, finite))
        self._event = torch.cuda.current_stream().record_event() if on_cuda else None

    def arrived(self) -> Rows:
        """Waits for them. NaN stands for what is no finite number, and for all where the model put out such.

        One example that a model has no answer to makes a mean NaN, so those of its batch need not be told
        apart.
        """
        if self._event is not None:
            self._event.synchronize()
        finite, predictions = self._finite is None or bool(self._finite), self._predictions
        if isinstance(predictions, torch.Tensor):
            rows: np.ndarray = predictions.cpu().numpy()
            if not finite:
                return np.full(rows.shape, np.nan, np.float32)
            return np.where(np.isfinite(rows), rows, np.nan) if rows.dtype.kind == "f" else rows
        if not finite:
            return [math.nan] * len(predictions)
        plain = [p.item() if getattr(p, "ndim", None) == 0 else p for p in predictions]
        return [math.nan if isinstance(p, float) and not math.isfinite(p) else p for p in plain]


def _sent(x: torch.Tensor) -> torch.Tensor:
    """A copy on the host, on its way there, where a device has such ways; else `x` itself."""
    if x.device.type != "cuda":
        return x
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
