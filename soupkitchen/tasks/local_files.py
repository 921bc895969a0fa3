"""Local files of data: whether they are those of last time.

`datasets` keeps what it has read of a file, and takes it for the same file as long as its time of
modification is. Copying and unpacking set that time at will; they cannot set that of the last change
of the file itself (ctime).
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import datasets
import xxhash

_TICK_SECONDS = 2.0
"""Within that time of a change there may be another that leaves the times of a file as they are."""


def local_files(paths: Iterable[str | Path]) -> Iterator[Path]:
    """The files at `paths`, below them where they are folders, and of globs; in order."""
    for path in paths:
        named = Path(path).expanduser()
        for match in [named] if named.exists() else map(Path, sorted(glob.glob(str(named)))):
            if not match.is_dir():
                yield match
                continue
            seen: set[str] = set()
            for folder, folders, names in os.walk(match, followlinks=True):
                real = os.path.realpath(folder)
                folders[:] = [] if real in seen else sorted(folders)  # links may lead in circles
                seen.add(real)
                yield from (Path(folder, name) for name in sorted(names))


def stamp(files: Iterable[str | Path]) -> str:
    """A digest of the files' paths, sizes and times: another one if a file was written or replaced."""
    state, now = xxhash.xxh3_128(), time.time()
    for file in files:
        try:
            found = Path(file).stat()
        except OSError:
            state.update(f"{file} is not there\n".encode())
            continue
        changed = found.st_mtime_ns, found.st_ctime_ns
        state.update(f"{Path(file).absolute()} {found.st_size} {found.st_ino} {changed}\n".encode())
        if now - max(changed) / 1e9 < _TICK_SECONDS and Path(file).is_file():
            state.update(Path(file).read_bytes())
    return state.hexdigest()


def cache_folder(paths: Iterable[str | Path]) -> str | None:
    """Where `datasets` is to keep what it reads of local data as it is now; None where none is local."""
    files = list(local_files(paths))
    return str(Path(datasets.config.HF_DATASETS_CACHE) / "soupkitchen" / stamp(files)) if files else None
