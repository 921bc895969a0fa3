"""Errors in plain words, with what to do about them."""

from __future__ import annotations

import errno

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from soupkitchen.cli import config as conf
from soupkitchen.errors import SoupkitchenError
from soupkitchen.store.files import NO_ROOM

_REMEDIES = {
    **dict.fromkeys(NO_ROOM, "Nothing is lost: make room, and the same command continues"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "Give yourself the right to it, or name another results_dir=. Nothing is lost",
    ),
    errno.ENOENT: "Put it back, or name another results_dir=. Nothing is lost",
    errno.ENAMETOOLONG: "Give this run a shorter name=",
    **dict.fromkeys(
        (errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
        "A file is where a folder should be, or a folder where a file should be: move it, or give this run "
        "another name= or results_dir=",
    ),
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE, errno.ENXIO, errno.EMFILE, errno.ENFILE),
        "That is the machine's fault, not the run's: once it is well, the same command continues",
    ),
}
"""Remedies for errors of the operating system that a user can put right."""


def explained(error: BaseException) -> str | None:
    """The error in plain words; None if only a programmer can put it right."""
    if isinstance(error, SoupkitchenError):
        return str(error)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return conf.explain(_messages(error))
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        cannot = "be written" if error.errno in NO_ROOM else "be used"
        return f"{error.filename or 'a file'} cannot {cannot} ({error.strerror}). {_REMEDIES[error.errno]}"
    return None


def _messages(error: BaseException | None) -> str:
    """The messages of Hydra's error and its causes."""
    messages: list[str] = []
    while error is not None:
        if str(error) and str(error) not in messages:
            messages.append(str(error))
        error = error.__cause__
    return "\n".join(messages)
