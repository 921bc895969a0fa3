"""One process at a time in a run's folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from soupkitchen.errors import LockError


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Holds the lock of the run in `folder`.

    The lock is the operating system's (`flock`, which Linux passes on over NFS too), on a file
    beside the folder: it ends with the process that holds it, however that ends, so a dead
    process leaves none. A second file says who holds it.

    Raises:
        LockError: where another process holds it.
    """
    file = folder.parent / f".{folder.name}.lock"
    holder = file.with_suffix(".holder")
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise LockError(
            f"{folder} is in use by {_holder(holder)}. Wait for it, stop it, or give this run another name="
        ) from error
    try:
        me = {"process": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now():%F %T}"}
        holder.write_text(json.dumps(me), encoding="utf-8")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _holder(file: Path) -> str:
    try:
        said = json.loads(file.read_text(encoding="utf-8"))
        return f"process {said['process']} on {said['host']}, since {said['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
