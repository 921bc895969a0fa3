"""Locks a run's folder for one process.

If the file system refuses the operating system's locks (some NFS, FUSE), a soft lock is a file that only one
process can create, with its process id and host. On the same host, a dead process's lock is taken over; on
another one, an error names the file to remove.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from functools import cache
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from soupkitchen.errors import ConfigError, LockError
from soupkitchen.store.files import REFUSED, own, read_bytes, read_json, write_text

log = logging.getLogger(__name__)

SAYING_SO = 2.0
"""Seconds in which a process writes that it holds a new lock, or releases one after removing that note."""


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Locks the run in `folder`, whose parent is created if missing.

    The lock is on a file beside the folder, and ends with the process. A second file names the holder. Both
    are removed at the end, and created folders too if empty.

    Raises:
        LockError: if another process holds it.
    """
    made = [above for above in folder.parents if not above.exists()]
    lock = folder.parent / f".{folder.name}.lock"
    holder = _holder_of(lock)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(lock, timeout=0, used=folder, otherwise=", or give this run another name="):
            try:
                since = f"{datetime.now():%F %T}"
                me = {"process": os.getpid(), "host": socket.gethostname(), "since": since}
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
def locked(
    file: Path, timeout: float = 3600, used: Path | None = None, otherwise: str = ""
) -> Iterator[None]:
    """Locks `file`, which is removed before the release: a waiting process creates a new one.

    Args:
        timeout: seconds to wait.
        used: the path in the message.
        otherwise: another remedy in the message.

    Raises:
        LockError: if the time is over.
    """
    lock = FileLock(file)
    try:
        with soft_if_refused():
            try:
                lock.acquire(timeout)
            except Timeout:
                if _holder(file):
                    raise
                lock.acquire(SAYING_SO)
    except Timeout as error:
        holder = _holder(file) or "another process"
        remedy = f". If that process has ended, remove {file}" if isinstance(lock, SoftFileLock) else ""
        raise LockError(
            f"{used or file} is in use by {holder}. Wait for it, stop it{otherwise}{remedy}"
        ) from error
    soft = isinstance(lock, SoftFileLock)
    if soft:
        _say_that_it_refuses(file.parent)
    try:
        yield
    finally:
        if not soft:
            with suppress(OSError):
                file.unlink(missing_ok=True)
        lock.release()


@contextmanager
def soft_if_refused() -> Iterator[None]:
    """Makes filelock, also in libraries, take soft locks if a file system refuses others.

    filelock itself does so for only one of the error codes.
    """
    if sys.platform == "win32":
        yield
        return
    import fcntl

    flock = fcntl.flock

    def refused_in_one_way(file: int, operation: int) -> None:
        try:
            flock(file, operation)
        except OSError as error:
            if error.errno in REFUSED:
                raise OSError(errno.ENOSYS, error.strerror) from error
            raise

    warnings.filterwarnings("ignore", "flock not supported on this filesystem")
    fcntl.flock = refused_in_one_way  # type: ignore[assignment]
    try:
        yield
    finally:
        fcntl.flock = flock


@cache
def _say_that_it_refuses(folder: Path) -> None:
    log.warning(
        "%s: its file system refuses locks; files that only one process can create are taken instead", folder
    )


def _holder_of(lock: Path) -> Path:
    return lock.with_suffix(".holder")


def _holder(lock: Path) -> str | None:
    try:
        holder = read_json(own(_holder_of(lock)), dict[str, str | int])
        return f"process {holder['process']} on {holder['host']}, since {holder['since']}"
    except (ConfigError, KeyError):
        pass
    try:
        process, host, *_ = read_bytes(own(lock)).decode().split("\n")
        return f"process {process} on {host}"
    except (ConfigError, ValueError):
        return None
