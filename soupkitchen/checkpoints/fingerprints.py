"""What a look at every byte of weight files found, kept so that the next start need not look again.

A pool of seventy runs of 14 GB is a terabyte, whose content would be hashed at each start. What was found
in files holds for as long as they are the same ones: by path, device, inode, size, and the times at which
content and inode last changed. Of a file that was written just before it was read, nothing is kept: another
write within the grain of the file system's clock would leave its times as they are. git calls such files
racily clean.

There is one small JSON file for the weight files of a folder, in `fingerprints/` of the cache folder. It
appears by a rename and holds a checksum of itself, so processes may share the folder; where it is not
there, or damaged, everything is read.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import xxhash

from soupkitchen.checkpoints.strangers import open_regular
from soupkitchen.errors import CheckpointError
from soupkitchen.store.digests import digest
from soupkitchen.store.files import write_text

log = logging.getLogger(__name__)

_FORMAT = 1
"""To be raised whenever something else is found in the same files."""
_SETTLED_SECONDS = 2
"""How long a file must have been left alone before it is read: the coarsest clock of a file system, FAT's."""

_Stamp = tuple[str, int, int, int, int, int]
"""Path, device, inode, size, and when the content and the inode changed, in ns."""


class Findings(NamedTuple):
    """What takes a look at every byte.

    Attributes:
        fingerprint: the digest of the content.
        not_finite: how many values are NaN or infinite, by tensor that has such.
    """

    fingerprint: str
    not_finite: Mapping[str, int]


def findings(files: Iterable[Path], read: Callable[[], Findings], part: str = "") -> Findings:
    """What `read` finds in `files`: by reading them, or by what it found before in the same ones.

    Args:
        part: which part of the files' content, where it is not all of it.
    """
    files, now = list(files), time.time_ns()
    stamps = _stamps(files)
    if not stamps:
        return read()
    if (known := _known(stamps, part)) is not None:
        return known
    found = read()
    settled = max(max(stamp[-2:]) for stamp in stamps) <= now - _SETTLED_SECONDS * 10**9
    if settled and _stamps(files) == stamps:
        _keep(stamps, part, found)
    return found


def _stamps(files: Iterable[Path]) -> list[_Stamp]:
    """Those of the files, each opened for that: a network file system may tell old times of a closed one.

    None at all where one cannot be opened.
    """
    stamps = []
    try:
        for file in files:
            with open_regular(file) as handle:
                told = os.fstat(handle.fileno())
            where = (str(file.absolute()), told.st_dev, told.st_ino)
            stamps.append((*where, told.st_size, told.st_mtime_ns, told.st_ctime_ns))
    except (CheckpointError, OSError):  # reading it tells
        return []
    return sorted(stamps)


def _known(stamps: list[_Stamp], part: str) -> Findings | None:
    try:
        kept = json.loads(_entry(stamps, part).read_bytes())
        checksum = kept.pop("checksum")
        if checksum == digest(kept) and kept["format"] == _FORMAT:
            if kept["files"] == [list(stamp) for stamp in stamps]:
                return Findings(kept["fingerprint"], kept["not_finite"])
            return None
        raise ValueError("its checksum or its format is another")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        log.debug("what was known of %s cannot be used (%s): it is read again", stamps[0][0], error)
        return None


def _keep(stamps: list[_Stamp], part: str, found: Findings) -> None:
    kept: dict[str, Any] = {"format": _FORMAT, "files": stamps, **found._asdict()}
    try:
        entry = _entry(stamps, part)
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_text(entry, json.dumps(kept | {"checksum": digest(kept)}))
    except (OSError, RuntimeError) as error:  # RuntimeError: there is no home
        _warn(str(error))


def _entry(stamps: list[_Stamp], part: str) -> Path:
    paths = "\0".join([*(stamp[0] for stamp in stamps), *([part] if part else [])])
    folder = Path(os.environ.get("SOUPKITCHEN_CACHE") or "~/.cache/soupkitchen").expanduser()
    return folder / "fingerprints" / f"{xxhash.xxh3_128(os.fsencode(paths)).hexdigest()}.json"


@cache
def _warn(why: str) -> None:
    """Once for each reason."""
    log.warning("what is found in weight files cannot be kept, so the next start reads them again (%s)", why)
