"""Writes files and folders whole or not at all, so that a reader never sees half of one."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a full disk."""
REFUSED = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
"""Errors of file systems without locks or syncing: some of NFS, FUSE and clusters."""

log = logging.getLogger(__name__)


def write(file: Path, fill: Callable[[Path], object]) -> None:
    """Has `fill` write a file beside `file`, syncs it to disk, and renames it into place.

    Raises:
        OSError: if that fails; `file` is then as it was, and nothing is left beside it.
    """
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    os.close(descriptor)
    beside = Path(name)
    try:
        fill(beside)
        with suppress(OSError):  # some file systems have no modes
            beside.chmod(0o644)
        with beside.open("rb") as written:
            sync(written.fileno())
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def sync(descriptor: int) -> None:
    """Waits until a file is on disk, if its file system has a way to tell.

    Raises:
        OSError: if it cannot be written.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in REFUSED:
            raise
        log.debug("fsync is refused (%s): a crash of the machine may lose what was written last", error)


def write_text(file: Path, text: str) -> None:
    """Writes `text`, whole or not at all."""
    content = text.encode("utf-8", "backslashreplace")
    write(file, lambda beside: beside.write_bytes(content))


def remove_unfinished(file: Path) -> None:
    """Removes half-written copies of `file` that kills left beside it; nobody else may be writing it.

    A name that ends in ``*`` stands for all files of that kind in the folder.
    """
    for left in file.parent.glob(f".{file.name}.????????"):
        left.unlink(missing_ok=True)


@contextmanager
def appearing(folder: Path) -> Iterator[Path]:
    """Gives a folder to write to, which becomes `folder` by a rename when that is done.

    Until then an older one stays as it was. After a kill, `recover` puts both right.
    """
    beside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    try:
        yield beside
        beside.chmod(0o755)
        for file in beside.rglob("*"):  # safetensors writes for its owner alone
            file.chmod(0o755 if file.is_dir() else 0o644)
        old = beside.with_name(f"{beside.name}.old")
        if folder.exists():
            folder.rename(old)
        beside.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def recover(folder: Path) -> None:
    """Puts `folder` right after a kill in the middle of its replacement."""
    for old in folder.parent.glob(f".{folder.name}.*.old"):
        if not folder.exists():
            old.rename(folder)
    for left in folder.parent.glob(f".{folder.name}.*"):
        shutil.rmtree(left, ignore_errors=True)
