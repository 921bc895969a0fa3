"""Finds a metric by name: shipped here, on disk, or on the hub."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import evaluate

import soupkitchen.metrics
from soupkitchen.errors import MetricError
from soupkitchen.metrics.base import Inputs, TaskMetric

_NOT_METRICS = {"base", "loading", "module"}
HUB_PREFIX = "hub:"


def shipped() -> list[str]:
    """Names of the metrics that need no network."""
    return sorted(
        m.name for m in pkgutil.iter_modules(soupkitchen.metrics.__path__) if m.name not in _NOT_METRICS
    )


def load(
    name: str,
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Inputs | None = None,
    options: Mapping[str, Any] | None = None,
) -> TaskMetric:
    """Loads the metric called `name`.

    Args:
        name: one of `shipped()`; or the path of an `evaluate` metric script, or
            of its folder; or a metric of the hub's. ``hub:accuracy`` is the
            hub's where a shipped one has the same name.
        key: which entry of the metric's result is the score. Default: the entry
            called like the metric.
        greater_is_better: False for a loss. Shipped metrics know.
        inputs: "labels" or "logits". Shipped metrics know; default "labels".
        options: further arguments of the metric's `compute`, such as ``average``.

    Raises:
        MetricError: where there is no such metric, or it is out of reach offline.
    """
    if name in shipped():
        module = importlib.import_module(f"soupkitchen.metrics.{name}").Metric()
        if key not in (None, module.key):
            raise MetricError(f"task.metric.key={key}: {name} gives {module.key} only; leave it null")
        own = {
            "key": module.key,
            "greater_is_better": module.greater_is_better,
            "inputs": module.inputs,
        }
    else:
        module = _load_module(name)
        own = {"key": module.name, "greater_is_better": True, "inputs": "labels"}
    given = {"key": key, "greater_is_better": greater_is_better, "inputs": inputs}
    chosen = own | {option: value for option, value in given.items() if value is not None}
    label = Path(name.removeprefix(HUB_PREFIX)).stem
    return TaskMetric(label, module, options=dict(options or {}), **chosen)


def _load_module(name: str) -> evaluate.EvaluationModule:
    try:
        return evaluate.load(name.removeprefix(HUB_PREFIX), keep_in_memory=True)
    except (FileNotFoundError, ConnectionError, OSError) as error:
        raise MetricError(
            f"task.metric.name={name}: no metric of that name is shipped, none lies at that path, and the "
            f"hub could not be reached for one. Shipped, and usable offline: {', '.join(shipped())}."
        ) from error
    except ImportError as error:
        raise MetricError(f"task.metric.name={name}: {error}") from error
