"""Forms the weights that an adapter makes of its base, one tensor at a time.

A low-rank change of a weight W is Δ = s·B·A, with s = α/r (α/√r for rsLoRA); with DoRA it is
Δ = m·(W + s·B·A)/‖W + s·B·A‖ − W, with a norm for each output. A block-diagonal factor (BD-LoRA) is stored
as its blocks. A parameter of a mixture, (experts, out, in), has such a change for each of its experts.

Hu et al. 2021, "LoRA", arXiv 2106.09685. Kalajdzievski 2023, "rsLoRA", arXiv 2312.03732.
Liu et al. 2024, "DoRA", arXiv 2402.09353. Wang et al. 2025, "BD-LoRA", arXiv 2510.23346. File format: peft.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import xxhash

from soupkitchen.checkpoints.weights import TensorInfo, Weights


@dataclass(frozen=True)
class LowRank:
    """The factors of one weight's change, as names in the adapter's file.

    Attributes:
        down: A, (r, in); of a mixture (experts · r, in), expert by expert.
        up: B, (out, r); of a mixture (out, r · experts), the experts innermost.
        scale: s.
        transposed: whether the weight is (in, out), as an embedding or GPT-2's Conv1D.
        magnitude: DoRA's m, one for each output; None without.
        blocks: the numbers of diagonal blocks of A and of B.
        experts: the number of experts of a mixture.
        expert, rows: of a tensor that holds one expert, which one, and the range of its outputs.
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
    """A change of a bias (`lora_bias`): `scale` times the tensor `key` in the adapter's file is added."""

    key: str
    scale: float


@dataclass(frozen=True)
class Rows:
    """Rows of an embedding that were trained whole (`trainable_token_indices`): the tensor `key`."""

    key: str
    rows: tuple[int, ...]


class AdaptedWeights(Weights):
    """The weights of a base with the changes in an adapter's files."""

    def __init__(
        self,
        base: Weights,
        files: Weights,
        changed: Mapping[str, LowRank],
        replaced: Mapping[str, str],
        edited: Mapping[str, Shift | Rows],
    ) -> None:
        """`changed`, `replaced` and `edited` are by name of the base's tensor."""
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
        """The tensor before a low-rank change or an edit."""
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
        """A, (r, in), and s·B, (out, r), of the tensor `name`: float32, flat but for these two axes.

        Of a mixture that one tensor holds, both have an axis of experts before these.
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
