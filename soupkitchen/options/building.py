"""Converts objects to plain data and back: trees of options whose `_target_` names a class or function.

YAMLs of `conf/`, a recipe's merge method and a run's `config.yaml` are such trees.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import wraps
from importlib import import_module
from numbers import Number
from pathlib import Path
from typing import Any

from soupkitchen.errors import ConfigError, SoupkitchenError, calling
from soupkitchen.options.files import nodes, options_by_target
from soupkitchen.options.kinds import TopLevel, check, hints_of

TARGET = "_target_"


def build(tree: Any) -> Any:
    """Builds the object of a tree, its parts first.

    Raises:
        ConfigError: if a `_target_` does not exist, or takes other options.
    """
    if isinstance(tree, Mapping):
        options = {name: build(part) for name, part in tree.items() if name != TARGET}
        if TARGET not in tree:
            return options
        made = named(tree[TARGET])
        try:
            return made(**options)
        except TypeError as error:
            raise ConfigError(f"{tree[TARGET]}: {error}") from error
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        return [build(part) for part in tree]
    return tree


def check_tree(tree: Mapping[str, Any], key: str = "") -> None:
    """Checks a tree's options against annotations, outer ones first.

    A `_target_` that `conf/` does not name is not checked.

    Args:
        tree: a configuration with references resolved, or a part.
        key: the part's dotted key.

    Raises:
        ConfigError: if an option has a wrong type, or is out of range.
    """
    hints: Mapping[str, Any] = {} if key else hints_of(TopLevel)
    if tree.get(TARGET) in options_by_target():
        hints = hints_of(named(tree[TARGET]))
    dotted = {name: f"{key}.{name}" if key else str(name) for name in tree}
    for name in [name for name in tree if name in hints]:
        check(dotted[name], tree[name], hints[name])
    for name, value in tree.items():
        if isinstance(value, Mapping):
            check_tree(value, dotted[name])


def check_names(names: Iterable[Any], ours: Collection[str], trust: Collection[str]) -> None:
    """Checks that data from a file imports only `ours` and names that the user trusts.

    Raises:
        ConfigError: if it has another name; the message says how to trust it.
    """
    strange = list(dict.fromkeys(str(name) for name in names if name not in (*ours, *trust)))
    if strange:
        raise ConfigError(
            f"it names {', '.join(strange)}, which soupkitchen does not have: to import that runs its "
            f"code. If you trust it, say {' '.join(f'--trust {name}' for name in strange)} to "
            f"python -m soupkitchen.rebuild, or trust={strange} in Python"
        )


def targets(tree: Any) -> Iterator[Any]:
    return (node[TARGET] for node in nodes(tree))


def describe(thing: Any) -> Any:
    """Makes the tree from which `build` makes `thing`.

    A dataclass gives its fields; another object its method `describe`, or the attributes named like its
    class's parameters.

    Raises:
        ConfigError: if it has none of these.
    """
    if thing is None or isinstance(thing, (bool, str)):
        return thing
    if isinstance(thing, Number):
        return thing.item() if hasattr(thing, "item") else thing
    if isinstance(thing, Path):
        return str(thing)
    if isinstance(thing, Mapping):
        return {str(name): describe(part) for name, part in thing.items()}
    if isinstance(thing, Sequence):
        return [describe(part) for part in thing]
    if hasattr(thing, "describe") and not isinstance(thing, type):
        return thing.describe()
    if (options := _options_of(thing)) is not None:
        described = {name: describe(getattr(thing, name)) for name in options}
        return {TARGET: target_of(type(thing)), **described}
    raise ConfigError(
        f"{thing!r} cannot be written down, as a recipe has to be: make it a dataclass of plain options, or "
        "give it a method describe() that returns its tree"
    )


def _options_of(thing: Any) -> list[str] | None:
    """The attributes that are an object's options; None if it does not keep all."""
    if isinstance(thing, type):
        return None
    if is_dataclass(thing):
        return [field.name for field in fields(thing) if field.init]
    try:
        parameters = inspect.signature(type(thing)).parameters.values()
    except (TypeError, ValueError):
        return None
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    kept = all(parameter.kind in by_name and hasattr(thing, parameter.name) for parameter in parameters)
    return [parameter.name for parameter in parameters] if parameters and kept else None


def target_of(made: Any) -> str:
    """The name of a class or function in the package that exports it, else its full name."""
    module, name = made.__module__, made.__qualname__
    package = ".".join(module.split(".")[:2])
    return f"{package}.{name}" if getattr(import_module(package), name, None) is made else f"{module}.{name}"


def imported(option: str, name: str, error: type[SoupkitchenError] = ConfigError) -> Any:
    """Imports the user's code that an option names as ``module.attribute``.

    Raises:
        SoupkitchenError: of the type `error`, if that fails.
    """
    module, _, attribute = name.rpartition(".")
    try:
        with calling("its module"):
            return getattr(import_module(module), attribute)
    except Exception as raised:  # it is the user's code that runs here
        raise error(
            f"{option}={name} cannot be imported ({raised}); Python looks in PYTHONPATH and in what is "
            "installed"
        ) from raised


def users_own(option: str, name: str) -> Callable[..., Any]:
    """The user's function or class, given as ``module.function``.

    Raises:
        ConfigError: if it cannot be imported or called.
    """
    made = imported(option, name)
    if not callable(made):
        raise ConfigError(f"{option}={name} cannot be called: it is {made!r}")

    @wraps(made, updated=())
    def called(*arguments: Any, **options: Any) -> Any:
        with calling(f"{option}={name}"):
            return made(*arguments, **options)

    return called


def named(target: str) -> Any:
    """Imports a dotted name.

    Raises:
        ConfigError: if it does not exist.
    """
    module, _, name = target.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"_target_={target} names nothing that can be imported ({error})") from error
