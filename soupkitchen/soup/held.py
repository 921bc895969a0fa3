"""What a merge reads of its ingredients, and what of it is held where the same are merged again.

A search that asks for hundreds of mixtures of the same runs needs each tensor as often. Held is what was
computed (a LoRA adapter's change), reordered or unpickled, and what is mapped from a file, which is no
second copy: its pages need not be looked up again.
"""

from __future__ import annotations

import mmap

import torch

from soupkitchen.checkpoints.checkpoint import Checkpoint
from soupkitchen.checkpoints.weights import Tensors
from soupkitchen.soup.memory import StateMemory
from soupkitchen.stopwatch import stopwatch


class Reader:
    """Reads the tensors of runs, each time anew.

    Args:
        device: where arithmetic is done, and where what has to be computed is.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def exact(self, run: Checkpoint, name: str) -> torch.Tensor:
        """The tensor, wherever it lies, not rounded to its dtype where it is computed. Not to be changed."""
        with stopwatch.part("reading"):
            return _fetched(run.weights.exact(name, self.device))

    def tensor(self, run: Checkpoint, name: str) -> torch.Tensor:
        """The tensor in its own dtype, wherever it lies. Not to be changed."""
        with stopwatch.part("reading"):
            return _fetched(run.tensor(name))

    def peek(self, run: Checkpoint, name: str) -> torch.Tensor:
        """The tensor of a run that is no adapter, where it lies, to compare it with others."""
        return run.tensor(name)

    def tensors(self, run: Checkpoint) -> Tensors:
        """Yields (name, tensor) for every tensor of `run`."""
        for name in run.header:
            yield name, self.tensor(run, name)

    def forget(self) -> None:
        """Lets go what it has read and nobody has asked for."""

    def change(self, run: Checkpoint, name: str) -> torch.Tensor | None:
        """What fine-tuning changed, float32, where that is known by itself; else None."""
        with stopwatch.part("reading"):
            return run.weights.task_vector(name, self.device)


class Held(Reader):
    """Reads each tensor once and holds it: on the device, else on the host, as long as there is room.

    What does not fit is read each time. First come, first held: nothing gives way to anything.
    """

    def __init__(self, memory: StateMemory) -> None:
        super().__init__(memory.device)
        self._memory = memory
        self._exact: dict[tuple[Checkpoint, str], torch.Tensor] = {}
        self._changes: dict[tuple[Checkpoint, str], torch.Tensor] = {}

    def exact(self, run: Checkpoint, name: str) -> torch.Tensor:
        if (held := self._exact.get((run, name))) is not None:
            return held
        return self._hold(self._exact, run, name, super().exact(run, name))

    def peek(self, run: Checkpoint, name: str) -> torch.Tensor:
        return self.exact(run, name)

    def change(self, run: Checkpoint, name: str) -> torch.Tensor | None:
        if (held := self._changes.get((run, name))) is not None:
            return held
        read = super().change(run, name)
        return None if read is None else self._hold(self._changes, run, name, read)

    def forget(self) -> None:
        """Gives the memory back; it is not to be used after that."""
        self._exact.clear()
        self._changes.clear()

    def _hold(
        self, held: dict[tuple[Checkpoint, str], torch.Tensor], run: Checkpoint, name: str, read: torch.Tensor
    ) -> torch.Tensor:
        """`read`, where it lies from now on: what was computed on the device is not brought to the host."""
        place = self._memory.room(read.nbytes, on_host=read.device.type == "cpu")
        if place is None:
            return read
        held[run, name] = read.to(place)
        return held[run, name]


def _fetched(mapped: torch.Tensor) -> torch.Tensor:
    """The tensor; where somebody looks at the time, its pages are read now, not by who computes with it."""
    if stopwatch.looks and mapped.device.type == "cpu" and mapped.is_contiguous() and mapped.numel():
        mapped.flatten().view(torch.uint8)[:: mmap.PAGESIZE].max()
    return mapped
