"""Readers of the runs' tensors: on request, ahead for an accelerator, or cached for a search."""

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


class TensorReader:
    """Reads tensors of runs on request; computed ones are on `device`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def exact(self, run: Checkpoint, name: str) -> torch.Tensor:
        """The tensor, read-only, on any device; a computed one is not rounded to its dtype."""
        with stopwatch.part("reading"):
            return _touched(run.weights.exact(name, self.device))

    def tensor(self, run: Checkpoint, name: str) -> torch.Tensor:
        """The tensor in its own dtype, read-only, on any device."""
        with stopwatch.part("reading"):
            return _touched(run.tensor(name))

    def peek(self, run: Checkpoint, name: str) -> torch.Tensor:
        """The tensor to compare with others; not for adapters."""
        return run.tensor(name)

    def tensors(self, run: Checkpoint) -> Tensors:
        for name in run.header:
            yield name, self.tensor(run, name)

    def forget(self) -> None:
        """Frees tensors that were read ahead."""

    def change(self, run: Checkpoint, name: str) -> torch.Tensor | None:
        """The task vector, float32, if it is known without the base; else None."""
        with stopwatch.part("reading"):
            return run.weights.task_vector(name, self.device)


class CachingReader(TensorReader):
    """Keeps tensors as long as there is room, on the device, else on the host.

    Mapped tensors are cached, too, without a second copy: their pages need no second lookup.
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
        """Frees the memory, for good."""
        self._exact.clear()
        self._changes.clear()

    def _cache(
        self,
        cache: dict[tuple[Checkpoint, str], torch.Tensor],
        run: Checkpoint,
        name: str,
        read: torch.Tensor,
    ) -> torch.Tensor:
        """Caches a tensor; one computed on the device is not copied to the host."""
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
    """Reads a run's tensors ahead in file order, so that an accelerator does not wait.

    A thread copies them to pinned memory (on CUDA), and sends them on its own stream. At most `budget` bytes
    are on their way.
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
        """The pending tensor of that name; earlier ones are dropped."""
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
        """Reads a tensor; the computing thread calls the result on its own stream."""
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
    """When profiling, reads the tensor's pages now, so that the time counts as reading."""
    if stopwatch.looks and mapped.device.type == "cpu" and mapped.is_contiguous() and mapped.numel():
        mapped.flatten().view(torch.uint8)[:: mmap.PAGESIZE].max()
    return mapped
