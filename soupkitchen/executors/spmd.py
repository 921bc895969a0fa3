"""Processes of one launch, as torchrun starts them, that score each request together.

All merge the same weights; process i of N predicts batches i, i + N, …. The first gathers predictions, and
alone decides and writes. Batches are those of one process, so scores are bitwise equal.

Messages are small objects, so gloo serves CPUs and GPUs alike.
"""

from __future__ import annotations

import atexit
import contextlib
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any

import numpy as np
import torch.distributed as dist
from accelerate.utils.memory import clear_device_cache

from soupkitchen import process
from soupkitchen.errors import MachineError, calling
from soupkitchen.executors.base import Bench, Executor, Request, Scoring
from soupkitchen.metrics import Rows
from soupkitchen.soup import Recipe

_PATIENCE = timedelta(days=30)
"""The longest work of one process while others wait; a lost process is noticed at once."""


class LostError(MachineError):
    """Another process of the launch has ended."""


class ProcessGroup:
    """The processes of a launch; `number` is this one's, from 0."""

    def __init__(self) -> None:
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=_PATIENCE)
            atexit.register(_leave)
        own = dist.get_backend() != "gloo"  # accelerate made the default group, for tensors on devices
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE) if own else None
        self.number, self.size = dist.get_rank(), dist.get_world_size()

    @classmethod
    def joined(cls) -> ProcessGroup | None:
        """The group of this launch; None for a single process."""
        return cls() if process.world_size() > 1 else None

    def tell(self, message: Any) -> None:
        """Sends a message to the others; for the first process."""
        with _noticing_loss():
            dist.broadcast_object_list([message], src=0, group=self._group)

    def listen(self) -> Any:
        messages = [None]
        with _noticing_loss():
            dist.broadcast_object_list(messages, src=0, group=self._group)
        return messages[0]

    def answer(self, reply: Any) -> None:
        with _noticing_loss():
            dist.gather_object(reply, None, dst=0, group=self._group)

    def do(self, message: Any, part: Callable[[], Any]) -> list[Any]:
        """Sends `message`, does this process's `part`, and returns all results.

        Raises:
            BaseException: the first error, once all have answered.
        """
        self.tell(message)
        replies: list[Any] = [None] * self.size
        result = tried(part)
        with _noticing_loss():
            dist.gather_object(result, replies, dst=0, group=self._group)
        for reply in replies:
            if isinstance(reply, Failure):
                raise reply.error
        return replies


class Failure:
    """An error on its way to the first process."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return _failure, (type(self.error), str(self.error), socket.gethostname())


def tried(part: Callable[[], Any]) -> Any:
    try:
        with calling():
            return part()
    except Exception as error:
        return Failure(error)


def _failure(kind: type[Exception], text: str, host: str) -> Failure:
    try:
        return Failure(kind(text))
    except Exception:  # an error that takes other arguments
        return Failure(RuntimeError(f"{kind.__name__}: {text} (on {host})"))


@contextmanager
def _noticing_loss() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo's error for a closed connection
        raise LostError(
            "another process of this launch has ended, so this one does too. Nothing is lost: the same "
            "command continues"
        ) from error


def _leave() -> None:
    with contextlib.suppress(Exception):
        dist.destroy_process_group()


@dataclass
class Spmd(Executor):
    """Scores one request after the other, in all processes together.

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
    def __init__(self, bench: Bench, group: ProcessGroup) -> None:
        super().__init__(bench.evaluator, bench.mixer, bench.announce)
        self._group = group

    def fill(self, recipe: Recipe, growing: bool = False) -> None:
        self._group.do(("fill", recipe, growing), lambda: super(SharedBench, self).fill(recipe, growing))

    def predictions(self, split: str, name: str, batches: Sequence[np.ndarray]) -> Iterator[Rows]:
        size = self._group.size
        mine = super().predictions(split, name, batches[::size])
        for start in range(0, len(batches), size):
            message = "next" if start else ("score", split, name, batches)
            yield from self._group.do(message, lambda: next(mine))[: len(batches) - start]


def follow(group: ProcessGroup, bench_of: Callable[[], Bench]) -> None:
    """Does what the first process says until it says "end"; `bench_of` is called once there is work."""
    follower = _Follower(group)
    while True:
        match group.listen():
            case "end":
                return
            case "build":
                follower.bench = tried(bench_of)
            case message:
                reply = tried(partial(follower.answer, message))
                if isinstance(reply, Failure):  # memory may have run out
                    clear_device_cache(garbage_collection=True)
                group.answer(reply)


@dataclass
class _Follower:
    group: ProcessGroup
    bench: Any = None  # or the failure to make one
    rows: Iterator[Rows] = field(default_factory=lambda: iter(()))  # its share of the predictions

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
