"""The processes of one launch: the first says what is done, the others do it and answer.

Messages are small objects: recipes, numbers of examples, predictions. So there is one way for CPUs and GPUs
alike (gloo), beside whatever accelerate makes of the devices.
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

from soupkitchen import process
from soupkitchen.errors import MachineError, calling

_PATIENCE = timedelta(days=30)
"""The time that one process may work while the others wait; its end is noticed at once."""


class LostError(MachineError):
    """Another process of the launch has ended."""


class ProcessGroup:
    """All processes of the launch.

    Attributes:
        number: this process's, from 0.
        size: how many there are.
    """

    def __init__(self) -> None:
        if not dist.is_initialized():
            dist.init_process_group("gloo", timeout=_PATIENCE)
            atexit.register(_leave)
        own = dist.get_backend() != "gloo"  # accelerate made the default group, for tensors on devices
        self._group = dist.new_group(backend="gloo", timeout=_PATIENCE) if own else None
        self.number, self.size = dist.get_rank(), dist.get_world_size()

    @classmethod
    def joined(cls) -> ProcessGroup | None:
        """The group of this launch; None for a process by itself."""
        return cls() if process.world_size() > 1 else None

    def tell(self, message: Any) -> None:
        """Tells the others what is to be done; only the first process may."""
        with _noticing_loss():
            dist.broadcast_object_list([message], src=0, group=self._group)

    def listen(self) -> Any:
        """The first process's message."""
        messages = [None]
        with _noticing_loss():
            dist.broadcast_object_list(messages, src=0, group=self._group)
        return messages[0]

    def answer(self, reply: Any) -> None:
        """Answers the first process's message."""
        with _noticing_loss():
            dist.gather_object(reply, None, dst=0, group=self._group)

    def do(self, message: Any, part: Callable[[], Any]) -> list[Any]:
        """Has the others do what `message` says while this process does its `part`; the results of all.

        Raises:
            BaseException: the error of the first that failed: all have answered then.
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
    """The result of `part`, or its failure."""
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
    except RuntimeError as error:  # gloo has no other words for a connection that is closed
        raise LostError(
            "another process of this launch has ended, so this one does too. Nothing is lost: the same "
            "command continues"
        ) from error


def _leave() -> None:
    with contextlib.suppress(Exception):
        dist.destroy_process_group()
