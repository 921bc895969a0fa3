"""Readers of the runs' tensors: each time anew, read ahead for an accelerator, or cached for a search.

A search that asks for hundreds of mixtures of the same runs needs each tensor as often. Cached are tensors
that were computed (a LoRA adapter's change), reordered or unpickled, and those mapped from a file, which are
no second copy: their pages need not be looked up again.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property
from typing import NamedTuple

import torch

from soupkitchen.checkpoints.checkpoint import Checkpoint
from soupkitchen.checkpoints.weights import Tensors
from soupkitchen.process import stopwatch
from soupkitchen.soup.memory import StateMemory

_AHEAD = 2
"""The number of a run's tensors that are read ahead."""


class TensorReader:
    """Reads the tensors of runs, each time anew.

    Args:
        device: where arithmetic is done, and where computed tensors are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def exact(self, run: Checkpoint, name: str) -> torch.Tensor:
        """The tensor, wherever it lies, not rounded to its dtype if it is computed. Not to be changed."""
        with stopwatch.part("reading"):
            return _touched(run.weights.exact(name, self.device))

    def tensor(self, run: Checkpoint, name: str) -> torch.Tensor:
        """The tensor in its own dtype, wherever it lies. Not to be changed."""
        with stopwatch.part("reading"):
            return _touched(run.tensor(name))

    def peek(self, run: Checkpoint, name: str) -> torch.Tensor:
        """The tensor of a run that is no adapter, where it lies, to compare it with others."""
        return run.tensor(name)

    def tensors(self, run: Checkpoint) -> Tensors:
        """Yields (name, tensor) for every tensor of `run`."""
        for name in run.header:
            yield name, self.tensor(run, name)

    def forget(self) -> None:
        """Frees tensors that were read and not asked for."""

    def change(self, run: Checkpoint, name: str) -> torch.Tensor | None:
        """The change by fine-tuning, float32, if that is known by itself; else None."""
        with stopwatch.part("reading"):
            return run.weights.task_vector(name, self.device)


class CachingReader(TensorReader):
    """Reads each tensor once and keeps it: on the device, else on the host, as long as there is room.

    A tensor that does not fit is read each time; none gives way to another.
    """

    def __init__(self, memory: StateMemory) -> None:
        super().__init__(memory.device)
        self._memory = memory
        self._exact: dict[tuple[Checkpoint, str], torch.Tensor] = {}
        self._changes: dict[tuple[Checkpoint, str], torch.Tensor] = {}

    def exact(self, run: Checkpoint, name: str) -> torch.Tensor:
        if (cached := self._exact.get((run, name))) is not None:
            return cached
        return self._cache(self._exact, run, name, super().exact(run, name))

    def peek(self, run: Checkpoint, name: str) -> torch.Tensor:
        return self.exact(run, name)

    def change(self, run: Checkpoint, name: str) -> torch.Tensor | None:
        if (cached := self._changes.get((run, name))) is not None:
            return cached
        read = super().change(run, name)
        return None if read is None else self._cache(self._changes, run, name, read)

    def forget(self) -> None:
        """Frees the memory; the reader is not to be used after that."""
        self._exact.clear()
        self._changes.clear()

    def _cache(
        self,
        cache: dict[tuple[Checkpoint, str], torch.Tensor],
        run: Checkpoint,
        name: str,
        read: torch.Tensor,
    ) -> torch.Tensor:
        """`read`, where it lies from now on; a tensor computed on the device is not brought to the host."""
        place = self._memory.room(read.nbytes, on_host=read.device.type == "cpu")
        if place is None:
            return read
        cache[run, name] = read.to(place)
        return cache[run, name]


class _Pending(NamedTuple):
    name: str
    size: int
    arrives: Future[Callable[[], torch.Tensor]]


class ReadAhead(TensorReader):
    """Reads tensors of files ahead, in the order in which a run names them, others when they are asked for.

    A thread copies them from the mapped files into memory that the device can fetch from by itself (pinned,
    on CUDA) and sends them off on a stream of its own, so that an accelerator does not wait for files. On a
    CPU there is nothing to gain.

    Args:
        device: where arithmetic is done.
        budget: bytes that may be on their way at once, of all runs.
    """

    def __init__(self, device: torch.device, budget: int) -> None:
        super().__init__(device)
        self._left = budget
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="read-ahead")
        self._pending: dict[Checkpoint, deque[_Pending]] = {}
        self._following: dict[Checkpoint, dict[str, str | None]] = {}

    def exact(self, run: Checkpoint, name: str) -> torch.Tensor:
        return self._read(run, name) if run.weights.is_in_files(name) else super().exact(run, name)

    def tensor(self, run: Checkpoint, name: str) -> torch.Tensor:
        if not run.weights.is_in_files(name):
            return super().tensor(run, name)
        return self._read(run, name).to(run.header[name].torch_dtype)  # files may have a narrower one

    def forget(self) -> None:
        for run in list(self._pending):
            self._take(run, None)

    def _read(self, run: Checkpoint, name: str) -> torch.Tensor:
        with stopwatch.part("reading"):
            pending = self._take(run, name)
            self._read_on(run, name)
            return self._fetch(run, name)() if pending is None else pending.arrives.result()()

    def _take(self, run: Checkpoint, name: str | None) -> _Pending | None:
        """The pending tensor of that name; those that were to come before it are dropped."""
        queue = self._pending.get(run, deque())
        while queue:
            pending = queue.popleft()
            self._left += pending.size
            if pending.name == name:
                return pending
            pending.arrives.cancel()
        self._pending.pop(run, None)
        return None

    def _read_on(self, run: Checkpoint, name: str) -> None:
        """Has the tensors after `name` read, as far as there is room."""
        queue = self._pending.setdefault(run, deque())
        if run not in self._following:
            names = list(run.header)
            self._following[run] = dict(zip(names, [*names[1:], None], strict=True))
        following = self._following[run][queue[-1].name if queue else name]
        while following is not None and len(queue) < _AHEAD:
            size = run.header[following].nbytes
            if size > self._left or not run.weights.is_in_files(following):
                return
            self._left -= size
            queue.append(_Pending(following, size, self._thread.submit(self._fetch, run, following)))
            following = self._following[run][following]

    def _fetch(self, run: Checkpoint, name: str) -> Callable[[], torch.Tensor]:
        """Reads a tensor; the thread that computes with it calls the result, on its own stream."""
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


def _touched(mapped: torch.Tensor) -> torch.Tensor:
    """The tensor; if the run is profiled, its pages are read now, and not while computing with it."""
    if stopwatch.looks and mapped.device.type == "cpu" and mapped.is_contiguous() and mapped.numel():
        mapped.flatten().view(torch.uint8)[:: mmap.PAGESIZE].max()
    return mapped
