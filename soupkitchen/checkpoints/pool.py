"""Finds the runs of a pool: a folder of runs, a glob, or a list of either."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from soupkitchen.checkpoints.compatibility import check_compatible
from soupkitchen.checkpoints.reader import CONFIG_NAME, Checkpoint
from soupkitchen.errors import CheckpointError, IncompatibleError


@dataclass(frozen=True)
class Pool:
    """The runs to make soup of, in pool order (by path), all of one shape.

    Attributes:
        runs: at least two.
        base: what they were fine-tuned from, where that is known.
    """

    runs: tuple[Checkpoint, ...]
    base: Checkpoint | None = None

    def __len__(self) -> int:
        return len(self.runs)

    def __iter__(self) -> Iterator[Checkpoint]:
        return iter(self.runs)

    def __getitem__(self, name: str) -> Checkpoint:
        return next(run for run in self.runs if run.name == name)


def find_pool(path: str | Sequence[str], exclude: Sequence[str] = (), base: str | None = None) -> Pool:
    """Opens and checks the runs that `path` names.

    Args:
        path: a folder of runs, a glob, or a list of those. Each list item's runs
            are sorted by path; the list's own order is kept.
        exclude: names of runs to leave out; globs are allowed.
        base: the folder of the model that the runs were fine-tuned from; None for the one
            that the runs' configurations name, if all name the same local folder.

    Raises:
        CheckpointError: where there are fewer than two runs, or one cannot be read.
        IncompatibleError: where they cannot be merged.
    """
    patterns = [path] if isinstance(path, str) else list(path)
    folders = list(dict.fromkeys(folder for pattern in patterns for folder in _expand(pattern)))
    named = [
        (name, folder)
        for name, folder in zip(_names(folders), folders, strict=True)
        if not any(fnmatch(name, pattern) for pattern in exclude)
    ]
    if len(named) < 2:
        left_out = f" after pool.exclude={list(exclude)}" if len(named) < len(folders) else ""
        raise CheckpointError(
            f"pool.path={_shown(patterns)} gives {len(named)} run{'s' * (len(named) != 1)}{left_out}; "
            "a soup needs at least two. A run is a folder with config.json and model.safetensors."
        )
    runs = tuple(Checkpoint.open(folder, name) for name, folder in named)
    check_compatible(runs)
    return Pool(runs, _find_base(runs, base))


def _find_base(runs: Sequence[Checkpoint], base: str | None) -> Checkpoint | None:
    """The base model, given or named by the runs themselves.

    Raises:
        IncompatibleError: where it shares no tensor with the runs.
    """
    if base is None:
        named = {str(run.config.get("_name_or_path") or "") for run in runs}
        folder = Path(named.pop()) if len(named) == 1 else Path()
        if not folder.is_absolute() or not (folder / CONFIG_NAME).exists():
            return None
        base = str(folder)
    checkpoint = Checkpoint.open(Path(base).expanduser(), "base")
    shapes = {(name, info.shape) for name, info in checkpoint.header.items()}
    if not shapes & {(name, info.shape) for name, info in runs[0].header.items()}:
        raise IncompatibleError(
            f"pool.base={base} has no tensor of the name and shape of one of the runs': is it their base?"
        )
    return checkpoint


def _expand(pattern: str) -> list[Path]:
    """The folders that `pattern` names: itself, if a run; its subfolders, if a folder of runs."""
    matches = [Path(match) for match in sorted(glob.glob(str(Path(pattern).expanduser())))]
    folders = [match for match in matches if match.is_dir()]
    if not folders:
        raise CheckpointError(
            f"pool.path={pattern!r} names no folder (the working directory is {Path.cwd()})"
        )
    if len(folders) == 1 and not (folders[0] / CONFIG_NAME).exists():
        return sorted(folder for folder in folders[0].iterdir() if _is_run(folder))
    return folders


def _is_run(folder: Path) -> bool:
    """Whether `folder` is a run or, as the Trainer may leave one, holds checkpoints of one."""
    if folder.name.startswith("."):
        return False
    return (folder / CONFIG_NAME).exists() or any(folder.glob("checkpoint-*"))


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names where these differ, else their paths below the common parent."""
    short = [folder.resolve().name for folder in folders]
    if len(set(short)) == len(short):
        return short
    parent = os.path.commonpath([folder.resolve() for folder in folders])
    return [folder.resolve().relative_to(parent).as_posix() for folder in folders]


def _shown(patterns: Sequence[str]) -> str:
    return repr(patterns[0]) if len(patterns) == 1 else str(list(patterns))
