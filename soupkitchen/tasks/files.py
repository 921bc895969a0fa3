"""Local files of data: which there are, whether they changed, and what two splits have in common.

`datasets` keeps what it has read of a file, and takes it for the same file as long as its time of
modification is. Copying and unpacking set that time at will; they cannot set the time of the file's own
last change (ctime).
"""

from __future__ import annotations

import glob
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import xxhash
from datasets import Dataset

_TICK_SECONDS = 2.0
"""Within that time of a change there may be another that leaves the times of a file as they are."""


def local_files(paths: Iterable[str | Path]) -> Iterator[Path]:
    """The files at `paths`, in folders there, and of globs; in order."""
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
            stat = Path(file).stat()
        except OSError:
            state.update(f"{file} is not there\n".encode())
            continue
        changed = stat.st_mtime_ns, stat.st_ctime_ns
        state.update(f"{Path(file).absolute()} {stat.st_size} {stat.st_ino} {changed}\n".encode())
        if now - max(changed) / 1e9 < _TICK_SECONDS and Path(file).is_file():
            state.update(Path(file).read_bytes())
    return state.hexdigest()


def cache_folder(paths: Iterable[str | Path]) -> str | None:
    """The folder for `datasets`' copy of local data as it is now; None if none is local."""
    files = list(local_files(paths))
    return str(Path(datasets.config.HF_DATASETS_CACHE) / "soupkitchen" / stamp(files)) if files else None


def count_overlap(first: Dataset, second: Dataset, columns: Sequence[str]) -> int:
    """The number of examples of `second` that are in `first`, too, by the content of `columns`.

    Rows are compared by digests, of which only the smaller side's are kept. Images and sounds are compared by
    the bytes of their files: two files of different sizes are never read for it.
    """
    media = (datasets.Image, datasets.Audio)
    stored = [c for c in columns if all(isinstance(split.features[c], media) for split in (first, second))]
    sizes = {column: {_size(row[0]) for row in _rows(second, [column])} for column in stored}

    def compared(column: str, value: Any) -> Any:
        if column not in stored or value is None:
            return value
        size = _size(value)
        return (size, content_of(value)) if size in sizes[column] else ("of another size", size)

    wanted = Counter(_digests(second, columns, compared))
    common = {digest for digest in _digests(first, columns, compared) if digest in wanted}
    return sum(wanted[digest] for digest in common)


def _digests(split: Dataset, columns: Sequence[str], compared: Callable[[str, Any], Any]) -> Iterator[bytes]:
    for row in _rows(split, columns):
        content = tuple(compared(column, value) for column, value in zip(columns, row, strict=True))
        yield xxhash.xxh3_128_digest(repr(content).encode(errors="surrogatepass"))


def _rows(split: Dataset, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    for table in split.select_columns(list(columns)).with_format("arrow").iter(batch_size=1000):
        yield from zip(*(table[column].to_pylist() for column in columns), strict=True)


def _size(file: dict[str, Any] | None) -> int | None:
    """The bytes of an image or a sound as `datasets` holds it; None if they are not here."""
    if file is None:
        return None
    try:
        return len(file["bytes"]) if file["bytes"] is not None else Path(file["path"]).stat().st_size
    except OSError:
        return None


def content_of(file: dict[str, Any]) -> bytes | str:
    """A digest of the bytes of an image or a sound; its path if they are not here."""
    try:
        content = file["bytes"] if file["bytes"] is not None else Path(file["path"]).read_bytes()
    except OSError:
        return str(file["path"])
    return xxhash.xxh3_128_digest(content)
