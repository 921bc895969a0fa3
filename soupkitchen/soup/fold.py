"""Folds: one tensor's running state and its operands, in chunks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from soupkitchen.checkpoints.checkpoint import Checkpoint
from soupkitchen.merging import MergeMethod, Origin, StackMethod
from soupkitchen.merging.base import Ingredient
from soupkitchen.merging.chunks import chunks
from soupkitchen.soup.memory import StateMemory
from soupkitchen.soup.reader import TensorReader

AnyMethod = MergeMethod | StackMethod


Plans = dict[tuple[Ingredient, str], Any]
"""A method's plans by run and tensor name."""

Remarks = list[str | None]


class Operand(NamedTuple):
    """One run's tensor for a fold.

    Attributes:
        x: its values or, if `relative`, its task vector.
        plans: stores the method's plan, or None.
    """

    x: torch.Tensor
    origin: Origin
    relative: bool = False
    plans: Plans | None = None


class TensorVector:
    """A tensor or its task vector: flat, float32, computed on access."""

    def __init__(self, x: torch.Tensor, base: torch.Tensor | None, device: torch.device) -> None:
        self.device = device
        self._x = x.to(device).reshape(-1)
        self._base = base

    def numel(self) -> int:
        return self._x.numel()

    def __getitem__(self, part: slice) -> torch.Tensor:
        base = None if self._base is None else self._base[part].to(self.device, torch.float32)
        return self.look(part, base)

    def look(self, part: slice, base: torch.Tensor | None) -> torch.Tensor:
        x = self._x[part]
        if self._base is None or base is None:
            return x.float()
        return torch.sub(x, base) if x.dtype == torch.float32 else x.float().sub_(base)


class LazyChange:
    """A tensor's task vector, read from files at each access."""

    def __init__(self, run: Checkpoint, name: str, base: Checkpoint | None, reader: TensorReader) -> None:
        self.device = reader.device
        self._run, self._name, self._base, self._reader = run, name, base, reader

    def numel(self) -> int:
        return self._run.header[self._name].elements

    def __getitem__(self, part: slice) -> torch.Tensor:
        x = self._reader.change(self._run, self._name) if self._base else None
        if x is not None:
            return TensorVector(x, None, self.device)[part]
        base = self._base.tensor(self._name).to(self.device).reshape(-1) if self._base else None
        return TensorVector(self._run.tensor(self._name), base, self.device)[part]


class Fold:
    def __init__(
        self,
        method: MergeMethod,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        base: torch.Tensor | None,
        memory: StateMemory,
        instead: bool = False,
    ) -> None:
        """`instead`: whether `method` replaces the soup's own."""
        self.method = method
        self._instead = instead
        self._base = None if base is None else memory.hold(base).reshape(-1)
        self._shape, self._dtype, self._device = shape, dtype, memory.device
        self._memory = memory
        self._elements = torch.Size(shape).numel()
        self._state: Any = None

    def taste(self, operand: Operand, finish: AnyMethod, remarks: Remarks) -> torch.Tensor:
        """The merged tensor with one more run; the state stays."""
        vector, measure = self._measure(operand, remarks)

        def state(part: slice, base: torch.Tensor | None) -> Any:
            return self.method.add(self._slice(part), vector.look(part, base), measure, part.start)

        return self._finished(state, finish)

    def keep(self, operand: Operand, remarks: Remarks) -> None:
        if self._state is None:
            self._state = self._memory.state(self.method, self._elements)
        vector, measure = self._measure(operand, remarks)
        folded = self._state
        for part in chunks(self._elements, self._device):
            sliced = self._slice(part)
            folded = self.method.add_(sliced, vector[part], measure, part.start)
            triples = zip(self._state, sliced, folded, strict=True)
            self._state = type(folded)(*(self._stored(part, *triple) for triple in triples))
        # tensors were written in place; plain numbers are those of the fold
        pairs = zip(self._state, folded, strict=True)
        self._state = type(folded)(*(old if isinstance(old, torch.Tensor) else new for old, new in pairs))

    def _stored(self, part: slice, field: Any, old: Any, new: Any) -> Any:
        """Writes `new` to the part of a field that held `old`, in the new dtype."""
        if isinstance(field, torch.Tensor) and (new is not old or field.device != new.device):
            if field.dtype != new.dtype:
                field = self._memory.converted(field, new.dtype)
            field[part] = new
        return field

    def blend(self, operands: Sequence[Operand], finish: AnyMethod, remarks: Remarks) -> torch.Tensor:
        """The merged tensor of these runs, with the state of one chunk at a time, unless the method is
        stepwise.
        """
        if self.method.stepwise:
            for operand in operands:
                self.keep(operand, remarks)
            return self.result(finish)
        measured = [self._measure(operand, remarks) for operand in operands]

        def state(part: slice, base: torch.Tensor | None) -> Any:
            like = torch.empty(part.stop - part.start, dtype=torch.float32, device=self._device)
            folded = self.method.init(like)
            for vector, measure in measured:
                folded = self.method.add_(folded, vector.look(part, base), measure, part.start)
            return folded

        return self._finished(state, finish)

    def result(self, finish: AnyMethod) -> torch.Tensor:
        return self._finished(lambda part, base: self._slice(part), finish)

    def _finished(
        self, state_of: Callable[[slice, torch.Tensor | None], Any], finish: AnyMethod
    ) -> torch.Tensor:
        method = self.method if self._instead else finish
        assert isinstance(method, MergeMethod)
        merged = torch.empty(self._shape, dtype=self._dtype, device=self._device)
        for part in chunks(self._elements, self._device):
            base = self._base_of(part)
            values = method.result(state_of(part, base))
            if base is not None:
                values = values + base
            merged.view(-1)[part] = values
        return merged

    def _base_of(self, part: slice) -> torch.Tensor | None:
        return None if self._base is None else self._base[part].to(self._device, torch.float32)

    def _slice(self, part: slice) -> Any:
        fields = (f[part].to(self._device) if isinstance(f, torch.Tensor) else f for f in self._state)
        return type(self._state)(*fields)

    def _measure(self, operand: Operand, remarks: Remarks) -> tuple[TensorVector, Any]:
        vector = TensorVector(operand.x, None if operand.relative else self._base, self._device)
        origin, plans = operand.origin, operand.plans
        if plans is not None and not self.method.stepwise:
            key = origin.ingredient, origin.tensor
            if key not in plans:
                plans[key] = self.method.plan(vector, origin)
            origin = origin._replace(plan=plans[key])
        measure = self.method.measure(self._state, vector, origin)
        remarks.append(self.method.remark(measure))
        return vector, measure
