"""Starting up and ending: standard streams, faster imports, ending at once, and commands on folders."""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

from soupkitchen import process
from soupkitchen.console import printable, say
from soupkitchen.errors import SoupkitchenError

_importing = False


class Terminated(KeyboardInterrupt):
    """SIGTERM, as SLURM and container runtimes send it."""


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Lets a command print whatever its streams are: closed (``>&-``), or unread (``| head``).

    If nobody reads its stdout any more, the process ends with 141, as other commands do.
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
    """Makes SIGINT raise `KeyboardInterrupt`, SIGTERM `Terminated`. While `importing`, they end it."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # as of a job in the background
        signal.signal(signal.SIGINT, _asked)
    signal.signal(signal.SIGTERM, _asked)


def _asked(number: int, frame: FrameType | None) -> None:
    stop = Terminated() if number == signal.SIGTERM else KeyboardInterrupt()
    if _importing:  # a library may make another error of it, or none
        end(stop, " before anything was done")
    raise stop


def end(stop: KeyboardInterrupt, and_then: str) -> NoReturn:
    """Says that the process was stopped, and ends it: threads of libraries are not waited for."""
    terminated = isinstance(stop, Terminated)
    with contextlib.suppress(OSError, ValueError):  # nobody may be reading any more
        if process.rank():
            and_then = ""
        print(f"{'terminated' if terminated else 'interrupted'}{and_then}", file=sys.stderr, flush=True)
    os._exit(143 if terminated else 130)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Keeps the garbage collector out of the imports of a process, once and before its work.

    Modules are many thousands of objects that stay. The collector would walk through all of them time and
    again while they are imported, while the process works, and when it ends.
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


@standard_streams()
def make_in_each(
    command: str,
    about: str | None,
    folder: str,
    make: Callable[[Path], Iterable[Path]],
    arguments: Sequence[str] | None = None,
    check: Callable[[Path], Iterable[Path]] | None = None,
) -> None:
    """Makes files in each folder that is named, and prints their names; exits with 1 if that fails.

    Args:
        command: the name of the command, as "tables".
        about: its documentation, whose first line `--help` shows.
        folder: the text of `--help` on the folders.
        check: called instead of `make` for `--check`; None for no such option.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m soupkitchen.{command}", description=(about or "").splitlines()[0]
    )
    parser.add_argument("folder", nargs="+", type=Path, help=folder)
    if check:
        parser.add_argument("--check", action="store_true", help="compare all files with what the run wrote")
    given = parser.parse_args(arguments)
    for place in given.folder:
        try:
            for file in check(place) if check and given.check else make(place):
                print(printable(str(file)))
        except (SoupkitchenError, OSError) as error:
            say(f"error: {error}")
            sys.exit(1)
