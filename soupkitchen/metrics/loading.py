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
"""One of which each metric has: see `TaskMetric`."""


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
        name: one of `shipped()`; or a class, as ``my_module.Recall``; or the path of an `evaluate`
            metric script, or of its folder; or a metric of the hub's. ``hub:accuracy`` is the hub's
            where a shipped one has the same name.
        key: which entry of the metric's result is the score. Default: the entry called like the metric.
        greater_is_better: False for a loss. Default: what the metric says.
        inputs: what predictions are. Default: what the metric says, or "labels".
        options: further arguments of the script's `compute`, such as ``average``, or of the class.

    Raises:
        MetricError: where there is no such metric, or it is out of reach offline.
    """
    found = _class(name)
    metric = _script(name) if found is None else _made(name, found, options)
    own = getattr(metric, "name", type(metric).__name__)
    if key not in (None, own) and not hasattr(metric, "compute"):
        raise MetricError(f"task.metric.key={key}: {name} gives {own} only; leave it null")
    given = {"key": key, "greater_is_better": greater_is_better, "inputs": inputs}
    told = {o: getattr(metric, o) for o in ("greater_is_better", "inputs") if hasattr(metric, o)}
    chosen = {"key": own, **told, **{o: value for o, value in given.items() if value is not None}}
    label = Path(name.removeprefix(HUB_PREFIX)).stem if found is None else own
    arguments = {"name": name, **given, "options": None if options is None else dict(options)}
    return TaskMetric(label, metric, options=dict(options or {}), arguments=arguments, **chosen)


@cache
def _classes() -> dict[str, type]:
    """The shipped metrics by name: the classes with a `name` in the files of this folder."""
    found = {}
    for file in pkgutil.iter_modules([str(Path(__file__).parent)], f"{__package__}."):
        for thing in vars(import_module(file.name)).values():
            name = getattr(thing, "name", None)
            if isinstance(thing, type) and thing.__module__ == file.name and isinstance(name, str):
                found[name] = thing
    return found


def _class(name: str) -> type | None:
    """The class that a name leads to, shipped or dotted; None for a name of another kind."""
    if name in _classes():
        return _classes()[name]
    module, _, attribute = name.rpartition(".")
    dotted = all(part.isidentifier() for part in name.split("."))
    if not (module and dotted) or attribute == "py":
        return None
    try:
        with calling("its module"):
            found = getattr(import_module(module), attribute)
    except Exception as error:  # it is the user's code that runs here
        raise MetricError(
            f"task.metric.name={name} cannot be imported ({error}); Python looks in PYTHONPATH and in what "
            "is installed"
        ) from error
    if not isinstance(found, type) or not any(hasattr(found, function) for function in _SCORING):
        raise MetricError(
            f"task.metric.name={name} is no metric: it should be a class with one of the functions "
            f"{', '.join(_SCORING)}"
        )
    return found


def _made(name: str, found: type, options: Mapping[str, Any] | None) -> Any:
    """The metric of a class; options are its own, but for one that computes as those of `evaluate` do."""
    try:
        return found() if hasattr(found, "compute") else found(**options or {})
    except TypeError as error:
        raise MetricError(
            f"task.metric.options={dict(options or {})}: {name} refuses them ({error})"
        ) from error


def _script(name: str) -> Any:
    import evaluate  # whoever uses none of its metrics need not wait for it

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
