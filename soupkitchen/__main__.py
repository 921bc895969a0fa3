"""The command line: `python -m soupkitchen`, or `soupkitchen`.

What can go wrong is told here, once, in plain words; `soupkitchen.cli.command` does the work. Nothing
heavy is imported before there is something to run.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shlex
import sys
from typing import NoReturn

from soupkitchen.cli.startup import end, end_when_asked, importing
from soupkitchen.console import plain_streams, say
from soupkitchen.errors import SoupkitchenError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_REMEDIES = {
    **dict.fromkeys(_NO_ROOM, "Nothing is lost: make room, and the same command continues"),
    **dict.fromkeys(
        (errno.EACCES, errno.EPERM, errno.EROFS),
        "Give yourself the right to it, or name another results_dir=. Nothing is lost",
    ),
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


def main() -> None:
    """Runs the command line; exits with 1 and a message for what the user can put right."""
    end_when_asked()
    plain_streams()
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, to be explained
    logging.raiseExceptions = False  # where the disk is full, the log is the least of it
    words = sys.argv[1:]
    with importing():
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        from soupkitchen.cli import command
        from soupkitchen.cli import config as conf
    error: Exception | None = None
    try:
        conf.register_resolvers()
        conf.check_words(words)
        sys.argv[1:] = conf.sweepable(conf.in_our_words(words))
        command.run_all()
        sys.stdout.flush()
    except KeyboardInterrupt as stop:
        again = [word for word in words if not word.startswith("overwrite=")]  # that would start anew
        command_line = shlex.join(["python", "-m", "soupkitchen", *again])
        end(stop, f"; what was done is kept. To continue:\n{command_line}")
    except BrokenPipeError:
        _end_unread()
    except command.Failed as failed:
        error = failed.error
    except (HydraException, OmegaConfBaseException, SoupkitchenError, OSError) as raised:
        error = raised
    if isinstance(error, BrokenPipeError):
        _end_unread()
    if error is not None:
        message = _explained(error)
        if full_error or message is None:
            raise error
        say(f"error: {message}")
        sys.exit(1)


def _explained(error: Exception) -> str | None:
    """What went wrong and what to do about it; None for what only a programmer can put right."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from soupkitchen.cli import config as conf

    if isinstance(error, SoupkitchenError):
        return str(error)
    if isinstance(error, (HydraException, OmegaConfBaseException)):
        return conf.explain(_told(error))
    if isinstance(error, OSError) and error.errno in _REMEDIES:
        cannot = "be written" if error.errno in _NO_ROOM else "be used"
        return f"{error.filename or 'a file'} cannot {cannot} ({error.strerror}). {_REMEDIES[error.errno]}"
    return None


def _end_unread() -> NoReturn:
    """Ends as other commands do whose output nobody reads any more, as in ``… | head``."""
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python says so once more
    os._exit(141)


def _told(error: BaseException | None) -> str:
    """What Hydra has to say: the messages of the error and its causes."""
    messages = []
    while error is not None:
        if str(error) and str(error) not in messages:
            messages.append(str(error))
        error = error.__cause__
    return "\n".join(messages)


if __name__ == "__main__":
    main()
