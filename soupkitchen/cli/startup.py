"""Starting up: importing large libraries in less time, and ending at once when that is asked for."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

from soupkitchen.store import launch

_importing = False


class Terminated(KeyboardInterrupt):
    """SIGTERM, as SLURM and container runtimes send it."""


def end_when_asked() -> None:
    """Has SIGINT raise `KeyboardInterrupt`, SIGTERM `Terminated`; both end the process while `importing`."""
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
        if launch.number():
            and_then = ""
        print(f"{'terminated' if terminated else 'interrupted'}{and_then}", file=sys.stderr, flush=True)
    os._exit(143 if terminated else 130)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """For the imports of a process, once and before its work: they are not looked through for garbage.

    Modules are many thousands of objects that stay. Python's garbage collector would walk
    through all of them time and again while they are imported, then while the process works,
    and when it ends.
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
