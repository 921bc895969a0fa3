"""Layers point one way, and Hydra stays at the entry point."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import soupkitchen

PACKAGE = Path(soupkitchen.__file__).parent
LAYERS = [
    {
        "building",
        "errors",
        "resources",
        "console",
        "cache",
        "journal",
        "layout",
        "lock",
        "options",
        "presets",
        "provenance",
        "startup",
    },
    {"checkpoints"},
    {"merging"},
    {"metrics"},
    {"tasks"},
    {"methods"},
    {"evaluation"},
    {"states"},
    {"soup", "low_rank"},
    {"serving", "verification"},
    {"search"},
    {"decisions"},
    {"records"},
    {"display"},
    {"logbook"},
    {"experiment", "cooking"},
    {"demo", "config", "inspect"},
    {"command"},
    {"__main__"},
]
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def layer(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(PACKAGE)))
def test_no_module_imports_from_a_layer_above_its_own(file: Path) -> None:
    if layer(file) == "__init__":
        return
    for name in imports(file):
        if name.startswith("soupkitchen."):
            imported = name.split(".")[1]
            if imported in HEIGHT:
                assert HEIGHT[imported] <= HEIGHT[layer(file)], f"{file.name} imports {name}"


def test_every_module_has_its_layer() -> None:
    assert {layer(file) for file in FILES} - {"__init__"} == set(HEIGHT)


def test_only_the_entry_point_knows_hydra() -> None:
    users = {layer(file) for file in FILES if any(n.split(".")[0] == "hydra" for n in imports(file))}
    assert users == {"__main__", "command", "config"}


def test_records_know_no_torch() -> None:
    for file in (PACKAGE / "records").glob("*.py"):
        assert not any(name.split(".")[0] in ("torch", "transformers") for name in imports(file))
