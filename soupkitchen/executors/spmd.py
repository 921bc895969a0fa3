"""Several processes of one launch, as torchrun starts them, that score each request together.

All merge the same weights; each scores every so many-th batch. The first process asks, gathers what the
others predict, and does all else alone: decisions, journal, cache and tables are those of one process.
Batches are whole, and the same as in one process, so scores are too, to the bit.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from accelerate.utils.memory import clear_device_cache

from soupkitchen.errors import MachineError
from soupkitchen.executors.base import Executor, Request, Scoring
from soupkitchen.executors.bench import Bench
from soupkitchen.executors.process_group import Failure, ProcessGroup, tried
from soupkitchen.metrics import Rows
from soupkitchen.soup import Recipe


@dataclass
class Spmd(Executor):
    """Scores in all processes of the launch: one request after the other, together.

    Started by ``torchrun --nproc_per_node N -m soupkitchen …`` or, with GPUs, ``accelerate launch``.
    """

    def start(self, bench: Bench) -> None:
        group = ProcessGroup.joined()
        if group is None:
            raise MachineError(
                "executor=spmd is for several processes, and this is one: start it by torchrun "
                "--nproc_per_node N -m soupkitchen …"
            )
        _, *others = group.do("start", lambda: None)
        bench.check_alike(
            {
                f"process {number} of this launch, on {host},": digests
                for number, (host, digests) in enumerate(others, start=1)
            }
        )
        super().start(SharedBench(bench, group))

    def score(self, requests: Sequence[Request]) -> Iterator[Scoring]:
        return map(self.bench.score, requests)


class SharedBench(Bench):
    """The first process's bench, which has the others fill their models and predict their share."""

    def __init__(self, bench: Bench, group: ProcessGroup) -> None:
        super().__init__(bench.evaluator, bench.mixer, bench.announce)
        self._group = group

    def fill(self, recipe: Recipe, growing: bool = False) -> None:
        self._group.do(("fill", recipe, growing), lambda: super(SharedBench, self).fill(recipe, growing))

    def predictions(self, split: str, name: str, batches: Sequence[np.ndarray]) -> Iterator[Rows]:
        """The predictions of each batch, in order: as many batches at once as there are processes."""
        size = self._group.size
        mine = super().predictions(split, name, batches[::size])
        for start in range(0, len(batches), size):
            message = "next" if start else ("score", split, name, batches)
            yield from self._group.do(message, lambda: next(mine))[: len(batches) - start]


def follow(group: ProcessGroup, bench_of: Callable[[], Bench]) -> None:
    """Does what the first process says until it says "end".

    Args:
        bench_of: makes the bench; called once there is work.
    """
    follower = _Follower(group)
    while True:
        match group.listen():
            case "end":
                return
            case "build":
                follower.bench = tried(bench_of)
            case message:
                reply = tried(partial(follower.answer, message))
                if isinstance(reply, Failure):  # it may have been for want of memory
                    clear_device_cache(garbage_collection=True)
                group.answer(reply)


@dataclass
class _Follower:
    """Any process of a launch but the first."""

    group: ProcessGroup
    bench: Any = None  # or why there is none
    rows: Iterator[Rows] = field(default_factory=lambda: iter(()))  # its share of what is asked for

    def answer(self, message: Any) -> Any:
        if isinstance(self.bench, Failure):
            raise self.bench.error
        match message:
            case "start":
                return socket.gethostname(), self.bench.sees()
            case ("fill", recipe, growing):
                return self.bench.fill(recipe, growing)
            case ("score", split, name, batches):
                mine = batches[self.group.number :: self.group.size]
                self.rows = self.bench.evaluator.predictions(split, name, mine)
                return next(self.rows, None)
            case "next":
                return next(self.rows, None)
