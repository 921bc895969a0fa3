"""Batches made once: what a collator has made of examples is kept, on the device where there is room.

A search scores the same batches time and again, in another order at most. What does not fit is made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader

from soupkitchen.soup.memory import StateMemory
from soupkitchen.stopwatch import stopwatch
from soupkitchen.tasks.base import Batch


class Batches:
    """The batches of one task's split.

    Args:
        data: the examples as the model takes them.
        collate: makes a batch of some of them.
        device: where batches are wanted.
        memory: where they may be kept, and how many.
        workers: processes that prepare batches beside this one.
    """

    def __init__(
        self,
        data: datasets.Dataset,
        collate: Callable[[list[dict[str, Any]]], Batch],
        device: torch.device,
        memory: StateMemory,
        workers: int = 0,
    ) -> None:
        self._data, self._collate, self._device, self._workers = data, collate, device, workers
        self._memory = memory
        self._kept: dict[bytes, Batch] = {}
        self._taken: list[tuple[int, torch.device]] = []

    def forget(self) -> None:
        """Gives the memory of what is kept back."""
        self._kept.clear()
        for size, place in self._taken:
            self._memory.give_back(size, place)
        self._taken.clear()

    def of(self, chosen: Sequence[np.ndarray]) -> Iterator[Batch]:
        """Yields a batch on the device for each of `chosen`, which are numbers of examples."""
        keys = [numbers.tobytes() for numbers in chosen]
        if self._kept and not any(key in self._kept for key in keys):
            self.forget()  # examples are put together in other ways from now on
        missing = [
            numbers.tolist() for numbers, key in zip(chosen, keys, strict=True) if key not in self._kept
        ]
        made = iter(self._loader(missing)) if missing else iter(())
        for key in keys:
            with stopwatch.part("batches"):
                batch = self._kept.get(key)
                if batch is None:
                    batch = self._keep(key, next(made))
                batch = send_to_device(batch, self._device, non_blocking=True)
            yield batch

    def _loader(self, chosen: list[list[int]]) -> DataLoader:
        return DataLoader(
            self._data,
            batch_sampler=chosen,
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            collate_fn=self._collate,
        )

    def _keep(self, key: bytes, batch: Batch) -> Batch:
        if not all(isinstance(x, torch.Tensor) for x in batch.values()):
            return batch  # whatever else a task makes is its own
        size = sum(x.nbytes for x in batch.values())
        if (place := self._memory.room(size)) is None:
            return batch
        self._taken.append((size, place))
        self._kept[key] = batch = send_to_device(dict(batch), place, non_blocking=True)
        return batch
