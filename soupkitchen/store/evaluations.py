"""Caches evaluations, so that the same weights are never scored twice on the same examples.

An entry is a safetensors file, named by a digest of all that a score depends on: the weights (for a soup, its
ingredients and merge), the prepared examples, the metric's kind of input, dtype, device, batches, and the
computing packages, with soupkitchen's own source. It is written by rename with a checksum, so processes may
share the folder. Damaged entries are ignored, other files are never touched.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from soupkitchen.errors import ConfigError, SaveError
from soupkitchen.store.digests import digest
from soupkitchen.store.files import open_regular, own, remove_unfinished, write

log = logging.getLogger(__name__)

_SUFFIX = ".safetensors"
_CHECKSUM, _LABEL = "checksum", "label"
_ABANDONED = timedelta(days=1)
"""Half-written entries of this age belong to killed processes."""
_KEY = re.compile(r"[0-9a-f]{32}")

Rows = Sequence[Any] | np.ndarray
Outputs = Mapping[str, Rows]
"""Predictions by task, one for each example."""


@dataclass(frozen=True)
class CachedEvaluation:
    """An entry of the cache.

    Attributes:
        label: None if the file cannot be read.
        used: the time of the last read or write.
    """

    key: str
    label: str | None
    size: int
    used: datetime


@dataclass(frozen=True)
class EvaluationCache:
    """A folder of evaluations, which several processes may use at once."""

    folder: Path

    def get(self, key: str) -> Outputs | None:
        """The predictions under `key`; None if missing or damaged."""
        file = self._file(key)
        try:
            if file.exists():
                open_regular(own(file)).close()  # safe_open would wait for what writes to a pipe
            with safe_open(file, framework="numpy") as handle:
                arrays = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
                if handle.metadata()[_CHECKSUM] != _checksum(arrays):
                    raise ValueError("its checksum is wrong")
            with suppress(OSError):  # somebody else's, or gone by now
                os.utime(file)
            return {name[1:]: _decoded(name[0], array) for name, array in arrays.items()}
        except FileNotFoundError:
            return None
        except (ConfigError, SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            log.warning("%s is damaged (%s): it is scored again", file, error)
            return None

    def put(self, key: str, outputs: Outputs, label: str) -> None:
        """Keeps predictions; `label` is for people. Logs if that fails."""
        try:
            self.write(key, outputs, label)
        except (OSError, SaveError) as error:
            log.warning("the evaluation cache %s cannot be written (%s)", self.folder, error)

    def write(self, key: str, outputs: Outputs, label: str) -> None:
        """Keeps predictions, synced to disk.

        Raises:
            SaveError: if they cannot be written; nothing of them is left then.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        arrays = dict(_encoded(name, rows) for name, rows in outputs.items())
        metadata = {_CHECKSUM: _checksum(arrays), _LABEL: label}
        try:
            write(self._file(key), lambda beside: save_file(arrays, beside, metadata))
        except (OSError, SafetensorError) as error:
            raise SaveError(
                f"{self._file(key)} cannot be written ({error}). Nothing is lost: make room, and the "
                "same command continues"
            ) from error

    def remove_unfinished(self) -> None:
        """Removes half-written entries; nobody else may be writing."""
        remove_unfinished(self.folder / f"*{_SUFFIX}")

    def entries(self) -> list[CachedEvaluation]:
        entries = []
        for file in self.folder.glob(f"*{_SUFFIX}"):
            with suppress(FileNotFoundError):  # if another process took it away
                status = file.lstat()
                if stat.S_ISREG(status.st_mode) and _KEY.fullmatch(file.stem):
                    used = datetime.fromtimestamp(status.st_mtime)
                    entries += [
                        CachedEvaluation(file.stem, label, status.st_size, used) for label in _labels(file)
                    ]
        return sorted(entries, key=lambda entry: entry.used)

    def clear(self) -> int:
        """Deletes all entries and counts them. Damaged ones may be somebody else's files and stay."""
        return len(self.prune(size=-1))

    def prune(self, before: datetime = datetime.min, size: float = math.inf) -> list[CachedEvaluation]:
        """Deletes entries not used since `before`, and the longest unused beyond `size` bytes in all;
        damaged ones stay.
        """
        entries = [entry for entry in self.entries() if entry.label is not None]
        total, gone = sum(entry.size for entry in entries), []
        for entry in entries:
            if entry.used < before or total > size:
                self._file(entry.key).unlink(missing_ok=True)
                total -= entry.size
                gone.append(entry)
        for left in self.folder.glob(f".{'[0-9a-f]' * 32}{_SUFFIX}.????????"):
            with suppress(OSError):
                if datetime.fromtimestamp(left.lstat().st_mtime) < datetime.now() - _ABANDONED:
                    left.unlink()
        return gone

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}{_SUFFIX}"


def _encoded(name: str, rows: Rows) -> tuple[str, np.ndarray]:
    """Arrays stay, anything else becomes JSON; the first letter of the name says which."""
    if isinstance(rows, np.ndarray) and rows.dtype != object:
        return f"a{name}", np.ascontiguousarray(rows)
    plain = [row.tolist() if hasattr(row, "tolist") else row for row in rows]
    return f"j{name}", np.frombuffer(json.dumps(plain).encode(), np.uint8)


def _decoded(kind: str, array: np.ndarray) -> Rows:
    return array if kind == "a" else json.loads(array.tobytes())


def _checksum(arrays: Mapping[str, np.ndarray]) -> str:
    return digest(*(part for name in sorted(arrays) for part in (name, arrays[name].tobytes())))


def _labels(file: Path) -> list[str | None]:
    """The label of an entry, None if unreadable; empty if the file is no entry."""
    try:
        with safe_open(file, framework="numpy") as handle:
            metadata = handle.metadata() or {}
    except FileNotFoundError:
        raise
    except (SafetensorError, OSError):
        return [None]
    return [str(metadata[_LABEL])] if {_CHECKSUM, _LABEL} <= metadata.keys() else []
