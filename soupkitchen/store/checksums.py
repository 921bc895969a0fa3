"""Sizes, times and digests of a finished run's files, by which it is noticed what happened to them since."""

from __future__ import annotations

import json
import logging
import stat
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
"""What is made of the journal, and can be made again without runs and data."""
_FILES = (*DERIVED, RECIPE, MERGEKIT, MAP, JOURNAL)
_USERS = (f"{SOUP}/README.md", f"{SOUP}/trajectory.png")
"""The card, which people may edit."""
_BLOCK_BYTES = 1 << 20


class _Seen(NamedTuple):
    size: int
    modified_ns: int
    digest: str


def note(folder: Path, names: Collection[str] | None = None) -> None:
    """Notes what the files of the finished run in `folder` are; with `names`, only these anew.

    What looks as it was noted is taken to be that.
    """
    known = _read(folder)
    files = [*(folder / name for name in _FILES), *(folder / SOUP).rglob("*")]
    seen = {name: known[name] for name in known if names is not None and name not in names}
    for file in files:
        name = file.relative_to(folder).as_posix()
        if file.is_file() and (names is None or name in names):
            looks = _looks(file)
            same = name in known and looks == known[name][:2]
            seen[name] = known[name] if same else _Seen(*looks, _digest(file))
    write_text(folder / CHECKSUMS, f"{json.dumps(seen, indent=1)}\n")


def altered(folder: Path, wanted: Iterable[str] = (), thoroughly: bool = False) -> dict[str, str]:
    """What became of files of the finished run in `folder` since: by name, "is missing" or "was changed".

    Args:
        wanted: names of files that have to be there.
        thoroughly: whether all is read; otherwise what differs in size or time is.
    """
    known, found = _read(folder), {}
    for name in sorted({*known, *wanted}):
        try:
            status = (folder / name).lstat()
        except OSError:
            found[name] = "is missing"
            continue
        seen = known.get(name)
        if seen is None or name in _USERS or (not thoroughly and _looks(folder / name) == seen[:2]):
            continue
        regular = stat.S_ISREG(status.st_mode) and status.st_size == seen.size
        if not (regular and _digest(folder / name) == seen.digest):
            found[name] = "was changed"
    return found


def set_aside(folder: Path, names: Iterable[str]) -> None:
    """Moves files that were changed out of the way of those that are made again; of a soup all of it."""
    changed = {SOUP if name.startswith(f"{SOUP}/") else name for name in names if name not in _USERS}
    there = [name for name in sorted(changed) if (folder / name).exists()]
    if there:
        aside = folder / f"before-{datetime.now():%Y%m%d-%H%M%S-%f}"
        aside.mkdir()
        for name in there:
            (folder / name).rename(aside / name)
        log.warning("%s: what was there is in %s", ", ".join(there), aside)


def clear_unfinished(folder: Path) -> None:
    """Removes what kills in the middle of writing the run's files left beside them."""
    for name in (*_FILES, *_USERS, CONFIG, CHECKSUMS):
        remove_unfinished(folder / name)


def suspect(folder: Path, names: Iterable[str]) -> None:
    """Has `altered` read these files the next time, whatever their sizes and times."""
    known = _read(folder)
    known |= {name: known[name]._replace(modified_ns=0) for name in names if name in known}
    with suppress(OSError):
        write_text(folder / CHECKSUMS, f"{json.dumps(known, indent=1)}\n")


def _read(folder: Path) -> dict[str, _Seen]:
    """What was noted; nothing of a run of an earlier version, or where the file was edited."""
    if not (folder / CHECKSUMS).exists():
        return {}
    try:
        told = read_json(folder / CHECKSUMS, dict[str, tuple[int, int, str]])
    except SoupkitchenError as error:
        log.warning("%s: nothing is compared with it", error)
        return {}
    paths = {name: PurePosixPath(name) for name in told}
    return {
        name: _Seen(*told[name])
        for name, path in paths.items()
        if path.parts and not path.is_absolute() and ".." not in path.parts
    }


def _looks(file: Path) -> tuple[int, int]:
    status = file.lstat()
    return status.st_size, status.st_mtime_ns


def _digest(file: Path) -> str:
    state = xxhash.xxh3_128()
    with open_regular(file) as handle:
        while block := handle.read(_BLOCK_BYTES):
            state.update(block)
    return state.hexdigest()
