"""What a run is, told by its options: which of them results depend on, and which two runs have in common."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soupkitchen.errors import ConfigError
from soupkitchen.options import shown
from soupkitchen.store.documents import own, read_yaml

CHOICES = "choices"
"""Where the command notes which file of each group was chosen: what they said stands in full beside it."""
NOT_IN_NAMES = {"name", "results_dir", "cache_dir", "overwrite", CHOICES}
HOW_NOT_WHAT = {
    f"runtime.{option}"
    for option in (
        "device",
        "batch_size",
        "workers",
        "threads",
        "device_map",
        "max_memory",
        "offload_folder",
        "compile",
        "profile",
    )
} | {
    "evaluation.cache",
    "executor",
    "output.private",
    "output.push_to_hub",
    "report._target_",
    "report.map_gib",
    "report.write",
    "tracker",
}
"""Options, and what is below them, that have no part in what comes out."""

_MOVED = {"soupkitchen.serving.Output": "soupkitchen.output.Output"}
"""What `_target_`s of earlier versions are called now."""
_ADDED = dict.fromkeys(("search.candidates", "search.passes", "search.candidate_scale")) | {
    "search.replacement": False,
    "search.prune": False,
    "search.ranking": "full",
    "report.contributions": False,
}
"""Options that earlier versions had not, and what they then did."""
_UNSAID = {"pool.key": None, "model._target_": "soupkitchen.models.Auto"}
"""The same of options that are told only where they are something else, so that names of runs stay."""
_NOTHING = "(not there)"


def what_is_run(config: Mapping[str, Any]) -> dict[str, Any]:
    """The options that results depend on, by dotted key: what two runs must share to be the same."""
    return {
        key: _MOVED.get(value, value) if isinstance(value, str) else value
        for key, value in flat(config).items()
        if not (is_ignored(key) or (key in _UNSAID and value == _UNSAID[key]))
    }


def is_ignored(key: str) -> bool:
    """Whether an option, or the one that it is below, has no part in what comes out."""
    return any(key == option or key.startswith(f"{option}.") for option in NOT_IN_NAMES | HOW_NOT_WHAT)


def what_was_run(file: Path) -> dict[str, Any]:
    """The same of a run's own configuration.

    Raises:
        ConfigError: where it cannot be had.
    """
    remedy = "overwrite=true moves these results aside and starts anew"
    if not os.path.lexists(file):
        raise ConfigError(f"{file.parent} holds results without their {file.name}; {remedy}")
    try:
        return what_is_run(read_yaml(own(file), dict[str, Any]))
    except ConfigError as error:
        why = str(error).removeprefix(f"{file}: ")
        raise ConfigError(f"{file} was edited and cannot be read any more ({why}); {remedy}") from error


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """One line for each option that differs; what earlier versions had no option for is as they did it."""
    added = {key: _ADDED[key] for key in now.keys() - before.keys() if key in _ADDED}
    before = {**added, **before}
    return [
        f"{key}: {shown(before.get(key, _NOTHING))} before, {shown(now.get(key, _NOTHING))} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, _NOTHING) != now.get(key, _NOTHING)
    ]


def flat(tree: Any, above: str = "") -> dict[str, Any]:
    """The leaves of a tree, by dotted key."""
    if not isinstance(tree, Mapping) or not tree:
        return {above: tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{above}.{key}" if above else str(key))
    return leaves


def tail(path: str) -> str:
    """A relative path whole, the last parts of an absolute one."""
    return "/".join(Path(path).parts[-3:]) if Path(path).is_absolute() else path


def slug(text: str) -> str:
    """`text` as part of a file name: letters, digits and ``.,=+-_`` only."""
    return re.sub(r"[^\w.,=+-]+", "_", text).strip("_.-") or "run"
