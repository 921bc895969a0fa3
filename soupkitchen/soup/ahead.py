"""Reads a run's next tensors while the last one is merged, so that an accelerator does not wait for files.

A thread copies them from the mapped files into memory that the device can fetch from by itself (pinned, on
CUDA) and sends them off on a stream of its own. On a CPU there is nothing to gain: what is mapped is computed
with where it lies.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from itertools import islice
from typing import NamedTuple

import torch

from soupkitchen.checkpoints.checkpoint import Checkpoint
from soupkitchen.soup.held import Reader
from soupkitchen.stopwatch import stopwatch

_NAMES = 2
"""How many tensors of a run are read ahead."""


class _Coming(NamedTuple):
    name: str
    size: int
    arrives: Future[Callable[[], torch.Tensor]]


class Ahead(Reader):
    """Reads tensors of files ahead, in the order in which a run names them, others when they are asked for.

    Args:
        device: where arithmetic is done.
        most: bytes that may be on their way at once, of all runs.
    """

    def __init__(self, device: torch.device, most: int) -> None:
        super().__init__(device)
        self._left = most
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._coming: dict[Checkpoint, deque[_Coming]] = {}
        self._listed: dict[Checkpoint, tuple[list[str], dict[str, int]]] = {}

    def exact(self, run: Checkpoint, name: str) -> torch.Tensor:
        return self._read(run, name) if run.weights.is_in_files(name) else super().exact(run, name)

    def tensor(self, run: Checkpoint, name: str) -> torch.Tensor:
        if not run.weights.is_in_files(name):
            return super().tensor(run, name)
        return self._read(run, name).to(run.header[name].torch_dtype)  # files may have a narrower one

    def forget(self) -> None:
        """Lets go what was read and never asked for."""
        for run in list(self._coming):
            self._taken(run, None)

    def _read(self, run: Checkpoint, name: str) -> torch.Tensor:
        with stopwatch.part("reading"):
            here = self._taken(run, name)
            self._ask(run, name)
            return self._fetched(run, name)() if here is None else here.arrives.result()()

    def _taken(self, run: Checkpoint, name: str | None) -> _Coming | None:
        """What is on its way under that name; what was to come before it was left out."""
        coming = self._coming.get(run, deque())
        while coming:
            one = coming.popleft()
            self._left += one.size
            if one.name == name:
                return one
            one.arrives.cancel()
        self._coming.pop(run, None)
        return None

    def _ask(self, run: Checkpoint, name: str) -> None:
        """Has the tensors after `name` read, as far as there is room."""
        coming = self._coming.setdefault(run, deque())
        last = coming[-1].name if coming else name
        names, places = self._names_of(run)
        after = islice(names, places[last] + 1, None)
        for following in islice(after, _NAMES - len(coming)):
            size = run.header[following].nbytes
            if size > self._left or not run.weights.is_in_files(following):
                return
            self._left -= size
            arrives = self._thread.submit(self._fetched, run, following)
            coming.append(_Coming(following, size, arrives))

    def _names_of(self, run: Checkpoint) -> tuple[list[str], dict[str, int]]:
        if run not in self._listed:
            names = list(run.header)
            self._listed[run] = names, {name: place for place, name in enumerate(names)}
        return self._listed[run]

    def _fetched(self, run: Checkpoint, name: str) -> Callable[[], torch.Tensor]:
        """Reads a tensor; what it returns is to be called by whoever computes with it, on his own stream."""
        mapped = run.weights.exact(name, self.device)
        if self.device.type != "cuda":
            read = mapped.clone()
            return lambda: read.to(self.device)
        with torch.cuda.stream(self._stream):
            pinned = torch.empty(mapped.shape, dtype=mapped.dtype, pin_memory=True).copy_(mapped)
            sent = pinned.to(self.device, non_blocking=True)
            event = self._stream.record_event()

        def arrived() -> torch.Tensor:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_event(event)
            sent.record_stream(stream)
            return sent

        return arrived

    @cached_property
    def _stream(self) -> torch.cuda.Stream:
        return torch.cuda.Stream(self.device)
