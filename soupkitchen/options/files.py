"""Finds the package's files, and reads the YAMLs of `conf/`. Imports nothing heavy.

In a checkout `conf/` and `scripts/` are beside the package, in a wheel inside it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

_PACKAGE = Path(__file__).resolve().parents[1]
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def folder(name: str) -> Path:
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


CONF = folder("conf")
EFFORTS = ("exact", "confident", "frugal")


def _by_effort(*values: Any, _root_: Any) -> Any:
    """The value that the chosen effort has in `${effort:…}`; the first for an unknown one, told elsewhere."""
    effort = OmegaConf.select(_root_, "evaluation.effort", default=EFFORTS[0])
    return dict(zip(EFFORTS, values, strict=True)).get(effort, values[0])


OmegaConf.register_new_resolver("effort", _by_effort, replace=True)


def names(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


@cache
def written(file: Path) -> Mapping[str, Any]:
    """Reads one of our YAMLs; empty if missing."""
    return yaml.load(file.read_text(encoding="utf-8"), _Loader) or {} if file.is_file() else {}


def load(file: Path) -> dict[str, Any]:
    """Reads one of our YAMLs, merged over its defaults list."""
    content = {key: value for key, value in written(file).items() if key != "defaults"}
    tree: dict[str, Any] = {}
    for entry in written(file).get("defaults", ["_self_"]):
        if entry == "_self_":
            tree = _over(tree, content)
        elif isinstance(entry, str):
            name = f"{entry.split('@')[0]}.yaml"
            tree = _over(tree, load(CONF / name[1:] if name.startswith("/") else file.parent / name))
    return tree


def compose(group: str, name: str, effort: str = EFFORTS[0]) -> dict[str, Any]:
    """Reads a choice of a group; resolves references to the top level (`${cache_dir}`) and to the effort."""
    both = {**load(CONF / "config.yaml"), group: load(CONF / group / f"{name}.yaml")}
    whole: Any = OmegaConf.merge(both, {"evaluation": {"effort": effort}})
    tree: Any = OmegaConf.to_container(whole[group], resolve=True)
    return tree


def top_level() -> dict[str, Any]:
    """Reads the options of `conf/config.yaml` outside groups, except the run's name."""
    tree = load(CONF / "config.yaml")
    kept = {name: value for name, value in tree.items() if name not in ("hydra", "name")}
    filled: Any = OmegaConf.to_container(OmegaConf.create(kept), resolve=True)
    return filled


@cache
def options_by_target() -> Mapping[str, set[str]]:
    """The options of each `_target_` in `conf/`."""
    options: dict[str, set[str]] = {}
    for file in CONF.rglob("*.yaml"):
        for node in nodes(load(file)):
            options.setdefault(node["_target_"], set()).update(node.keys() - {"_target_"})
    return options


def nodes(tree: Any) -> Iterator[Mapping[str, Any]]:
    """A tree's mappings with a `_target_`, outer ones first."""
    if isinstance(tree, Mapping):
        if "_target_" in tree:
            yield tree
        tree = list(tree.values())
    if isinstance(tree, Sequence) and not isinstance(tree, str):
        for part in tree:
            yield from nodes(part)


def unknown(tree: Mapping[str, Any], key: str = "") -> Iterator[str]:
    """The options in `tree`, by dotted key, that `conf/` does not have for their `_target_`."""
    known = options_by_target().get(tree.get("_target_", ""))
    for name, value in tree.items():
        dotted = f"{key}.{name}" if key else str(name)
        if known is not None and name not in known and not str(name).startswith("_"):
            yield dotted
        elif isinstance(value, Mapping):
            yield from unknown(value, dotted)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    both = {**below, **above}
    for name in below.keys() & above.keys():
        if isinstance(below[name], Mapping) and isinstance(above[name], Mapping):
            both[name] = _over(below[name], above[name])
    return both
