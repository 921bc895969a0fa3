"""Sizes, times and digests of a finished run's files, which show what happened to them since."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterable
from contextlib import suppress
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import xxhash

from soupkitchen.errors import SoupkitchenError
from soupkitchen.store.documents import open_regular, read_json
from soupkitchen.store.files import remove_unfinished, write_text
from soupkitchen.store.layout import (
    CHECKSUMS,
    CONFIG,
    JOURNAL,
    LEADERBOARD,
    MAP,
    MERGEKIT,
    PICTURES,
    RECIPE,
    REPORT,
    SOUP,
    TRAJECTORY,
)

log = logging.getLogger(__name__)

DERIVED = frozenset((TRAJECTORY, LEADERBOARD, REPORT, *PICTURES))
"""Files that are made of the journal, and can be made again without runs and data."""
_FILES = (*DERIVED, RECIPE, MERGEKIT, MAP, JOURNAL)
_USERS = (f"{SOUP}/README.md", f"{SOUP}/trajectory.png")
"""The card, which people may edit."""
_BLOCK_BYTES = 1 << 20


class _Seen(NamedTuple):
    size: int
    modified_ns: int
    digest: str


def note(folder: Path, names: Collection[str] | None = None) -> None:
    """Notes what the files of the finished run in `folder` are; with `names`, only these anew."""
    before = _read(folder)
    seen = {} if names is None else {name: before[name] for name in before if name not in names}
    for file in (*(folder / name for name in _FILES), *(folder / SOUP).rglob("*")):
        name = file.relative_to(folder).as_posix()
        if file.is_file() and (names is None or name in names):
            same = name in before and _looks(file) == before[name][:2]
            seen[name] = before[name] if same else _Seen(*_looks(file), _digest(file))
    _write(folder, seen)


def altered(folder: Path, wanted: Iterable[str] = (), thoroughly: bool = False) -> dict[str, str]:
    """Looks for changes of the finished run in `folder`: by file, "is missing" or "was changed".

    Args:
        wanted: names of files that have to be there.
        thoroughly: whether all files are read; otherwise those that differ in size or time are.
    """
    before, changes = _read(folder), {}
    for name in sorted({*before, *wanted}):
        file, seen = folder / name, before.get(name)
        try:
            looks = _looks(file)
        except OSError:
            changes[name] = "is missing"
            continue
        if seen is None or name in _USERS or (not thoroughly and looks == seen[:2]):
            continue
        if file.is_symlink() or not file.is_file() or looks[0] != seen.size or _digest(file) != seen.digest:
            changes[name] = "was changed"
    return changes


def set_aside(folder: Path, names: Iterable[str]) -> None:
    """Moves changed files out of the way of files that are made again; the soup moves as a whole."""
    changed = {SOUP if name.startswith(f"{SOUP}/") else name for name in names if name not in _USERS}
    there = [name for name in sorted(changed) if (folder / name).exists()]
    if there:
        aside = folder / f"before-{datetime.now():%Y%m%d-%H%M%S-%f}"
        aside.mkdir()
        for name in there:
            (folder / name).rename(aside / name)
        log.warning("%s: what was there is in %s", ", ".join(there), aside)


def clear_unfinished(folder: Path) -> None:
    """Removes half-written files that kills left beside the run's own."""
    for name in (*_FILES, *_USERS, CONFIG, CHECKSUMS):
        remove_unfinished(folder / name)


def suspect(folder: Path, names: Iterable[str]) -> None:
    """Lets `altered` read these files the next time, whatever their sizes and times."""
    seen = _read(folder)
    seen |= {name: seen[name]._replace(modified_ns=0) for name in names if name in seen}
    with suppress(OSError):
        _write(folder, seen)


def _write(folder: Path, seen: dict[str, _Seen]) -> None:
    write_text(folder / CHECKSUMS, f"{json.dumps(seen, indent=1)}\n")


def _read(folder: Path) -> dict[str, _Seen]:
    """Reads the notes; none if the file is missing or was edited. Names that lead elsewhere are left out."""
    if not (folder / CHECKSUMS).exists():
        return {}
    try:
        seen = read_json(folder / CHECKSUMS, dict[str, _Seen])
    except SoupkitchenError as error:
        log.warning("%s: nothing is compared with it", error)
        return {}
    paths = {name: PurePosixPath(name) for name in seen}
    inside = (name for name, path in paths.items() if path.parts and not path.is_absolute())
    return {name: seen[name] for name in inside if ".." not in paths[name].parts}


def _looks(file: Path) -> tuple[int, int]:
    status = file.lstat()
    return status.st_size, status.st_mtime_ns


def _digest(file: Path) -> str:
    state = xxhash.xxh3_128()
    with open_regular(file) as handle:
        while block := handle.read(_BLOCK_BYTES):
            state.update(block)
    return state.hexdigest()
