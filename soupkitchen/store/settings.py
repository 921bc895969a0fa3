"""The options that results depend on: runs that share them are the same run."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soupkitchen.errors import ConfigError
from soupkitchen.options import shown
from soupkitchen.store.files import own, read_yaml

CHOICES = "choices"
"""The key under which the command notes each group's chosen file."""
NOT_IN_NAMES = {"name", "results_dir", "cache_dir", "overwrite", CHOICES}
HOW_NOT_WHAT = set(
    "runtime.device runtime.batch_size runtime.workers runtime.threads runtime.device_map "
    "runtime.max_memory runtime.offload_folder runtime.compile runtime.profile evaluation.cache "
    "evaluation.effort executor output.private output.push_to_hub report._target_ report.map_gib "
    "report.write tracker".split()
)
"""Options that do not affect results, including those below them."""

_UNSAID = {"pool.key": None, "task.floors": None, "model._target_": "soupkitchen.models.Auto"}
"""Options that count only if they have another value, so that older runs keep their names."""
_NOTHING = "(not there)"


def what_is_run(config: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value
        for key, value in flat(config).items()
        if not (is_ignored(key) or (key in _UNSAID and value == _UNSAID[key]))
    }


def is_ignored(key: str) -> bool:
    return any(key == option or key.startswith(f"{option}.") for option in NOT_IN_NAMES | HOW_NOT_WHAT)


def what_was_run(file: Path) -> dict[str, Any]:
    """`what_is_run` for a run's `config.yaml`.

    Raises:
        ConfigError: if it cannot be read.
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
    return [
        f"{key}: {shown(before.get(key, _NOTHING))} before, {shown(now.get(key, _NOTHING))} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key, _NOTHING) != now.get(key, _NOTHING)
    ]


def flat(tree: Any, above: str = "") -> dict[str, Any]:
    if not isinstance(tree, Mapping) or not tree:
        return {above: tree}
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        leaves |= flat(value, f"{above}.{key}" if above else str(key))
    return leaves


def tail(path: str) -> str:
    """A relative path whole, or the last parts of an absolute one."""
    return "/".join(Path(path).parts[-3:]) if Path(path).is_absolute() else path


def slug(text: str) -> str:
    """`text` as part of a file name: letters, digits and ``.,=+-_`` only."""
    return re.sub(r"[^\w.,=+-]+", "_", text).strip("_.-") or "run"
