"""Layers point one way, no circle is anywhere, and Hydra stays in the command line."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

import soupkitchen

PACKAGE = Path(soupkitchen.__file__).parent
LAYERS = [
    {"errors", "stopwatch"},
    {"options"},
    {"store", "merging", "search"},
    {"checkpoints", "metrics", "console"},
    {"soup", "tasks", "records", "demo", "methods"},
    {"models"},
    {"evaluation"},
    {"executors", "output", "trackers"},
    {"experiment"},
    {"cli"},
    {"__main__", "cache", "inspect", "rebuild", "report", "tables"},
]
"""Packages and modules at the top, each of which imports from rows above its own only."""
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
FILES = sorted(PACKAGE.rglob("*.py"))
WITHOUT_TORCH = ("options", "store", "search", "records", "errors", "console", "cli/config")
LONGEST = 250
LONGER = {
    "evaluation/confidence.py": "the statistics of stopping with confidence, in one file at the seam",
    "executors/ray.py": "Ray: its cluster, the executor and the worker",
    "search/base.py": "the words of a search, and searches that are several, one after the other",
    "experiment/experiment.py": "what a run is, and everything that is made ready before it",
    "experiment/scores.py": "where a score is known from, place by place",
    "checkpoints/adapter_config.py": "peft's options, and how they select modules",
    "checkpoints/adapters.py": "what peft does to a tensor, kind by kind, is one thing",
    "checkpoints/compatibility.py": "all ways in which two runs may not fit, with their messages",
    "checkpoints/files.py": "the file formats that weights come in, behind one interface",
    "checkpoints/pool.py": "finding, opening and checking a pool is one story",
    "checkpoints/sources.py": "all that pool.path may name",
    "evaluation/evaluator.py": "preparing and scoring share one state, that of the splits",
    "metrics/base.py": "all that a metric may be, and the arrays that it takes and gives",
    "merging/sparsifiers.py": "four short classes that are read side by side",
    "checkpoints/folders.py": "all that may be read of a run's folder beside weights, and how",
    "checkpoints/names.py": "what transformers makes of a config.json, and where tensors of files go in it",
    "checkpoints/state_dicts.py": "the layouts of files with state dicts, with all their wrappers",
    "output/mergekit.py": "each key of mergekit's, read and written",
    "output/recipe_file.py": "a recipe.yaml written, read and followed",
    "models/auto.py": "loading through transformers, with all that can be wrong in a run",
    "soup/soup.py": "the soup",
    "records/figures.py": "all figures, in one style",
    "records/report.py": "the sections of two pages, each a few sentences and a figure",
    "records/sweep.py": "the table of all runs: what is read of each, and how they are ranked",
    "records/terminal.py": "all that a person sees of a run without a browser",
    "tasks/data.py": "all that task.data.path may name",
    "tasks/harness.py": "an adapter to another harness",
    "tasks/labels.py": "the one rule of what labels mean, with its messages",
    "trackers.py": "four short classes over accelerate's, and their observer",
}
"""Why a module has more lines than `LONGEST`."""


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
def test_no_module_imports_from_a_layer_above_its_own_or_beside_it(file):
    if layer(file) == "__init__":
        return
    for name in imports(file):
        if name.startswith("soupkitchen."):
            imported = name.split(".")[1]
            if imported in HEIGHT and imported != layer(file):
                assert HEIGHT[imported] < HEIGHT[layer(file)], f"{file.name} imports {name}"


def test_every_module_has_its_layer():
    assert {layer(file) for file in FILES} - {"__init__"} == set(HEIGHT)


def test_no_modules_import_each_other_in_a_circle():
    waiting = {name: modules_of(file) - {name} for name, file in MODULES.items()}
    while free := {name for name, needs in waiting.items() if not needs & waiting.keys()}:
        waiting = {name: needs for name, needs in waiting.items() if name not in free}
    assert waiting == {}


def test_only_the_command_line_knows_hydra():
    users = {layer(file) for file in FILES if any(n.split(".")[0] == "hydra" for n in imports(file))}
    assert users == {"__main__", "cli"}


@pytest.mark.parametrize("part", WITHOUT_TORCH)
def test_what_answers_at_once_knows_no_torch(part):
    folder = PACKAGE / part
    for file in folder.glob("*.py") if folder.is_dir() else [folder.with_suffix(".py")]:
        assert not {name.split(".")[0] for name in imports(file)} & {"torch", "transformers", "datasets"}


def test_no_module_is_long_without_a_reason():
    lengths = {str(f.relative_to(PACKAGE)): len(f.read_text().splitlines()) for f in FILES}
    assert {name for name, length in lengths.items() if length > LONGEST} == LONGER.keys()
