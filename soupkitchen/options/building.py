"""Objects as plain data and back: a tree of options whose `_target_` names the class or function to call.

YAMLs of `conf/` hold such trees; so do a recipe, for its merge method, and the `config.yaml` of a run.
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

from soupkitchen.errors import ConfigError, calling
from soupkitchen.options.files import nodes, options_by_target
from soupkitchen.options.kinds import TopLevel, check, hints_of

TARGET = "_target_"


def build(tree: Any) -> Any:
    """Builds the object that a tree describes, its parts first.

    Raises:
        ConfigError: if a `_target_` names nothing, or takes other options.
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
    """Checks the options in a tree against the annotations of what takes them, outer ones first.

    Options of a `_target_` that `conf/` does not name are left alone.

    Args:
        tree: a whole configuration, with references filled in; or the part of it below `key`.
        key: what leads to `tree`, dotted.

    Raises:
        ConfigError: for the first option of the wrong type, or out of range.
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
    """Checks that data from a file names nothing to import but `ours`, and what the user trusts.

    Raises:
        ConfigError: with what to say if another name is meant.
    """
    strange = list(dict.fromkeys(str(name) for name in names if name not in (*ours, *trust)))
    if strange:
        raise ConfigError(
            f"it names {', '.join(strange)}, which soupkitchen does not have: to import that runs its "
            f"code. If you trust it, say {' '.join(f'--trust {name}' for name in strange)} to "
            f"python -m soupkitchen.rebuild, or trust={strange} in Python"
        )


def targets(tree: Any) -> Iterator[Any]:
    """Each `_target_` that `build` would import for a tree."""
    return (node[TARGET] for node in nodes(tree))


def describe(thing: Any) -> Any:
    """Makes the tree that `build` makes `thing` of.

    Plain values stay as they are. A dataclass is described by its fields, another object by its method
    `describe`, or by the attributes that are called like its class's parameters.

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
    """The attributes that an object was made of; None if it does not keep all of them."""
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
    """The name of a class or function by which its package exports it, if it does; else its full name."""
    module, name = made.__module__, made.__qualname__
    package = ".".join(module.split(".")[:2])
    return f"{package}.{name}" if getattr(import_module(package), name, None) is made else f"{module}.{name}"


def users_own(option: str, name: str) -> Callable[..., Any]:
    """The user's function or class that an option names as ``module.function``.

    Raises:
        ConfigError: if it cannot be imported, or cannot be called.
    """
    module, _, function = name.rpartition(".")
    try:
        with calling("its module"):
            imported = getattr(import_module(module), function)
    except Exception as error:  # it is the user's code that runs here
        raise ConfigError(
            f"{option}={name} cannot be imported ({error}); Python looks in PYTHONPATH and in what is "
            "installed"
        ) from error
    if not callable(imported):
        raise ConfigError(f"{option}={name} cannot be called: it is {imported!r}")

    @wraps(imported, updated=())
    def called(*arguments: Any, **options: Any) -> Any:
        with calling(f"{option}={name}"):
            return imported(*arguments, **options)

    return called


def named(target: str) -> Any:
    """Imports what a dotted name leads to.

    Raises:
        ConfigError: if that is nothing.
    """
    module, _, name = target.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"_target_={target} names nothing that can be imported ({error})") from error
