"""What the user's own code is, told by its source: a result that it gave is not that of what it is now.

The source of a module is its file, and those of all modules that it imports, wherever in it an
`import` stands, but for what is installed: that has versions. Nothing is run to find them.
"""

from __future__ import annotations

import ast
import inspect
import sys
import sysconfig
from collections.abc import Iterator
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import xxhash

_INSTALLED = tuple(
    Path(folder).resolve()
    for name, folder in sysconfig.get_paths().items()
    if name in ("stdlib", "platstdlib", "purelib", "platlib")
)


def source_of(thing: Any) -> list[str]:
    """File and digest of each module that `thing`, a function or class, is made of; its own comes first.

    What has no source (a built-in) is told by its name.
    """
    try:
        file = Path(inspect.getsourcefile(inspect.unwrap(thing)) or inspect.getfile(thing)).resolve()
        seen = {file: file.read_bytes()}
    except (TypeError, OSError, ValueError):
        return [f"{getattr(thing, '__module__', '')}.{getattr(thing, '__qualname__', repr(thing))}"]
    package = getattr(sys.modules.get(getattr(thing, "__module__", "")), "__package__", None) or ""
    waiting = [(file, package)]
    while waiting:
        file, package = waiting.pop()
        for found, within in _imported(seen[file], package, file.parent):
            if found not in seen:
                seen[found] = found.read_bytes()
                waiting.append((found, within))
    own, *others = seen
    return [f"{file.name} {xxhash.xxh3_128_hexdigest(seen[file])}" for file in (own, *sorted(others))]


def _imported(source: bytes, package: str, folder: Path) -> Iterator[tuple[Path, str]]:
    """The files, and their packages, that `source`, a module in `package` and `folder`, imports."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # compiled
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join(part for part in (*above, node.module or "") if part)
            names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
        else:
            continue
        for name in names:
            yield from _found(name, folder)


def _found(name: str, folder: Path) -> Iterator[tuple[Path, str]]:
    """The module called `name` and the packages that it lies in, where they are not installed."""
    path, within = [str(folder), *sys.path], ""
    for part in name.split("."):
        spec = PathFinder.find_spec(f"{within}.{part}".lstrip("."), path)
        if spec is None:
            return
        within = spec.name
        if spec.origin is not None and spec.has_location:
            file = Path(spec.origin).resolve()
            if any(file.is_relative_to(installed) for installed in _INSTALLED):
                return
            yield file, within if spec.submodule_search_locations else within.rpartition(".")[0]
        if spec.submodule_search_locations is None:
            return
        path = list(spec.submodule_search_locations)
