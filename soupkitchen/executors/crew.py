"""The processes of one launch, as they talk to each other: the first says what is done, the others answer.

What they say are small objects: recipes, numbers of examples, predictions. So there is one way for CPUs and
GPUs alike (gloo), beside whatever accelerate makes of the devices.
"""

from __future__ import annotations

import atexit
import contextlib
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from soupkitchen.errors import MachineError, calling
from soupkitchen.store import launch

_PATIENCE = timedelta(days=30)
"""How long one may work while the others wait. One that ended is noticed at once."""


class LostError(MachineError):
    """Another process of the launch has ended."""


class Crew:
    """All processes of the launch.

    Attributes:
        number: this process's, from 0.
        size: how many there are.
    """

    def __init__(self) -> None:
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=_PATIENCE)
            atexit.register(_leave)
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE) if _is_others() else None
        self.number, self.size = dist.get_rank(), dist.get_world_size()

    @classmethod
    def joined(cls) -> Crew | None:
        """The crew of this launch; None for a process by itself."""
        return cls() if launch.size() > 1 else None

    def tell(self, message: Any) -> None:
        """Tells the others what is to be done; only the first may."""
        with self._together():
            dist.broadcast_object_list([message], src=0, group=self._group)

    def listen(self) -> Any:
        """What the first tells."""
        heard = [None]
        with self._together():
            dist.broadcast_object_list(heard, src=0, group=self._group)
        return heard[0]

    def answer(self, reply: Any) -> None:
        """Answers what was told."""
        with self._together():
            dist.gather_object(reply, None, dst=0, group=self._group)

    def answers(self, own: Any) -> list[Any]:
        """What all answer to what was told, this process's `own` first."""
        replies: list[Any] = [None] * self.size
        with self._together():
            dist.gather_object(own, replies, dst=0, group=self._group)
        return replies

    def do(self, message: Any, own: Callable[[], Any]) -> list[Any]:
        """Has the others do what `message` says while this process does its `own` part; what came of it.

        Raises:
            BaseException: what the first of them raised that failed: all have answered then.
        """
        self.tell(message)
        replies = self.answers(tried(own))
        for reply in replies:
            if isinstance(reply, Failure):
                raise reply.error
        return replies

    @contextmanager
    def _together(self) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # gloo has no other words for a connection that is closed
            raise LostError(
                "another process of this launch has ended, so this one does too. Nothing is lost: the same "
                "command continues"
            ) from error


class Failure:
    """An error on its way to the first process."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def __reduce__(self) -> Any:
        return _failure, (type(self.error), str(self.error), socket.gethostname())


def _failure(kind: type[Exception], text: str, host: str) -> Failure:
    try:
        return Failure(kind(text))
    except Exception:  # an error that is made of something else
        return Failure(RuntimeError(f"{kind.__name__}: {text} (on {host})"))


def tried(part: Callable[[], Any]) -> Any:
    """What `part` returns, or its failure."""
    try:
        with calling():
            return part()
    except Exception as error:
        return Failure(error)


def _is_others() -> bool:
    """Whether somebody else has made the processes' group, for tensors on devices."""
    return dist.get_backend() != "gloo"


def _leave() -> None:
    with contextlib.suppress(Exception):
        dist.destroy_process_group()
