"""Forward passes: batches on their way to the device, a check of all outputs, predictions on their way back.

A task takes the likeliest label, token or choice, and the likeliest of nothing but NaN is number 0: a broken
model would pass for one that always says the first label. So the model's own outputs are checked before any
task sees them. A search scores the same batches time and again, so they are kept where there is room.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import datasets
import numpy as np
import torch
from accelerate.utils import send_to_device
from torch.utils.data import DataLoader

from soupkitchen.metrics import Rows
from soupkitchen.process import stopwatch
from soupkitchen.soup.memory import StateMemory
from soupkitchen.tasks.base import Batch, Predictions


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
        self._stored: dict[bytes, Batch] = {}
        self._reserved: list[tuple[int, torch.device]] = []

    def forget(self) -> None:
        """Gives the memory of the stored batches back."""
        self._stored.clear()
        for size, place in self._reserved:
            self._memory.give_back(size, place)
        self._reserved.clear()

    def of(self, numbers: Sequence[np.ndarray]) -> Iterator[Batch]:
        """Yields a batch on the device for each array of numbers of examples."""
        keys = [one.tobytes() for one in numbers]
        if self._stored and not any(key in self._stored for key in keys):
            self.forget()  # examples are put together in other ways from now on
        missing = [one.tolist() for one, key in zip(numbers, keys, strict=True) if key not in self._stored]
        made = iter(self._loader(missing)) if missing else iter(())
        for key in keys:
            with stopwatch.part("batches"):
                batch = self._stored.get(key)
                if batch is None:
                    batch = self._store(key, next(made))
                batch = send_to_device(batch, self._device, non_blocking=True)
            yield batch

    def _loader(self, numbers: list[list[int]]) -> DataLoader:
        return DataLoader(
            self._data,
            batch_sampler=numbers,
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            collate_fn=self._collate,
        )

    def _store(self, key: bytes, batch: Batch) -> Batch:
        if not all(isinstance(x, torch.Tensor) for x in batch.values()):
            return batch  # a task's own objects are not copied
        size = sum(x.nbytes for x in batch.values())
        if (place := self._memory.room(size)) is None:
            return batch
        self._reserved.append((size, place))
        self._stored[key] = batch = send_to_device(dict(batch), place, non_blocking=True)
        return batch


class FiniteCheck:
    """Checks all that a model puts out, and gives floating-point inputs in the dtype of its weights."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._dtype = _dtype_of(model)
        self._not_finite: list[torch.Tensor] = []
        self._recorded: list[torch.Tensor] | None = None
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.register_forward_hook(self._after, with_kwargs=True)

    def forget(self) -> None:
        """Forgets the forward passes so far."""
        self._not_finite = []

    @property
    def finite(self) -> torch.Tensor | None:
        """Tells whether no output since `forget` is NaN or has an infinity on top.

        0-dimensional, on the device; None without outputs. Single outputs may be minus infinity, as those of
        tokens that a model never says; padding is not looked at.
        """
        flags, self._not_finite = self._not_finite, []
        return ~torch.stack([flag.to(flags[0].device) for flag in flags]).any() if flags else None

    @contextmanager
    def recording(self) -> Iterator[list[torch.Tensor]]:
        """A list to which each forward pass adds its outputs."""
        recorded = self._recorded = []
        try:
            yield recorded
        finally:
            self._recorded = None

    def _before(self, model: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        return tuple(map(self._cast, args)), {name: self._cast(value) for name, value in kwargs.items()}

    def _cast(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or self._dtype is None:
            return value
        if torch.is_autocast_enabled(value.device.type):
            return value
        return value.to(self._dtype)

    def _after(self, model: torch.nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        mask = kwargs.get("attention_mask")
        for values in _outputs(output):
            if self._recorded is not None:
                self._recorded.append(values.detach().cpu().clone())
            if not values.numel():
                continue
            top = values.amax(-1) if values.dim() else values  # of a NaN and a number the NaN
            strange = ~top.isfinite()
            if isinstance(mask, torch.Tensor) and mask.shape == strange.shape:
                strange &= mask != 0
            self._not_finite.append(strange.any())


class PendingRows:
    """A batch's predictions on their way to the host, which goes on with the next batch meanwhile.

    Args:
        finite: whether all outputs of the model are finite; 0-dimensional.
    """

    def __init__(self, predictions: Predictions, finite: torch.Tensor | None) -> None:
        self._predictions = _sent(predictions) if isinstance(predictions, torch.Tensor) else predictions
        self._finite = None if finite is None else _sent(finite)
        on_cuda = any(isinstance(x, torch.Tensor) and x.device.type == "cuda" for x in (predictions, finite))
        self._event = torch.cuda.current_stream().record_event() if on_cuda else None

    def arrived(self) -> Rows:
        """Waits for the predictions; NaN replaces each that is not finite, and all if an output is not.

        One example without an answer makes a mean NaN, so those of its batch need not be told apart.
        """
        with stopwatch.part("forward"):
            if self._event is not None:
                self._event.synchronize()
            finite, predictions = self._finite is None or bool(self._finite), self._predictions
        if isinstance(predictions, torch.Tensor):
            rows: np.ndarray = predictions.cpu().numpy()
            if not finite:
                return np.full(rows.shape, np.nan, np.float32)
            return np.where(np.isfinite(rows), rows, np.nan) if rows.dtype.kind == "f" else rows
        if not finite:
            return [math.nan] * len(predictions)
        plain = [p.item() if getattr(p, "ndim", None) == 0 else p for p in predictions]
        return [math.nan if isinstance(p, float) and not math.isfinite(p) else p for p in plain]


def _outputs(output: Any) -> Iterator[torch.Tensor]:
    """The logits in a model's output or, without, all its tensors of floating-point numbers."""
    if isinstance(output, torch.Tensor):
        output = (output,)
    elif isinstance(output, Mapping):
        logits = output.get("logits")
        output = tuple(output.values()) if logits is None else (logits,)
    elif not isinstance(output, tuple):
        return
    yield from (x for x in output if isinstance(x, torch.Tensor) and x.is_floating_point())


def _dtype_of(model: torch.nn.Module) -> torch.dtype | None:
    """The dtype of most weights; None for a model without floating-point ones."""
    elements: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        if parameter.is_floating_point():
            elements[parameter.dtype] += parameter.numel()
    return elements.most_common(1)[0][0] if elements else None


def _sent(x: torch.Tensor) -> torch.Tensor:
    """A copy on its way to the host, from devices that copy beside their work; else `x` itself."""
    if x.device.type != "cuda":
        return x
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
