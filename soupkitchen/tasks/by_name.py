"""Tasks by name: functions that take options of a task, of its data and of its metric side by side."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from soupkitchen.errors import ConfigError, did_you_mean
from soupkitchen.metrics import TaskMetric, load
from soupkitchen.options.building import TARGET, build, check_tree, describe, target_of
from soupkitchen.tasks.data import Data

TaskT = TypeVar("TaskT", covariant=True)
_KEYWORD, _POSITIONAL = inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD


class ByName(Protocol[TaskT]):
    """A function that makes a task."""

    def __call__(
        self,
        path: str | Path | Mapping[str, str | Path] | None = None,
        *required: Any,
        data: Data | Mapping[str, Any] | None = None,
        metric: str | TaskMetric | Mapping[str, Any] = ...,
        heldout: str = ...,
        test: str | None = ...,
        **options: Any,
    ) -> TaskT:
        """Makes the task of its data, and of options of the task, the data and the metric by their names.

        Args:
            path: where the data is; see `Data`.
            required: options of the task that have no default.
            data: all options of the data, or an object, in place of `path`.
            metric: the name of the metric, its options, or an object.
            heldout, test: of the data: the split that decides, and the one that is scored at the end.
            options: the others. What the task calls like the data or the metric does is the task's.

        Raises:
            ConfigError: for an option that there is not, that is wrong, or that has to be given.
        """
        ...


def by_name(made: Callable[..., TaskT], metric: str | None = None) -> ByName[TaskT]:
    """Makes the function of the class `made`, whose metric is `metric` by default; None if it takes none."""
    name = re.sub(r"(?<!^)(?=[A-Z])", "_", made.__name__).lower()
    parts: dict[str, Callable[..., Any]] = {"data": Data, **({} if metric is None else {"metric": load})}
    signature, places = _signature(made, parts, metric)

    def task(*positional: Any, **options: Any) -> Any:
        if unknown := sorted(options.keys() - signature.parameters.keys()):
            hint = did_you_mean(unknown[0], signature.parameters)
            raise ConfigError(f"tasks.{name} has no option {unknown[0]!r}{hint}")
        try:
            given = signature.bind_partial(*positional, **options).arguments
        except TypeError as error:
            raise ConfigError(f"tasks.{name}: {error}") from None
        tree = {TARGET: target_of(made)}
        for part, of in parts.items():
            whole = given.pop(part, {} if part == "data" else metric)
            beside = {option: describe(given.pop(option)) for option in [*given] if places[option] == part}
            if part == "metric" and isinstance(whole, str):
                whole = {"name": whole}
            if isinstance(whole, Mapping):
                default = {} if part == "data" else {"name": metric}
                whole = {TARGET: target_of(of), **default, **describe(whole), **beside}
            elif beside:
                names = ", ".join(beside)
                raise ConfigError(
                    f"tasks.{name}: {names} has no place beside an object {part}=; say it there"
                )
            tree[part] = whole
        tree |= given
        check_tree(tree, "task")
        return build(tree)

    task.__name__ = task.__qualname__ = name
    task.__doc__ = made.__doc__
    task.__signature__ = signature  # type: ignore[attr-defined]
    return task


def _signature(
    made: Callable[..., Any], parts: Mapping[str, Callable[..., Any]], metric: str | None
) -> tuple[inspect.Signature, dict[str, str]]:
    """The signature of a task by name, and by option the part that it belongs to; "" for the task itself."""
    takes = {part: inspect.signature(of).parameters for part, of in {"": made, **parts}.items()}
    places: dict[str, str] = {}
    needed, optional = [], []
    for part, parameters in takes.items():
        for option, parameter in parameters.items():
            if option in places or (part == "metric" and option == "name"):
                continue
            places[option] = part
            if option in parts:
                default = metric if option == "metric" else None
                optional.append(parameter.replace(kind=_KEYWORD, default=default))
            elif parameter.default is parameter.empty:
                needed.append(parameter.replace(kind=_POSITIONAL))
            else:
                optional.append(parameter.replace(kind=_KEYWORD))
    needed.sort(key=lambda parameter: parameter.name != "path")
    return inspect.Signature([*needed, *optional]), places
