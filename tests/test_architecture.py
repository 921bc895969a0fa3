"""Layers point one way, no circle is anywhere, and Hydra stays in the command line."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import soupkitchen

PACKAGE = Path(soupkitchen.__file__).parent
LAYERS = [
    {"errors"},
    {"options", "process", "console"},
    {"store", "merging", "search"},
    {"checkpoints", "metrics"},
    {"soup", "tasks", "records", "demo", "methods"},
    {"models"},
    {"evaluation"},
    {"executors", "output"},
    {"experiment"},
    {"cli"},
    {"__main__", "cache", "inspect", "rebuild", "report", "tables"},
]
"""Packages and modules at the top, each of which imports from rows above its own only."""
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))
WITHOUT_TORCH = ("options", "store", "search", "records", "errors", "console", "cli/config")
LONGEST = 550
"""Lines of a module, docstrings and all."""


def module_of(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(file): file for file in FILES}


@cache
def imports(file: Path) -> frozenset[str]:
    """Dotted names of what is imported, wherever in the file, for type checkers too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return frozenset(found)


def modules_of(file: Path) -> set[str]:
    """Our own modules that a file imports from."""
    found = set()
    for name in imports(file):
        if name.startswith("soupkitchen."):
            found.add(name if name in MODULES else name.rpartition(".")[0])
    return found & MODULES.keys()


def layer(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_no_module_imports_from_a_layer_above_its_own_or_beside_it(file: Path) -> None:
    if layer(file) == "__init__":
        return
    for name in imports(file):
        if name.startswith("soupkitchen."):
            imported = name.split(".")[1]
            if imported in HEIGHT and imported != layer(file):
                assert HEIGHT[imported] < HEIGHT[layer(file)], f"{file.name} imports {name}"


def test_every_module_has_its_layer() -> None:
    assert {layer(file) for file in FILES} - {"__init__"} == set(HEIGHT)


def test_no_modules_import_each_other_in_a_circle() -> None:
    waiting = {name: modules_of(file) - {name} for name, file in MODULES.items()}
    while free := {name for name, needs in waiting.items() if not needs & waiting.keys()}:
        waiting = {name: needs for name, needs in waiting.items() if name not in free}
    assert waiting == {}


def test_only_the_command_line_knows_hydra() -> None:
    users = {layer(file) for file in FILES if any(n.split(".")[0] == "hydra" for n in imports(file))}
    assert users == {"__main__", "cli"}


@pytest.mark.parametrize("part", WITHOUT_TORCH)
def test_what_answers_at_once_knows_no_torch(part: str) -> None:
    folder = PACKAGE / part
    for file in folder.glob("*.py") if folder.is_dir() else [folder.with_suffix(".py")]:
        assert not {name.split(".")[0] for name in imports(file)} & {"torch", "transformers", "datasets"}


def test_no_module_is_too_long_to_be_read() -> None:
    lengths = {str(file.relative_to(PACKAGE)): len(file.read_text().splitlines()) for file in FILES}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}
