"""The command line: `python -m soupkitchen`, or `soupkitchen`.

Shows errors once, in plain words. Imports nothing heavy before there is something to run.
"""

from __future__ import annotations

import logging
import os
import shlex
import sys
import time

from soupkitchen import process
from soupkitchen.cli.startup import end, end_when_asked, importing, standard_streams
from soupkitchen.errors import SoupkitchenError
from soupkitchen.process import stopwatch

_FIRST_SECONDS = 5
"""Time for a launch's first process to report an error, before the launcher ends the others."""


@standard_streams()
def main() -> None:
    """Runs the command line; exits with 1 and a message if the user can fix the error."""
    stopwatch.begin()
    end_when_asked()
    full_error = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come here, to be explained
    logging.raiseExceptions = False  # where the disk is full, the log is the least of it
    words = sys.argv[1:]
    with importing():
        from hydra.errors import HydraException
        from omegaconf.errors import OmegaConfBaseException

        from soupkitchen.cli import command
        from soupkitchen.cli import config as conf
        from soupkitchen.cli.config import explained
        from soupkitchen.console import say
    error: Exception | None = None
    try:
        conf.check_words(words)
        sys.argv[1:] = conf.sweepable(conf.in_our_words(words))
        command.run_all()
    except KeyboardInterrupt as stop:
        again = [word for word in words if not word.startswith("overwrite=")]  # that would start anew
        command_line = f"{process.command()} {shlex.join(again)}".rstrip()
        end(stop, f"; what was done is kept. To continue:\n{command_line}")
    except command.Failed as failed:
        error = failed.error
    except (HydraException, OmegaConfBaseException, SoupkitchenError, OSError) as raised:
        error = raised
    if isinstance(error, BrokenPipeError):
        raise error
    if error is not None:
        if process.rank():
            time.sleep(_FIRST_SECONDS)
        message = explained(error)
        if full_error or message is None:
            raise error
        say(f"error: {message}")
        sys.exit(1)


if __name__ == "__main__":
    main()
