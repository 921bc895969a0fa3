"""The live model: the one model in memory, into which each candidate's weights are written in place.

Callers use the tensor names of files; `checkpoints/names.py` maps them to parameters. If a parameter is made
of several file tensors, transformers fills the model, more slowly.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
import xxhash
from accelerate.utils.memory import clear_device_cache
from torch.nn.modules.batchnorm import _BatchNorm

from soupkitchen.checkpoints.checkpoint import Checkpoint
from soupkitchen.checkpoints.fingerprints import tensor_blocks
from soupkitchen.checkpoints.names import NameMap, Slots, kept_in_float32
from soupkitchen.errors import CheckpointError
from soupkitchen.models import Loading, Maker, Transformers
from soupkitchen.process import stopwatch

log = logging.getLogger(__name__)


class LiveModel:
    """A model that is filled from (file name, tensor) pairs.

    Attributes:
        model: in evaluation mode, on its device.
        in_place: filling writes straight into the parameters.
    """

    def __init__(
        self, run: Checkpoint, maker: Maker | type, device: torch.device, loading: Loading | None = None
    ) -> None:
        """Makes the model of `run`; an adapter starts with its base's weights.

        Raises:
            CheckpointError: if tensors are missing or have no place.
            ConfigError: if the model does not fit the devices that it is spread over.
        """
        self.maker: Maker = Transformers(maker) if isinstance(maker, type) else maker
        self._device, self._loading = device, loading or Loading()
        self._names: NameMap | None = None
        self._slots: Slots | None = None
        self._made_anew = False
        self._padding: int | None = None
        self._in_float32 = cache(lambda dtype: kept_in_float32(self.model, dtype))
        self.model: Any = None
        self.load(run)

    def load(self, run: Checkpoint) -> None:
        """Replaces the model by that of `run`; releases the old one first."""
        self.release()
        self.model = self.maker.load(run, self._loading).eval()
        stopwatch.read += sum(info.nbytes for info in run.header.values())
        if self._padding is not None and self.pad_token_id is None:
            self.model.config.pad_token_id = self._padding  # chosen by a task
        if self._loading.device_map is None:
            self.model.to(self._device)
        if self._made_anew:
            return
        if self._names is None or not self._names.is_for(run, self.model):
            level = logging.INFO if self._names is None else logging.DEBUG
            self._names = self.maker.names(run, self.model)
            _log(self._names, level)
        self._slots = self._names.slots(self.model)

    @property
    def in_place(self) -> bool:
        return self._slots is not None

    @property
    def pad_token_id(self) -> int | None:
        return getattr(getattr(self.model, "config", None), "pad_token_id", None)

    def release(self) -> None:
        """Frees the model; `load` has to come next."""
        if self.model is None:
            return
        self._padding = self.pad_token_id
        self.model = self._slots = None
        clear_device_cache(garbage_collection=True)

    def make_anew(self) -> None:
        """Makes `fill` build a new model each time, because forward passes leave state in it."""
        self._slots, self._made_anew = None, True

    @torch.no_grad()
    def fill(self, tensors: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Fills the model with `tensors`, named as in files.

        State that forward passes computed from the old weights (LeViT's attention biases) is dropped.

        Raises:
            CheckpointError: if tensors are missing or have no place.
        """
        self.model.train().eval()
        if self._slots is None:
            values, made = dict(tensors), self.maker.like(self.model)
            self.release()
            self.model = made(values).eval().to(self._device)
            return
        unfilled = set(self._slots)
        for name, tensor in tensors:
            if name not in self._slots:
                raise CheckpointError(f"the model has no place for the tensor {name!r}")
            if (slot := self._slots[name]) is not None:
                slot.copy_(tensor)
            unfilled.discard(name)
        if unfilled:
            raise CheckpointError(
                f"no tensor given for {', '.join(sorted(unfilled)[:3])}: the model is half filled"
            )

    @contextmanager
    def batchnorm_in_training(self) -> Iterator[None]:
        layers = self.batchnorms()
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None
            layer.train()
        try:
            yield
        finally:
            for layer, momentum in zip(layers, momenta, strict=True):
                layer.momentum = momentum
                layer.eval()

    def batchnorms(self) -> list[_BatchNorm]:
        modules = self.model.modules()
        return [m for m in modules if isinstance(m, _BatchNorm) and m.track_running_stats]

    @property
    def spread(self) -> bool:
        """Tells whether accelerate has spread the model over devices."""
        return any(hasattr(part, "hf_device_map") for part in self.model.modules())

    @property
    def bytes(self) -> dict[torch.device, int]:
        taken: Counter[torch.device] = Counter()
        for tensor in (*self.model.parameters(), *self.model.buffers()):
            taken[tensor.device] += tensor.nbytes
        return dict(taken)

    def save(self, folder: Path, like: Checkpoint, max_shard_size: str | int = "50GB") -> None:
        self.maker.save(self.model, folder, like, max_shard_size)

    def ignores(self, name: str) -> bool:
        """Tells whether transformers ignores the file tensor `name`."""
        return self._slots is not None and self._slots[name] is None

    def dtype_of(self, name: str, dtype: torch.dtype) -> torch.dtype:
        """The dtype of the file tensor `name` in a model loaded as `dtype`."""
        kept, names = self._in_float32(dtype), self._names.names if self._names else {}
        return torch.float32 if kept is not None and kept(names.get(name, name)) else dtype

    def digests(self) -> dict[str, str]:
        return {name: _digest(tensor) for name, tensor in self.model.state_dict().items()}


def _log(names: NameMap, level: int) -> None:
    if not names.in_place:
        log.log(
            level,
            "%s rearranges tensors of its files when it loads them: candidates are filled in through "
            "transformers, slower than in place",
            names.kind.__name__,
        )
    elif ignored := names.shapes.keys() - names.names.keys():
        log.log(level, "transformers has no use for %s of the runs' files", ", ".join(sorted(ignored)))


def _digest(tensor: torch.Tensor) -> str:
    state = xxhash.xxh3_128(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    for block in tensor_blocks(tensor.cpu()):
        state.update(block)
    return state.hexdigest()
