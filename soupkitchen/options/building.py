"""Objects as plain data and back: a tree of options whose `_target_` names what is made of them.

Such a tree is what a YAML of `conf/` holds, what a recipe says of its merge method, and what a run's
`config.yaml` keeps of a run that was started from Python.
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

TARGET = "_target_"


def build(tree: Any) -> Any:
    """What a tree describes: parts first, then what is made of them.

    Raises:
        ConfigError: where a `_target_` names nothing, or takes other options.
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


def check_names(names: Iterable[Any], ours: Collection[str], trust: Collection[str]) -> None:
    """Checks that data from a file names nothing to be imported but what is `ours`, or what the user trusts.

    Raises:
        ConfigError: if it does, with what to say if that is meant.
    """
    strange = list(dict.fromkeys(str(name) for name in names if name not in (*ours, *trust)))
    if strange:
        raise ConfigError(
            f"it names {', '.join(strange)}, which soupkitchen does not have: to import that runs its "
            f"code. If you trust it, say {' '.join(f'--trust {name}' for name in strange)} to "
            f"python -m soupkitchen.rebuild, or trust={strange} in Python"
        )


def targets(tree: Any) -> Iterator[Any]:
    """All that `build` would look up for a tree."""
    if isinstance(tree, Mapping):
        if TARGET in tree:
            yield tree[TARGET]
        tree = list(tree.values())
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        for part in tree:
            yield from targets(part)


def describe(thing: Any) -> Any:
    """The tree that `build` makes `thing` of.

    Mappings, sequences and what YAML has words for are what they are; a dataclass is told by its fields,
    an object of another class by the attributes that are called as what it was made of is. Anything else
    has to have a method `describe` that returns its tree.

    Raises:
        ConfigError: where it cannot be told.
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
    if is_dataclass(thing) and not isinstance(thing, type):
        options = {f.name: describe(getattr(thing, f.name)) for f in fields(thing) if f.init}
        return {TARGET: target_of(type(thing)), **options}
    if (kept := _kept(thing)) is not None:
        return {TARGET: target_of(type(thing)), **{name: describe(part) for name, part in kept.items()}}
    raise ConfigError(
        f"{thing!r} cannot be written down, as a recipe has to be: make it a dataclass of plain options, or "
        "give it a method describe() that returns its tree"
    )


def _kept(thing: Any) -> Mapping[str, Any] | None:
    """What an object was made of, where it keeps all of that; None where it does not."""
    if isinstance(thing, type) or not hasattr(thing, "__dict__"):
        return None
    try:
        wanted = inspect.signature(type(thing)).parameters.values()
    except (TypeError, ValueError):
        return None
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    if not wanted or any(one.kind not in by_name or not hasattr(thing, one.name) for one in wanted):
        return None
    return {one.name: getattr(thing, one.name) for one in wanted}


def target_of(made: Any) -> str:
    """The name that leads to a class or function: that by which its package exports it, where it does."""
    module, name = made.__module__, made.__qualname__
    package = ".".join(module.split(".")[:2])
    return f"{package}.{name}" if getattr(import_module(package), name, None) is made else f"{module}.{name}"


def users_own(option: str, name: str) -> Callable[..., Any]:
    """The function, or class, of the user's that an option names as ``module.function``.

    Raises:
        ConfigError: where it cannot be imported, or cannot be called.
    """
    module, _, function = name.rpartition(".")
    try:
        with calling("its module"):
            found = getattr(import_module(module), function)
    except Exception as error:  # it is the user's code that runs here
        raise ConfigError(
            f"{option}={name} cannot be imported ({error}); Python looks in PYTHONPATH and in what is "
            "installed"
        ) from error
    if not callable(found):
        raise ConfigError(f"{option}={name} cannot be called: it is {found!r}")

    @wraps(found, updated=())
    def called(*arguments: Any, **options: Any) -> Any:
        with calling(f"{option}={name}"):
            return found(*arguments, **options)

    return called


def named(target: str) -> Any:
    """What a dotted name leads to.

    Raises:
        ConfigError: where that is nothing.
    """
    module, _, name = target.rpartition(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"_target_={target} names nothing that can be imported ({error})") from error
