"""Reads weight files for a digest and for values that are not finite, and caches both.

The cache is valid while a file's path, device, inode, size and change times stay. A file written just before
is not cached: another write within one tick of the file system's clock would not show (git calls such files
racily clean).

Each folder of weights has one JSON file in the cache's `fingerprints/`, written by rename and with a
checksum, so processes can share it. If it is missing or damaged, the weights are read again.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import xxhash

from soupkitchen.checkpoints.folders import open_regular
from soupkitchen.checkpoints.weights import TensorInfo
from soupkitchen.errors import CheckpointError
from soupkitchen.process import stopwatch
from soupkitchen.store.digests import digest
from soupkitchen.store.files import write_text

log = logging.getLogger(__name__)

_FORMAT = 2
"""If you change the findings, increase this."""
_SETTLED_SECONDS = 2
"""Younger files are not cached. This is the step of FAT's clock, the coarsest."""
_BLOCK = 1 << 21
"""The most bytes of a block, which fits the processor's cache."""

Block = memoryview
"""Bytes of whole values of one tensor."""
Places = Mapping[str, tuple[int, int]]
"""The byte range (begin, end) of each tensor in a file."""
_Stamp = tuple[str, int, int, int, int, int]
"""Path, device, inode, size, and change times of content and inode in ns."""


class Findings(NamedTuple):
    """The results of reading all bytes: a digest, and the number of NaN and infinite values by tensor."""

    fingerprint: str
    not_finite: Mapping[str, int]


def findings(files: Iterable[Path], read: Callable[[], Findings], part: str = "") -> Findings:
    """The cached findings of `files`, or else those of `read`; `part` names the part that is read."""
    files, now = list(files), time.time_ns()
    stamps = _stamps(files)
    if not stamps:
        return read()
    entry: Path | None = None
    try:
        entry = _entry(stamps, part)
        if (kept := _kept(entry, stamps)) is not None:
            return kept
    except FileNotFoundError:
        pass
    except Exception as error:  # damaged: it is written anew
        log.debug("the findings in %s cannot be used (%s): its files are read", stamps[0][0], error)
    fresh = read()
    settled = max(max(stamp[-2:]) for stamp in stamps) <= now - _SETTLED_SECONDS * 10**9
    if settled and _stamps(files) == stamps:
        _keep(entry, stamps, fresh)
    return fresh


def examine(header: Mapping[str, TensorInfo], blocks: Callable[[str], Iterator[Block]]) -> Findings:
    content, not_finite = xxhash.xxh3_128(), {}
    for name, info in header.items():
        content.update(f"{name} {info.dtype} {info.shape}\0".encode())
        number = 0
        for block in blocks(name):
            content.update(block)
            stopwatch.read += block.nbytes
            if info.is_floating_point and info.torch_dtype is not None:
                number += _not_finite(block, info.torch_dtype)
        if number:
            not_finite[name] = number
    return Findings(content.hexdigest(), not_finite)


@contextmanager
def _still_readable(file: Path) -> Iterator[None]:
    try:
        yield
    except (CheckpointError, OSError, OverflowError, MemoryError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} cannot be read any more ({error})") from error


def places_in(file: Path) -> Places:
    """Reads the tensors' places in a safetensors file.

    Raises:
        CheckpointError: if the file has changed.
    """
    with _still_readable(file), open_regular(file) as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(length))
        header.pop("__metadata__", None)
        places = {name: [8 + length + x for x in info["data_offsets"]] for name, info in header.items()}
        return {name: (begin, end) for name, (begin, end) in places.items()}


def stored_blocks(file: Path, places: Places, name: str) -> Iterator[Block]:
    """Yields the bytes of tensor `name`; each block overwrites the last.

    Mapping the file would take longer than the computation, and slow down other threads.

    Raises:
        CheckpointError: if the file has changed.
    """
    with _still_readable(file), open_regular(file) as handle:
        begin, end = places[name]
        buffer = memoryview(bytearray(min(_BLOCK, end - begin)))
        handle.seek(begin)
        while begin < end:
            block = buffer[: end - begin]
            if handle.readinto(block) < len(block):
                raise OSError("it has become shorter")
            begin += len(block)
            yield block


def tensor_blocks(tensor: torch.Tensor) -> Iterator[Block]:
    values = tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
    for start in range(0, values.size, _BLOCK):
        yield values[start : start + _BLOCK].data


def _not_finite(block: Block, dtype: torch.dtype) -> int:
    """Counts values of `dtype` whose bits are above those of the largest number."""
    sign, largest = 1 << (8 * dtype.itemsize - 1), _largest(dtype)
    values = np.frombuffer(block, f"u{dtype.itemsize}")
    # taken as whole numbers with a sign, positive values are in order; without one, negative values
    if values.view(f"i{dtype.itemsize}").max() <= largest and values.max() <= sign + largest:
        return 0
    return int(np.count_nonzero((values & values.dtype.type(sign - 1)) > largest))


@cache
def _largest(dtype: torch.dtype) -> int:
    largest = torch.tensor([torch.finfo(dtype).max], dtype=dtype).view(torch.uint8)
    return int.from_bytes(largest.numpy().tobytes(), "little")


def _stamps(files: Iterable[Path]) -> list[_Stamp]:
    """Opens each file, since a network file system may report old times of a closed one."""
    stamps = []
    try:
        for file in files:
            with open_regular(file) as handle:
                status = os.fstat(handle.fileno())
            where = (str(file.absolute()), status.st_dev, status.st_ino)
            stamps.append((*where, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    except (CheckpointError, OSError):
        return []
    return sorted(stamps)


def _entry(stamps: list[_Stamp], part: str) -> Path:
    paths = "\0".join([*(stamp[0] for stamp in stamps), *([part] if part else [])])
    folder = Path(os.environ.get("SOUPKITCHEN_CACHE") or "~/.cache/soupkitchen").expanduser()
    return folder / "fingerprints" / f"{xxhash.xxh3_128(os.fsencode(paths)).hexdigest()}.json"


def _kept(entry: Path, stamps: list[_Stamp]) -> Findings | None:
    kept = json.loads(entry.read_bytes())
    checksum = kept.pop("checksum")
    if checksum != digest(_FORMAT, kept):
        raise ValueError("its checksum or its format is another")
    same = kept["files"] == [list(stamp) for stamp in stamps]
    return Findings(kept["fingerprint"], kept["not_finite"]) if same else None


def _keep(entry: Path | None, stamps: list[_Stamp], fresh: Findings) -> None:
    kept = {"files": stamps, **fresh._asdict()}
    try:
        if entry is None:
            raise OSError("there is no home folder")
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_text(entry, json.dumps(kept | {"checksum": digest(_FORMAT, kept)}))
    except OSError as error:
        _warn(str(error))


@cache
def _warn(why: str) -> None:
    """Warns once for each reason."""
    log.warning("what is found in weight files cannot be kept, so the next start reads them again (%s)", why)
