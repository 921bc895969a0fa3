"""Which tests start processes, by the names that their code speaks of."""

from __future__ import annotations

import inspect
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import command
import pytest

STARTERS = (command.Fork, subprocess.run, subprocess.Popen)

_known: dict[Any, bool] = {}


def starts_processes(item: pytest.Function) -> bool:
    """Whether the test, a fixture that it uses, or anything of ours that they speak of starts a process."""
    fixtures = [one.func for found in item._fixtureinfo.name2fixturedefs.values() for one in found]
    return any(starts(function) for function in (item.function, *fixtures))


def starts(one: Any) -> bool:
    if any(one is starter for starter in STARTERS):
        return True
    if not isinstance(one, FunctionType | type) or not _is_ours(one):
        return False
    if one not in _known:
        _known[one] = False  # as far as it speaks of itself
        _known[one] = any(map(starts, _spoken_of(one)))
    return _known[one]


def _is_ours(one: FunctionType | type) -> bool:
    file = getattr(inspect.getmodule(one), "__file__", None)
    return file is not None and Path(file).parent == Path(__file__).parent


def _spoken_of(one: FunctionType | type) -> Iterator[Any]:
    """What the code of a function, or of a class's methods, names: globals, and attributes of modules."""
    if isinstance(one, type):
        yield from (inspect.unwrap(value) for value in vars(one).values() if callable(value))
        return
    function = inspect.unwrap(one)
    names = set(_names(function.__code__))
    known = [function.__globals__[name] for name in names if name in function.__globals__]
    for value in known:
        yield value
        if inspect.ismodule(value):
            yield from (getattr(value, name) for name in names if name in vars(value))


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
