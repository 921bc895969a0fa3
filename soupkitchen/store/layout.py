"""The names of the files in a run's folder, and the mark by which a folder is ours."""

from __future__ import annotations

import contextlib
from pathlib import Path

from soupkitchen.errors import ConfigError
from soupkitchen.store.documents import open_regular, own

CONFIG = "config.yaml"
JOURNAL = "journal.jsonl"
EVALUATIONS = "evaluations"
TRAJECTORY = "trajectory.csv"
LEADERBOARD = "leaderboard.csv"
SOUP = "soup"
RECIPE = "recipe.yaml"
MERGEKIT = "mergekit.yaml"
REPORT = "report.html"
MAP = "map.json"
PICTURES = ("trajectory.png", "trajectory.svg")
PROFILE = "profile.csv"
LOG = "soupkitchen.log"
CHECKSUMS = "checksums.json"
TRACKERS = "trackers.json"
TENSORBOARD = "tensorboard"

RESULTS = (
    LEADERBOARD, TRAJECTORY, EVALUATIONS, SOUP, RECIPE, MERGEKIT, REPORT, MAP, *PICTURES, JOURNAL, CONFIG,
    TRACKERS, TENSORBOARD, PROFILE, CHECKSUMS,
)  # fmt: skip
"""All that a run writes, but its log."""

_OPTIONS = {f"{option}:" for option in ("pool", "task", "method", "search", "results_dir", "overwrite")}
_EVENT = b'{"event": '


def carries_mark(folder: Path) -> bool:
    """Tells whether `folder` is a run's: it holds our configuration, perhaps edited since, or our journal."""
    lines = _begin(folder / CONFIG, 1 << 20).decode(errors="replace").splitlines()
    if {line.split(" ")[0] for line in lines} >= _OPTIONS:
        return True
    return _begin(folder / JOURNAL, len(_EVENT)) == _EVENT


def _begin(file: Path, size: int) -> bytes:
    """The first bytes of `file`; none if it cannot be read."""
    with contextlib.suppress(OSError, ConfigError), open_regular(own(file)) as handle:
        return handle.read(size)
    return b""


def check_is_ours(folder: Path) -> None:
    """Checks that a run may work in `folder`: it is not there yet, empty, or carries our mark.

    Raises:
        ConfigError: if something else is in it.
    """
    if not folder.exists() and not folder.is_symlink():
        return
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder: give this run another name= or results_dir=")
    for name in (CONFIG, JOURNAL, TRAJECTORY, LEADERBOARD, LOG, EVALUATIONS, SOUP):
        path, wanted = own(folder / name), "folder" if name in (EVALUATIONS, SOUP) else "file"
        if path.exists() and not (path.is_dir() if wanted == "folder" else path.is_file()):
            raise ConfigError(
                f"{path} is in the way: it should be a {wanted}. Move it, or give this run another name="
            )
    others = [path.name for path in sorted(folder.iterdir()) if not _is_harmless(path)]
    if others and not carries_mark(folder):
        shown = ", ".join(others[:3]) + (", …" if len(others) > 3 else "")
        raise ConfigError(
            f"{folder} holds {shown}, and is not the folder of a run: soupkitchen works in new or empty "
            "folders and in its own. Give this run another name= or results_dir="
        )


def _is_harmless(path: Path) -> bool:
    """Tells whether a run that was killed early may have left it, with no mark beside it yet."""
    moved_aside = path.name.startswith("before-") and carries_mark(path)
    return moved_aside or path.name == LOG or path.name.startswith(f".{CONFIG}.")


def has_weights(folder: Path) -> bool:
    """Tells whether a soup was saved to `folder`, and is still there."""
    return any(folder.glob("*.safetensors"))
