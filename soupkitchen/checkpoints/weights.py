"""Named tensors that can be read one at a time, views of them, and those that an adapter makes of its base.

A low-rank change of a weight W is Δ = s·B·A, with s = α/r (α/√r for rsLoRA); with DoRA it is
Δ = m·(W + s·B·A)/‖W + s·B·A‖ − W, with a norm for each output. A block-diagonal factor (BD-LoRA) is stored
as its blocks. A parameter of a mixture, (experts, out, in), has such a change for each of its experts.

Hu et al. 2021, "LoRA", arXiv 2106.09685. Kalajdzievski 2023, "rsLoRA", arXiv 2312.03732.
Liu et al. 2024, "DoRA", arXiv 2402.09353. Wang et al. 2025, "BD-LoRA", arXiv 2510.23346. File format: peft.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

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
_SPELLINGS = {dtype: spelling for spelling, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """Shape and dtype of a tensor; dtypes have safetensors' names (``F32``)."""

    shape: tuple[int, ...]
    dtype: str

    @classmethod
    def of(cls, tensor: torch.Tensor) -> TensorInfo:
        return cls(tuple(tensor.shape), _SPELLINGS.get(tensor.dtype, str(tensor.dtype)))

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """torch's dtype; None if it cannot be merged."""
        return _DTYPES.get(self.dtype)

    @property
    def is_floating_point(self) -> bool:
        return self.torch_dtype is not None and self.torch_dtype.is_floating_point

    @property
    def elements(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def nbytes(self) -> int:
        """The size in bytes; 0 if the dtype cannot be merged."""
        return 0 if self.torch_dtype is None else self.elements * self.torch_dtype.itemsize


class Weights(Protocol):
    """Named tensors that can be read one at a time."""

    @property
    def header(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype by name, sorted by name."""

    def tensor(self, name: str) -> torch.Tensor:
        """Reads the tensor called `name`."""

    @property
    def fingerprint(self) -> str:
        """A digest of all tensors: the same for the same weights."""

    @property
    def not_finite(self) -> Mapping[str, int]:
        """The number of NaN and infinite values in the run's own files, by tensor that has any."""

    def changed_files(self) -> list[Path]:
        """The files whose size, time or inode has changed since they were opened."""

    def tensors(self) -> Tensors:
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
        """Tells whether the tensor is known to equal the base's, without reading it."""
        return False

    def task_vector(self, name: str, device: torch.device) -> torch.Tensor | None:
        """The change from the base, float32, if the files hold exactly that; else None."""
        return None

    def exact(self, name: str, device: torch.device) -> torch.Tensor:
        """The tensor, not rounded to its dtype if it is computed."""
        return self.tensor(name)


class View(Weights):
    """Weights under other names, with reordered rows, or in a wider dtype."""

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
        names: the original name by the new one, for the tensors to keep; None for all.
        rows: the new order of a tensor's rows, by new name.
        dtype: of floating-point tensors; None for their own.
        own_base: the base differs from the pool's, so the change is no task vector.
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
    """Finds `names` in `reference`, with or without a prefix: name by reference name.

    A bare encoder's file has ``embeddings.weight``, one with a head ``bert.embeddings.weight``.
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


@dataclass(frozen=True)
class LowRank:
    """The factors of one weight's change, as names in the adapter's file.

    Attributes:
        down: A, (r, in); for a mixture (experts · r, in), expert by expert.
        up: B, (out, r); for a mixture (out, r · experts), experts innermost.
        scale: s.
        transposed: the weight is (in, out), like an embedding or GPT-2's Conv1D.
        magnitude: DoRA's m, (out,).
        blocks: the numbers of diagonal blocks of A and B.
        expert, rows: the tensor's expert and range of outputs, if it holds one expert.
    """

    down: str
    up: str
    scale: float
    transposed: bool
    magnitude: str | None = None
    blocks: tuple[int, int] = (1, 1)
    experts: int = 1
    expert: int | None = None
    rows: tuple[int, int] | None = None


@dataclass(frozen=True)
class Shift:
    """A change of a bias (`lora_bias`): adds `scale` times the adapter's tensor `key`."""

    key: str
    scale: float


@dataclass(frozen=True)
class Rows:
    """Embedding rows that were trained whole (`trainable_token_indices`), in the tensor `key`."""

    key: str
    rows: tuple[int, ...]


class AdaptedWeights(Weights):
    def __init__(
        self,
        base: Weights,
        files: Weights,
        changed: Mapping[str, LowRank],
        replaced: Mapping[str, str],
        edited: Mapping[str, Shift | Rows],
    ) -> None:
        """`changed`, `replaced` and `edited` are keyed by the base's tensor."""
        self.base, self.files = base, files
        self.changed, self.replaced, self.edited = changed, replaced, edited

    @cached_property
    def header(self) -> Mapping[str, TensorInfo]:
        header = dict(self.base.header)
        for name, key in self.replaced.items():
            info = self.files.header[key]
            header[name] = TensorInfo(info.shape, header[name].dtype) if name in header else info
        return dict(sorted(header.items()))

    def is_in_files(self, name: str) -> bool:
        return name not in self.changed and name not in self.edited

    def leaves(self, name: str) -> bool:
        return self.is_in_files(name) and name not in self.replaced

    def tensor(self, name: str) -> torch.Tensor:
        return self.exact(name, torch.device("cpu")).to(self.header[name].torch_dtype)

    def task_vector(self, name: str, device: torch.device) -> torch.Tensor | None:
        if name in self.replaced:
            return None
        if isinstance(edit := self.edited.get(name), Shift):
            return self.files.tensor(edit.key).to(device, torch.float32) * edit.scale
        return self._change(name, device) if name in self.changed else None

    def exact(self, name: str, device: torch.device) -> torch.Tensor:
        if self.is_in_files(name):
            return self._unchanged(name)
        start, edit = self._unchanged(name).to(device, torch.float32), self.edited.get(name)
        if edit is None:
            return self._change(name, device).add_(start)
        brought = self.files.tensor(edit.key).to(device, torch.float32)
        if isinstance(edit, Shift):
            return start + brought * edit.scale
        return start.index_copy(0, torch.tensor(edit.rows, device=device), brought)

    def _unchanged(self, name: str) -> torch.Tensor:
        key = self.replaced.get(name)
        return self.base.tensor(name) if key is None else self.files.tensor(key)

    @cached_property
    def fingerprint(self) -> str:
        parts = [self.base.fingerprint, self.files.fingerprint]
        parts += [repr(sorted(plans.items())) for plans in (self.changed, self.replaced, self.edited)]
        return xxhash.xxh3_128("\0".join(parts).encode()).hexdigest()

    @property
    def not_finite(self) -> Mapping[str, int]:
        return self.files.not_finite

    def changed_files(self) -> list[Path]:
        return [*self.base.changed_files(), *self.files.changed_files()]

    def factors(self, name: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """A, (r, in), and s·B, (out, r), of the tensor `name`, float32, other axes flattened.

        If one tensor holds a mixture, both have a leading axis of experts.
        """
        plan = self.changed[name]
        down = self.files.tensor(plan.down).to(device, torch.float32).flatten(1)
        up = self.files.tensor(plan.up).to(device, torch.float32).flatten(1)
        if plan.blocks != (1, 1):
            down, up = (
                torch.block_diag(*factor.chunk(number))
                for factor, number in zip((down, up), plan.blocks, strict=True)
            )
        if plan.experts > 1:
            down = down.unflatten(0, (plan.experts, -1))
            up = up.unflatten(1, (-1, plan.experts)).permute(2, 0, 1)
        if plan.expert is not None:
            down, up = down[plan.expert], up[plan.expert]
        if plan.rows is not None:
            up = up[slice(*plan.rows)]
        return down, up * plan.scale

    def _change(self, name: str, device: torch.device) -> torch.Tensor:
        plan, shape = self.changed[name], self.header[name].shape
        down, up = self.factors(name, device)
        change = up @ down
        change = (change.mT if plan.transposed else change).reshape(shape)
        if plan.magnitude is None:
            return change
        weight = self._unchanged(name).to(device, torch.float32)
        outputs = len(shape) - 1 if plan.transposed else 0
        others = [axis for axis in range(len(shape)) if axis != outputs]
        moved = weight + change
        norm = torch.linalg.vector_norm(moved, dim=others, keepdim=True)
        magnitude = self.files.tensor(plan.magnitude).to(device, torch.float32).reshape(norm.shape)
        return moved.mul_(magnitude / norm).sub_(weight)
