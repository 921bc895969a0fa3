"""Digests of plain data, and of the user's own code, so that changed code gives no cached results.

The source of a module is its file and the files of all modules that it imports, wherever in it an `import`
stands or a function that imports is called. Installed modules are left out: they have versions. Nothing is
run to find the files.
"""

from __future__ import annotations

import ast
import inspect
import json
import sys
import sysconfig
from collections.abc import Iterator
from functools import partial
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import xxhash

_INSTALLED = (
    Path(__file__).resolve().parents[1],
    *(
        Path(folder).resolve()
        for name, folder in sysconfig.get_paths().items()
        if name in ("stdlib", "platstdlib", "purelib", "platlib")
    ),
)
_BY_NAME = ("import_module", "__import__", "run_module")
_BUILT_IN = ("__import__", "exec")
_IMPORTING = (*_BY_NAME, *_BUILT_IN, "run_path", "spec_from_file_location", "SourceFileLoader")
"""Functions that import or run what their arguments name."""


def digest(*parts: Any) -> str:
    """A digest of text, numbers, bytes, and lists and mappings of these."""
    state = xxhash.xxh3_128()
    for part in parts:
        state.update(part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode())
        state.update(b"\0")
    return state.hexdigest()


def source_of(thing: Any, name: str = "") -> list[str]:
    """File and digest of each module that the function or class `thing` depends on, its own first.

    A built-in gives its name.

    Args:
        name: its dotted name; that module may have made `thing` from other code.
    """
    thing = inspect.unwrap(thing)
    while isinstance(thing, partial):
        thing = inspect.unwrap(thing.func)
    roots = [root for owner in (thing, type(thing)) if (root := _file_and_package(owner))][:1]
    module = _file_and_package(sys.modules.get(name.rpartition(".")[0]))
    roots += [module] if module and not _is_installed(module[0]) else []
    if not roots:
        return [f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', repr(thing))}"]
    seen = {file: file.read_bytes() for file, _ in roots}
    waiting = roots[:]
    while waiting:
        file, package = waiting.pop()
        for imported, within in _imported(seen[file], package, file.parent):
            if imported not in seen:
                seen[imported] = imported.read_bytes()
                waiting += [] if within is None else [(imported, within)]
    first, *others = seen
    return [f"{file.name} {xxhash.xxh3_128_hexdigest(seen[file])}" for file in (first, *sorted(others))]


def _file_and_package(thing: Any) -> tuple[Path, str] | None:
    try:
        file = Path(inspect.getsourcefile(thing) or inspect.getfile(thing)).resolve(strict=True)
    except (TypeError, OSError, ValueError):
        return None
    module = thing if inspect.ismodule(thing) else sys.modules.get(getattr(thing, "__module__", ""))
    return file, getattr(module, "__package__", None) or ""


def _imported(source: bytes, package: str, folder: Path) -> Iterator[tuple[Path, str | None]]:
    """The files and packages that `source`, a module in `package` and `folder`, imports.

    If names are only known at run time, these are all files that it could find.
    """
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # compiled
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            module = _absolute(node.level, node.module or "", package)
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Call) and _called(node) in _IMPORTING:
            name, *more = [getattr(argument, "value", None) for argument in node.args] or [None]
            if _called(node) in _BY_NAME and isinstance(name, str):
                anchor = more[0] if more and isinstance(more[0], str) else package
                names = [_absolute(len(name) - len(name.lstrip(".")), name.lstrip("."), anchor)]
            else:
                yield from _around(folder)
                continue
        else:
            continue
        for name in names:
            yield from _found(name, folder)


def _called(call: ast.Call) -> str:
    """The last part of a called name; empty for methods named like a built-in."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr if call.func.attr not in _BUILT_IN else ""
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _absolute(level: int, module: str, package: str) -> str:
    above = package.split(".")[: len(package.split(".")) - level + 1] if level else []
    return ".".join(part for part in (*above, module) if part)


def _around(folder: Path) -> Iterator[tuple[Path, None]]:
    for place in dict.fromkeys([folder, *(Path(entry).resolve() for entry in sys.path)]):
        if not _is_installed(place):
            yield from ((file.resolve(), None) for part in ("*.py", "*/*.py") for file in place.glob(part))


def _is_installed(file: Path) -> bool:
    return any(file.is_relative_to(installed) for installed in _INSTALLED)


def _found(name: str, folder: Path) -> Iterator[tuple[Path, str]]:
    path, within = [str(folder), *sys.path], ""
    for part in name.split("."):
        spec = PathFinder.find_spec(f"{within}.{part}".lstrip("."), path)
        if spec is None:
            return
        within = spec.name
        if spec.origin is not None and spec.has_location:
            file = Path(spec.origin).resolve()
            if _is_installed(file):
                return
            yield file, within if spec.submodule_search_locations else within.rpartition(".")[0]
        if spec.submodule_search_locations is None:
            return
        path = list(spec.submodule_search_locations)
