"""Named tensors that can be read one at a time, and views of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import xxhash

Tensors = Iterator[tuple[str, torch.Tensor]]

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""torch's dtypes by safetensors' spelling."""
_SPELLINGS = {dtype: spelling for spelling, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of a tensor, `dtype` in safetensors' spelling (``F32``)."""

    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorInfo:
        return cls(tuple(tensor.shape), _SPELLINGS.get(tensor.dtype, str(tensor.dtype)))

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The dtype as torch's; None for one that cannot be merged."""
        return _DTYPES.get(self.dtype)

    @property
    def is_floating_point(self) -> bool:
        return self.torch_dtype is not None and self.torch_dtype.is_floating_point

    @property
    def elements(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def nbytes(self) -> int:
        """The tensor's size in bytes; 0 for a dtype that cannot be merged."""
        return 0 if self.torch_dtype is None else self.elements * self.torch_dtype.itemsize


class Weights(ABC):
    """Named tensors that can be read one at a time, wherever they come from."""

    @property
    @abstractmethod
    def header(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype by name, sorted by name."""

    @abstractmethod
    def tensor(self, name: str) -> torch.Tensor:
        """Reads the tensor called `name`."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A digest of all tensors: the same for the same weights."""

    @property
    @abstractmethod
    def not_finite(self) -> Mapping[str, int]:
        """The number of NaN and infinite values in the run's own files, by tensor that has some."""

    @abstractmethod
    def changed_files(self) -> list[Path]:
        """The files whose size, time or inode has changed since they were opened."""

    def tensors(self) -> Tensors:
        """Yields (name, tensor) for every tensor."""
        for name in self.header:
            yield name, self.tensor(name)

    @property
    def names_twins(self) -> bool:
        """Tells whether the format stores tied tensors under both names."""
        return False

    def is_in_files(self, name: str) -> bool:
        """Tells whether the tensor is read as it is, and not computed."""
        return True

    def leaves(self, name: str) -> bool:
        """Tells whether the tensor is, without a look at its values, known to be that of the base model."""
        return False

    def task_vector(self, name: str, device: torch.device) -> torch.Tensor | None:
        """The change by fine-tuning, float32, if the files hold exactly that; else None."""
        return None

    def exact(self, name: str, device: torch.device) -> torch.Tensor:
        """The tensor; if it is computed, not rounded to its dtype."""
        return self.tensor(name)


class View(Weights):
    """Other weights with other names, another order of rows, or a wider dtype."""

    def __init__(
        self,
        of: Weights,
        names: Mapping[str, str] | None = None,
        rows: Mapping[str, Sequence[int]] | None = None,
        dtype: torch.dtype | None = None,
        own_base: bool = False,
    ) -> None:
        """Args:
        of: the weights.
        names: the name there by the name here; tensors without a name here are left out. None for all.
        rows: by the name here, the rows of a tensor in their new order.
        dtype: of all floating-point tensors; None for their own.
        own_base: whether the base of these adapted weights is another model than the pool's base, so
            that what they change is no task vector.
        """
        self._of = of
        self._names = dict(sorted(names.items())) if names is not None else {name: name for name in of.header}
        self._rows, self._dtype, self._own_base = dict(rows or {}), dtype, own_base

    @cached_property
    def header(self) -> Mapping[str, TensorInfo]:
        infos = {name: self._of.header[inner] for name, inner in self._names.items()}
        if self._dtype is None:
            return infos
        wider = _SPELLINGS[self._dtype]
        return {
            name: TensorInfo(info.shape, wider) if info.is_floating_point else info
            for name, info in infos.items()
        }

    def tensor(self, name: str) -> torch.Tensor:
        tensor = self._ordered(name, self._of.tensor(self._names[name]))
        return tensor.to(self._dtype) if self._dtype and tensor.is_floating_point() else tensor

    def is_in_files(self, name: str) -> bool:
        return self._of.is_in_files(self._names[name])

    def leaves(self, name: str) -> bool:
        return not self._own_base and name not in self._rows and self._of.leaves(self._names[name])

    def task_vector(self, name: str, device: torch.device) -> torch.Tensor | None:
        # the base's rows keep their order, so a reordered tensor has no task vector
        if self._own_base or name in self._rows:
            return None
        return self._of.task_vector(self._names[name], device)

    def exact(self, name: str, device: torch.device) -> torch.Tensor:
        return self._ordered(name, self._of.exact(self._names[name], device))

    @cached_property
    def fingerprint(self) -> str:
        renamed = any(name != inner for name, inner in self._names.items())
        if not renamed and not self._rows and len(self._names) == len(self._of.header):
            return self._of.fingerprint
        digest = xxhash.xxh3_128(self._of.fingerprint.encode())
        for name, inner in self._names.items():
            digest.update(f"{name}\0{inner}\0{self._rows.get(name)}\0".encode())
        return digest.hexdigest()

    @property
    def not_finite(self) -> Mapping[str, int]:
        return self._of.not_finite

    def changed_files(self) -> list[Path]:
        return self._of.changed_files()

    def _ordered(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor[list(self._rows[name])] if name in self._rows else tensor


def aligned(names: Collection[str], reference: Collection[str]) -> dict[str, str]:
    """Finds `names` in `reference`, as they are or with one prefix more or less: name by reference name.

    A file of a bare encoder has ``embeddings.weight``, one of the model with a head
    ``bert.embeddings.weight``; ``from_pretrained`` takes either for either, and so do we.
    """
    same = {name: name for name in names if name in reference}
    best = same
    prefixes = {name.split(".", 1)[0] for name in (*names, *reference) if "." in name}
    for prefix in sorted(prefixes):
        added = {f"{prefix}.{name}": name for name in names if f"{prefix}.{name}" in reference}
        cut = {
            name.removeprefix(f"{prefix}."): name
            for name in names
            if name.startswith(f"{prefix}.") and name.removeprefix(f"{prefix}.") in reference
        }
        for renamed in (added, cut):
            taken = set(renamed.values())
            match = renamed | {name: name for name in same if name not in taken}
            if len(match) > len(best):
                best = match
    return best
