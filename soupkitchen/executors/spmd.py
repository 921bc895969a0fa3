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
from soupkitchen.executors.crew import Crew, Failure, tried
from soupkitchen.metrics import Rows
from soupkitchen.soup import Recipe


@dataclass
class Spmd(Executor):
    """Scores in all processes of the launch: one request after the other, together.

    Started by ``torchrun --nproc_per_node N -m soupkitchen …`` or, with GPUs, ``accelerate launch``.
    """

    def start(self, bench: Bench) -> None:
        super().start(bench)
        crew = Crew.joined()
        if crew is None:
            raise MachineError(
                "executor=spmd is for several processes, and this is one: start it by torchrun "
                "--nproc_per_node N -m soupkitchen …"
            )
        self._crew = crew
        _, *others = crew.do("start", lambda: None)
        bench.check_alike(
            {
                f"process {number} of this launch, on {host},": theirs
                for number, (host, theirs) in enumerate(others, start=1)
            }
        )

    def score(self, requests: Sequence[Request]) -> Iterator[Scoring]:
        return (self.bench.score(request, self._fill, self._predictions) for request in requests)

    def _fill(self, recipe: Recipe, growing: bool, again: bool) -> None:
        message = ("fill", recipe, growing, again)
        self._crew.do(message, lambda: self.bench.fill(recipe, growing, again))

    def _predictions(self, split: str, name: str, batches: Sequence[np.ndarray]) -> Iterator[Rows]:
        """The predictions of each batch, in order: so many batches at once as there are processes."""
        size = self._crew.size
        mine = self.bench.evaluator.predictions(split, name, batches[::size])
        for start in range(0, len(batches), size):
            message = "next" if start else ("score", split, name, batches)
            yield from self._crew.do(message, lambda: next(mine))[: len(batches) - start]


def follow(crew: Crew, bench_of: Callable[[], Bench]) -> None:
    """Does what the first process says until that is all.

    Args:
        bench_of: makes the bench, once it is clear that there is work.
    """
    follower = _Follower(crew)
    while True:
        match crew.listen():
            case "end":
                return
            case "build":
                follower.bench = tried(bench_of)
            case message:
                reply = tried(partial(follower.answer, message))
                if isinstance(reply, Failure):  # it may have been for want of memory
                    clear_device_cache(garbage_collection=True)
                crew.answer(reply)


@dataclass
class _Follower:
    """Any process of a launch but the first."""

    crew: Crew
    bench: Any = None  # or why there is none
    rows: Iterator[Rows] = field(default_factory=lambda: iter(()))  # its share of what is asked for

    def answer(self, message: Any) -> Any:
        if isinstance(self.bench, Failure):
            raise self.bench.error
        match message:
            case "start":
                return socket.gethostname(), self.bench.sees()
            case ("fill", recipe, growing, again):
                return self.bench.fill(recipe, growing, again)
            case ("score", split, name, batches):
                own = batches[self.crew.number :: self.crew.size]
                self.rows = self.bench.evaluator.predictions(split, name, own)
                return next(self.rows, None)
            case "next":
                return next(self.rows, None)
