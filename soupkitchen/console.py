"""The console on stderr, shared by log and live view.

Names of labels, tensors and runs come from strangers; `printable` makes them safe for a terminal.
"""

from __future__ import annotations

import logging
import sys
import unicodedata
from pathlib import Path

from rich.console import Console

from soupkitchen.errors import ConfigError


class Screen(Console):
    """A rich console that raises `BrokenPipeError` if its reader is gone, instead of exiting."""

    def on_broken_pipe(self) -> None:
        raise


console = Screen(stderr=True, highlight=False)

_UNSEEN = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Unicode's categories of control characters and changes of text direction."""


def printable(text: str, keep: str = "") -> str:
    """`text` with control characters escaped, as ``\\x1b``, except those in `keep`."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode()
        if unicodedata.category(character) in _UNSEEN and character not in keep
        else character
        for character in text
    )


def say(text: str) -> None:
    print(printable(text, keep="\n\t"), file=sys.stderr, flush=True)


class Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n\t")


def check_place() -> None:
    """Checks the working directory, since libraries give worse errors.

    Raises:
        ConfigError: if it was removed.
    """
    try:
        Path.cwd()
    except FileNotFoundError:
        raise ConfigError("the folder that you are in was removed: change to one that is there") from None


def warn_on_stderr() -> None:
    """Shows warnings as plain lines, for commands without a log."""
    handler = logging.StreamHandler()
    handler.setFormatter(Printable("%(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


class ConsoleHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            style = "bold yellow" if record.levelno >= logging.WARNING else None
            text = printable(self.format(record), keep="\n\t")
            console.print(text, style=style, markup=False, soft_wrap=True)
        except Exception:  # as every logging handler: a failing log line must not end a run
            self.handleError(record)
