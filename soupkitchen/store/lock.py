"""One process at a time in a run's folder.

Locks are the operating system's. If a file system refuses these, as some of NFS, FUSE and clusters do, a lock
is a file that only one process can create, with its number and host in it. What a dead process left is taken
over on its own host; elsewhere nobody can know that it is dead, so an error says which file to remove.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, SoftFileLock, Timeout

from soupkitchen.errors import ConfigError, LockError
from soupkitchen.store.documents import own, read_bytes, read_json
from soupkitchen.store.files import REFUSED, write_text

log = logging.getLogger(__name__)

_PATIENCE_SECONDS = 600
"""How long a lock that is a file is waited for."""


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Holds the lock of the run in `folder`, whose parent is made where it is not there.

    The lock (`flock`, which Linux passes on over NFS too) is on a file beside the folder: it ends with the
    process that holds it, however that ends. A second file says who holds it. Both go when the work is
    done, and so do the folders that were made for it, where they are still empty.

    Raises:
        LockError: where another process holds it.
    """
    made = [above for above in folder.parents if not above.exists()]
    lock = folder.parent / f".{folder.name}.lock"
    holder = _holder_of(lock)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock, timeout=0, used=folder, otherwise=", or give this run another name="):
            try:
                me = {
                    "process": os.getpid(),
                    "host": socket.gethostname(),
                    "since": f"{datetime.now():%F %T}",
                }
                write_text(holder, json.dumps(me))
                yield
            finally:
                with suppress(OSError):
                    holder.unlink(missing_ok=True)
    finally:
        with suppress(OSError):
            for above in made:
                above.rmdir()


@contextmanager
def locked(file: Path, timeout: float = -1, used: Path | None = None, otherwise: str = "") -> Iterator[None]:
    """Holds a lock on `file`, which is removed afterwards.

    Removed while it is held: who waits for it notices that, and makes a new one.

    Args:
        timeout: seconds that it is waited for; below 0 for as long as its holder lives.
        used: what it is for, and `otherwise` what else can be done, for the message.

    Raises:
        LockError: if it cannot be had in that time.
    """
    soft = _refuses(file.parent)
    marker = _marker_of(file)
    lock = SoftFileLock(marker) if soft else FileLock(file)
    try:
        lock.acquire(_PATIENCE_SECONDS if soft and timeout < 0 else timeout)
    except Timeout as error:
        raise LockError(
            f"{used or file} is in use by {_holder(file)}. Wait for it, stop it{otherwise}"
            + (f". If that process has ended, remove {marker}" if soft else "")
        ) from error
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)
        lock.release()


@contextmanager
def soft_if_refused() -> Iterator[None]:
    """For a while, has the locks of libraries be files, too, if their file system refuses others.

    filelock does so by itself, but for one of the ways to refuse only.
    """
    acquire, release = FileLock.acquire, FileLock.release

    def acquired(self: Any, timeout: float | None = None, *arguments: Any, **options: Any) -> Any:
        seconds = self.timeout if timeout is None else timeout
        file = Path(self.lock_file)
        if not _refuses(file.parent):
            return acquire(self, seconds, *arguments, **options)
        self.soft = SoftFileLock(_marker_of(file))
        self.soft.acquire(_PATIENCE_SECONDS if seconds < 0 else seconds)
        return AcquireReturnProxy(self)

    def released(self: Any, *arguments: Any, **options: Any) -> None:
        if hasattr(self, "soft"):
            self.soft.release(*arguments, **options)
        else:
            release(self, *arguments, **options)

    FileLock.acquire, FileLock.release = acquired, released  # type: ignore[method-assign]
    try:
        yield
    finally:
        FileLock.acquire, FileLock.release = acquire, release  # type: ignore[method-assign]


def _marker_of(file: Path) -> Path:
    """The file that is a lock itself, instead of a lock on `file`, which a refused one leaves behind."""
    return file.with_name(f"{file.name}.soft")


def _refuses(folder: Path) -> bool:
    """Whether the file system of `folder` refuses the operating system's locks."""
    try:
        import fcntl

        with tempfile.TemporaryFile(dir=folder) as probe:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except ImportError:  # on Windows, whose locks are others
        return False
    except OSError as error:
        if error.errno in REFUSED:
            _say(folder, os.strerror(error.errno))
            return True
    return False


@cache
def _say(folder: Path, reason: str) -> None:
    log.warning(
        "%s: its file system refuses locks (%s); files that only one process can create are taken instead",
        folder,
        reason,
    )


def _holder_of(lock: Path) -> Path:
    return lock.with_suffix(".holder")


def _holder(lock: Path) -> str:
    """Who holds a lock, as far as the file beside it or, if it is a file itself, that file says."""
    try:
        said = read_json(own(_holder_of(lock)), dict[str, str | int])
        return f"process {said['process']} on {said['host']}, since {said['since']}"
    except (ConfigError, KeyError):
        pass
    try:
        process, host, *_ = read_bytes(own(_marker_of(lock))).decode().split("\n")
        return f"process {process} on {host}"
    except (ConfigError, ValueError):
        return "another process"
