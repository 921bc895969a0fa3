"""Finds a metric by name: shipped, a class of one's own, or one of `evaluate`, on disk or on the hub."""

from __future__ import annotations

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from soupkitchen.errors import MetricError, calling, did_you_mean
from soupkitchen.metrics.base import Inputs, TaskMetric

HUB_PREFIX = "hub:"
_SCORING = ("per_example", "statistics", "of", "compute")
"""Functions of which each metric has one: see `TaskMetric`."""


def shipped() -> list[str]:
    """Names of the metrics that need no network."""
    return sorted(_classes())


def load(
    name: str,
    key: str | None = None,
    greater_is_better: bool | None = None,
    inputs: Inputs | None = None,
    options: Mapping[str, Any] | None = None,
) -> TaskMetric:
    """Loads the metric called `name`.

    Args:
        name: one of `shipped()`; or a class, as ``my_module.Recall``; or the path of an `evaluate` metric
            script, or of its folder; or a metric of the hub's. ``hub:accuracy`` is the hub's if a shipped one
            has the same name.
        key: the entry of the metric's result that is the score. Default: the entry called like the metric.
        greater_is_better: False for a loss. Default: what the metric says.
        inputs: the kind of predictions. Default: what the metric says, or "labels".
        options: further arguments of the script's `compute`, such as ``average``, or of the class.

    Raises:
        MetricError: if there is no such metric, or it is out of reach offline.
    """
    given = {"key": key, "greater_is_better": greater_is_better, "inputs": inputs}
    arguments = {"name": name, **given, "options": None if options is None else dict(options)}
    kind = _class(name)
    metric = _script(name) if kind is None else _made(name, kind, options)
    own = getattr(metric, "name", type(metric).__name__)
    if key not in (None, own) and not hasattr(metric, "compute"):
        raise MetricError(f"task.metric.key={key}: {name} gives {own} only; leave it null")
    says = {o: getattr(metric, o) for o in ("greater_is_better", "inputs") if hasattr(metric, o)}
    chosen = {"key": own, **says, **{o: value for o, value in given.items() if value is not None}}
    label = own if kind else Path(name.removeprefix(HUB_PREFIX)).stem
    return TaskMetric(label, metric, options=dict(options or {}), arguments=arguments, **chosen)


@cache
def _classes() -> dict[str, type]:
    """The shipped metrics by name: the classes with a `name` in the files of this folder."""
    classes = {}
    for file in pkgutil.iter_modules([str(Path(__file__).parent)], f"{__package__}."):
        for kind in vars(import_module(file.name)).values():
            name = getattr(kind, "name", None)
            if isinstance(kind, type) and kind.__module__ == file.name and isinstance(name, str):
                classes[name] = kind
    return classes


def _class(name: str) -> type | None:
    """The class of a name, shipped or dotted; None for a name of another kind."""
    if name in _classes():
        return _classes()[name]
    module, _, attribute = name.rpartition(".")
    dotted = all(part.isidentifier() for part in name.split("."))
    if not (module and dotted) or attribute == "py":
        return None
    try:
        with calling("its module"):
            kind = getattr(import_module(module), attribute)
    except Exception as error:  # it is the user's code that runs here
        raise MetricError(
            f"task.metric.name={name} cannot be imported ({error}); Python looks in PYTHONPATH and in what "
            "is installed"
        ) from error
    if not isinstance(kind, type) or not any(hasattr(kind, function) for function in _SCORING):
        raise MetricError(
            f"task.metric.name={name} is no metric: it should be a class with one of the functions "
            f"{', '.join(_SCORING)}"
        )
    return kind


def _made(name: str, kind: type, options: Mapping[str, Any] | None) -> Any:
    """The metric of a class. Options are its own, unless it computes as those of `evaluate` do."""
    try:
        return kind() if hasattr(kind, "compute") else kind(**options or {})
    except TypeError as error:
        raise MetricError(
            f"task.metric.options={dict(options or {})}: {name} refuses them ({error})"
        ) from error


def _script(name: str) -> Any:
    import evaluate  # slow to import, and few use its metrics

    try:
        return evaluate.load(name.removeprefix(HUB_PREFIX), keep_in_memory=True)
    except (FileNotFoundError, ConnectionError, OSError) as error:
        raise MetricError(
            f"task.metric.name={name}: no metric of that name is shipped, none lies at that path, and the "
            f"hub could not be reached for one. Shipped, and usable offline: {', '.join(shipped())}"
            f"{did_you_mean(name, shipped())}"
        ) from error
    except ImportError as error:
        raise MetricError(f"task.metric.name={name}: {error}") from error
