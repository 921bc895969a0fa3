"""One process at a time in a run's folder."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from soupkitchen.errors import ConfigError, LockError
from soupkitchen.store.documents import own, read_json
from soupkitchen.store.files import write_text


@contextmanager
def only_process(folder: Path) -> Iterator[None]:
    """Holds the lock of the run in `folder`, whose parent is made where it is not there.

    The lock is the operating system's (`flock`, which Linux passes on over NFS too), on a file
    beside the folder: it ends with the process that holds it, however that ends, so a dead
    process leaves none. A second file says who holds it. Both go when the work is done, and so do
    the folders that were made for it, where they are still empty.

    Raises:
        LockError: where another process holds it.
    """
    made = [above for above in folder.parents if not above.exists()]
    holder = folder.parent / f".{folder.name}.holder"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.parent / f".{folder.name}.lock", timeout=0):
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
    except Timeout as error:
        raise LockError(
            f"{folder} is in use by {_holder(holder)}. Wait for it, stop it, or give this run another name="
        ) from error
    finally:
        with suppress(OSError):
            for above in made:
                above.rmdir()


@contextmanager
def locked(file: Path, timeout: float = -1) -> Iterator[None]:
    """Holds a lock on `file`, which is removed afterwards.

    Removed while it is held: who waits for it notices that, and makes a new one.

    Raises:
        Timeout: where it cannot be had in `timeout` seconds.
    """
    lock = FileLock(file)
    lock.acquire(timeout=timeout)
    try:
        yield
    finally:
        with suppress(OSError):
            file.unlink(missing_ok=True)
        lock.release()


def _holder(file: Path) -> str:
    try:
        said = read_json(own(file), dict[str, str | int])
        return f"process {said['process']} on {said['host']}, since {said['since']}"
    except (ConfigError, KeyError):
        return "another process"
