"""Finds a metric by its name: shipped, a class or a grader of one's own, or one of `evaluate`."""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from soupkitchen.errors import MetricError, did_you_mean
from soupkitchen.metrics.base import Inputs, TaskMetric
from soupkitchen.metrics.graders import Grader
from soupkitchen.options.building import imported

HUB_PREFIX = "hub:"
_SCORING = ("per_example", "statistics", "of", "compute")
"""Each class of a metric has one of these; see `TaskMetric`."""


def shipped() -> list[str]:
    """Names of the shipped metrics."""
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
        name: one of `shipped()`, a class as ``my_module.Recall``, a grader as ``my_module.grade`` (see
            `soupkitchen.metrics.graders.Grader`), the path of an `evaluate` script or its folder, or a name
            on the hub; ``hub:accuracy`` skips the shipped one.
        key: the score's entry in the metric's result. Default: the metric's name.
        greater_is_better: False for a loss. Default: the metric's own.
        inputs: the kind of predictions. Default: the metric's own, or "labels".
        options: arguments of the class, of the grader's function, or of the script's `compute`.

    Raises:
        MetricError: if there is no such metric, or the hub cannot be reached.
    """
    given = {"key": key, "greater_is_better": greater_is_better, "inputs": inputs}
    arguments = {"name": name, **given, "options": None if options is None else dict(options)}
    kind = _class(name)
    if kind is None:
        metric = _script(name)
    elif _scores(kind):
        metric = _made(name, kind, options)
    else:
        metric = Grader(name, kind, dict(options or {}), best=0.0 if greater_is_better is False else 1.0)
    own = getattr(metric, "name", type(metric).__name__)
    if key not in (None, own) and not hasattr(metric, "compute"):
        raise MetricError(f"task.metric.key={key}: {name} gives {own} only; leave it null")
    says = {o: getattr(metric, o) for o in ("greater_is_better", "inputs") if hasattr(metric, o)}
    chosen = {"key": own, **says, **{o: value for o, value in given.items() if value is not None}}
    label = own if kind else Path(name.removeprefix(HUB_PREFIX)).stem
    return TaskMetric(label, metric, options=dict(options or {}), arguments=arguments, **chosen)


@cache
def _classes() -> dict[str, type]:
    """The shipped metrics by name."""
    classes = {}
    for file in pkgutil.iter_modules([str(Path(__file__).parent)], f"{__package__}."):
        for kind in vars(import_module(file.name)).values():
            name = getattr(kind, "name", None)
            if isinstance(kind, type) and kind.__module__ == file.name and isinstance(name, str):
                classes[name] = kind
    return classes


def _class(name: str) -> Callable[..., Any] | None:
    """The class of a shipped or dotted name, the grader of a dotted name, or None."""
    if name in _classes():
        return _classes()[name]
    module, _, attribute = name.rpartition(".")
    dotted = all(part.isidentifier() for part in name.split("."))
    if not (module and dotted) or attribute == "py":
        return None
    kind = imported("task.metric.name", name, MetricError)
    if not (_scores(kind) or Grader.may_be(kind)):
        raise MetricError(
            f"task.metric.name={name} is no metric: it should be a class with one of the functions "
            f"{', '.join(_SCORING)}, or a grader: a function of (prompt, answer, row), or a class of such "
            "objects"
        )
    return kind


def _scores(kind: Any) -> bool:
    return isinstance(kind, type) and any(hasattr(kind, function) for function in _SCORING)


def _made(name: str, kind: Callable[..., Any], options: Mapping[str, Any] | None) -> Any:
    """The metric of a class; if it has `compute`, that takes the options."""
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
