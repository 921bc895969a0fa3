"""This process: its number among those of a launch, and its time by part of the work.

A launcher (torchrun, accelerate launch) starts several processes. Each second counts for one part alone:
while one part calls another, as merging calls reading, the caller's time stands still. Time of no part is
bookkeeping. Only the thread that began is measured.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from soupkitchen.errors import ConfigError

PARTS = {
    "starting": "imports, options, data, the model, until the first run is scored",
    "reading": "weights from files, or from what is held of them",
    "merging": "arithmetic on weights, and filling the model",
    "batches": "putting examples together",
    "forward": "the model",
    "metric": "what predictions score, and whether that is enough",
    "saving": "the soup, and the proof that its files score what was scored",
    "bookkeeping": "all else: decisions, tables, journal, cache, report",
}


def rank() -> int:
    """This process's number among those of its launch: the first is 0, and writes."""
    return int(os.environ.get("RANK", "0")) if world_size() > 1 else 0


def world_size() -> int:
    """The number of processes that were launched together; 1 if this one was started by itself."""
    if "RANK" not in os.environ or "MASTER_ADDR" not in os.environ:
        return 1
    return int(os.environ.get("WORLD_SIZE", "1"))


def check_launch() -> None:
    """Raises:
    ConfigError: if several processes were asked for, and this is the only one.
    """
    if "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            "accelerate launch was asked for several processes and started one, as it does where there are "
            "no GPUs: use torchrun --nproc_per_node N -m soupkitchen …"
        )


def command() -> str:
    """The command that starts such processes again, up to the arguments."""
    if world_size() == 1:
        return "python -m soupkitchen"
    nodes = world_size() // max(int(os.environ.get("LOCAL_WORLD_SIZE", "1")), 1)
    several = f"--nnodes {nodes} " if nodes > 1 else ""
    return f"torchrun {several}--nproc_per_node {os.environ.get('LOCAL_WORLD_SIZE', '1')} -m soupkitchen"


class Stopwatch:
    """Seconds by part of the work.

    Args:
        clock: the time in seconds.

    Attributes:
        read: bytes of weights read so far, or mapped for a computation.
        looks: the times will be shown; only then are devices waited for.
        settle: waits for devices; called between parts if `looks`.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self.begin()
        self._begun = False

    def begin(self) -> None:
        self._spent = dict.fromkeys(PARTS, 0.0)
        self.read = 0
        self._parts = ["bookkeeping", "starting"]
        self._owner = threading.get_ident()
        self._since = self._clock()
        self.looks, self.settle = False, _nothing
        self._begun = True

    @contextmanager
    def run(self) -> Iterator[None]:
        """Measures a run. It begins anew, unless the command began before its first run."""
        if not self._begun:
            self.begin()
        try:
            yield
        finally:
            self._begun = False

    def started(self) -> None:
        self._count()
        self._parts = self._parts[:1]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts the block's time for the part `name`, without nested parts."""
        if threading.get_ident() != self._owner or self._parts[-1] in ("starting", name):
            yield
            return
        self._count()
        self._parts.append(name)
        try:
            yield
        finally:
            self._count()
            self._parts.pop()

    def spent(self) -> dict[str, float]:
        """Seconds so far by part, in the order of `PARTS`."""
        self._count()
        return dict(self._spent)

    def _count(self) -> None:
        if self.looks:
            self.settle()
        now = self._clock()
        self._spent[self._parts[-1]] += now - self._since
        self._since = now


def _nothing() -> None:
    """Waits for nothing."""


stopwatch = Stopwatch()
"""The stopwatch of this process."""
