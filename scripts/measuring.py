"""Measures a command with all processes that it starts: seconds, memory. Linux only."""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import NamedTuple

import psutil


class Taken(NamedTuple):
    """The costs of a command.

    Attributes:
        wall, cpu: seconds.
        memory: GiB at most, sampled, of memory that is no mapped file.
        peak: GiB at most of one process, mapped files included.
    """

    wall: float
    cpu: float
    memory: float
    peak: float


def measure(
    command: Sequence[str], threads: int | None = 1, environment: Mapping[str, str] | None = None
) -> Taken:
    """Runs `command` to its end.

    Args:
        threads: of its arithmetic; None for its own choice.
        environment: what is set for it.

    Raises:
        SystemExit: where it fails, with what it said last.
    """
    settings = {"HF_HUB_OFFLINE": "1", **(environment or {})}
    if threads is not None:
        settings["OMP_NUM_THREADS"] = str(threads)
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=said, stderr=said, env={**os.environ, **settings})
        with _sampled(process.pid) as taken:
            _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        if status:
            said.seek(0)
            raise SystemExit(f"{' '.join(command)} failed:\n{said.read().decode()[-2000:]}")
    return Taken(wall, usage.ru_utime + usage.ru_stime, max(taken) / 2**30, usage.ru_maxrss / 2**20)


@contextlib.contextmanager
def _sampled(pid: int, every: float = 0.25) -> Iterator[list[int]]:
    """Bytes that a process and those that it starts have of their own, time and again."""
    taken, over = [0], threading.Event()

    def look() -> None:
        while not over.wait(every):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(pid)
                taken.append(sum(map(_of_its_own, (process, *process.children(recursive=True)))))

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield taken
    finally:
        over.set()
        thread.join()


def _of_its_own(process: psutil.Process) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Anonymous:"):
                return int(line.split()[1]) * 1024
    return 0


def spread(values: Sequence[float]) -> str:
    """The median and, of several, the least and the most."""
    middle = f"{median(values):.1f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.1f} to {max(values):.1f})"
