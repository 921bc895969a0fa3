"""What went wrong, in plain words, and what to do about it."""

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
"""What to do about errors of the operating system whose cause is where a user can reach it."""


def explained(error: BaseException) -> str | None:
    """What went wrong and what to do about it; None for what only a programmer can put right."""
    if isinstance(error, SoupkitchenError):
        return str(error)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return conf.explain(told(error))
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        cannot = "be written" if error.errno in NO_ROOM else "be used"
        return f"{error.filename or 'a file'} cannot {cannot} ({error.strerror}). {_REMEDIES[error.errno]}"
    return None


def told(error: BaseException | None) -> str:
    """What Hydra has to say: the messages of the error and its causes."""
    messages = []
    while error is not None:
        if str(error) and str(error) not in messages:
            messages.append(str(error))
        error = error.__cause__
    return "\n".join(messages)
