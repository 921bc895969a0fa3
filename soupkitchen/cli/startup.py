"""Starting up and ending: standard streams, faster imports, ending at once, and commands on folders."""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from soupkitchen import process
from soupkitchen.errors import SoupkitchenError

_importing = False


class Terminated(KeyboardInterrupt):
    """SIGTERM, as sent by SLURM and container runtimes."""


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Lets a command print if its streams are closed (``>&-``) or unread (``| head``).

    If nobody reads its stdout any more, the process exits with 141, as others do.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # or a file of ours would be stdout
        pass
    os.close(descriptor)
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "w", encoding="utf-8", closefd=False))  # noqa: SIM115
        if isinstance(stream := getattr(sys, name), io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # what its encoding lacks is written out
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # or Python finds out while it ends, and says so
    except BrokenPipeError:
        os._exit(141)


def end_when_asked() -> None:
    """SIGINT raises `KeyboardInterrupt`, SIGTERM `Terminated`. While `importing`, both end the process."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as of a job in the background
        signal.signal(signal.SIGINT, _asked)
    signal.signal(signal.SIGTERM, _asked)


def _asked(number: int, frame: FrameType | None) -> None:
    stop = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
    if _importing:  # a library may make another error of it, or none
        end(stop, " before anything was done")
    raise stop


def end(stop: KeyboardInterrupt, and_then: str) -> NoReturn:
    """Reports that the process was stopped, and ends it without waiting for libraries' threads."""
    terminated = isinstance(stop, Terminated)
    with contextlib.suppress(OSError, ValueError):  # nobody may be reading any more
        if process.rank():
            and_then = ""
        print(f"{'terminated' if terminated else 'interrupted'}{and_then}", file=sys.stderr, flush=True)
    os._exit(143 if terminated else 130)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Disables garbage collection during a process's imports.

    Modules are many thousands of permanent objects, which the collector would walk again and again.
    """
    global _importing
    gc.disable()
    _importing = True
    try:
        yield
    finally:
        _importing = False
        gc.freeze()
        gc.enable()


@contextlib.contextmanager
def small_command() -> Iterator[None]:
    """Shows errors that the user can put right, and exits with 1."""
    with standard_streams():
        try:
            yield
        except BrokenPipeError:
            raise
        except (SoupkitchenError, OSError) as error:
            from soupkitchen.console import say  # it takes a moment, in which a signal may come

            say(f"error: {error}")
            sys.exit(1)


def parser_of(command: str, about: str | None) -> argparse.ArgumentParser:
    """The parser of `python -m soupkitchen.<command>`; `--help` shows the first line of `about`."""
    return argparse.ArgumentParser(
        prog=f"python -m soupkitchen.{command}", description=(about or "").splitlines()[0]
    )
