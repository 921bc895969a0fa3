"""Examples that two splits have in common, found without holding either in memory.

Rows are compared by a digest of their content, of which only the smaller side's are kept. Images and
sounds are compared by the bytes of their files, wherever these lie: two files of different sizes are never
read for it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets
import xxhash

_ROWS = 1000


def count_overlap(one: datasets.Dataset, other: datasets.Dataset, columns: Sequence[str]) -> int:
    """How many examples of `other` are in `one` too, by the content of `columns`."""
    stored = [
        column
        for column in columns
        if all(isinstance(split.features[column], (datasets.Image, datasets.Audio)) for split in (one, other))
    ]
    sizes = {column: {_size(file) for file in _values(other, column)} for column in stored}

    def told(column: str, value: Any) -> Any:
        if column not in stored or value is None:
            return value
        size = _size(value)
        return (size, content(value)) if size in sizes[column] else ("of another size", size)

    wanted = Counter(_digests(other, columns, told))
    found = {digest for digest in _digests(one, columns, told) if digest in wanted}
    return sum(wanted[digest] for digest in found)


def _digests(
    split: datasets.Dataset, columns: Sequence[str], told: Callable[[str, Any], Any]
) -> Iterator[bytes]:
    """A digest of each row; `told` says what of a column's value is compared."""
    for table in split.select_columns(list(columns)).with_format("arrow").iter(batch_size=_ROWS):
        for row in zip(*(table[column].to_pylist() for column in columns), strict=True):
            compared = tuple(told(column, value) for column, value in zip(columns, row, strict=True))
            yield xxhash.xxh3_128_digest(repr(compared).encode(errors="surrogatepass"))


def _values(split: datasets.Dataset, column: str) -> Iterator[Any]:
    for table in split.select_columns([column]).with_format("arrow").iter(batch_size=_ROWS):
        yield from table[column].to_pylist()


def _size(file: dict[str, Any] | None) -> int | None:
    """The bytes of an image or a sound as `datasets` holds it; None where they are not here."""
    if file is None:
        return None
    if file["bytes"] is not None:
        return len(file["bytes"])
    try:
        return Path(file["path"]).stat().st_size
    except OSError:
        return None


def content(file: dict[str, Any]) -> bytes | str:
    """A digest of the bytes of an image or a sound; its path where they are not here."""
    try:
        content = file["bytes"] if file["bytes"] is not None else Path(file["path"]).read_bytes()
    except OSError:
        return str(file["path"])
    return xxhash.xxh3_128_digest(content)
