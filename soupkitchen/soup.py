"""A soup: a merge method applied to whole checkpoints, tensor by tensor.

*Taste* a candidate to get the weights that the soup would have with it; nothing
changes. *Keep* it to make it an ingredient. To discard a candidate is to do
nothing: there is no rollback.

The cost of a candidate does not grow with the soup: the soup is a running state
(a few float32 values for each parameter), and a candidate is folded into it
while it is read from its files. (A `StackMethod` has no such state, and reads all
ingredients again.) Tensors that no ingredient changed, as most of a pool of adapters,
have no state and cost nothing.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from soupkitchen.checkpoints.reader import Checkpoint, Tensors
from soupkitchen.errors import ConfigError
from soupkitchen.merging import Linear, MergeMethod, Origin, StackMethod
from soupkitchen.merging.chunks import chunks, keep_freed_memory
from soupkitchen.states import StateMemory

log = logging.getLogger(__name__)

AnyMethod = MergeMethod | StackMethod

DtypeOf = Callable[[str], torch.dtype | None]
"""The dtype of the tensor of that name; None for that of the ingredients' files."""

_NEXT_TO_NOTHING = 1e-30
"""The weight of a subtracted run where tensors are averaged: it counts only if there are no others."""


class Soup:
    """Ingredients merged by one method, starting from nothing.

    The dtype of each merged tensor is `dtype` or, without, that of the first ingredient's.
    Tensors that are not floating point (integer buffers) are the first ingredient's;
    where another's differ, a warning names them.

    Where the method has variants, what is tasted and kept is the first, or that
    which is given.

    Args:
        method: how to merge.
        device: where arithmetic is done.
        base: what the runs were fine-tuned from, for methods on task vectors; of adapters
            it is the model that they were trained on.
            Tensors that it lacks, or has in another shape (a new head), are averaged
            instead, by `Linear` with the same weights where these are positive.
        dtype: of the merged tensors that are floating point; or what tells it of each by its name.
        memory: where states are kept; by default on the device.
        warned: what was warned of, and need not be again: soups of one run may share it.

    Raises:
        ConfigError: where the method needs a base and there is none.
    """

    def __init__(
        self,
        method: AnyMethod,
        device: torch.device | None = None,
        base: Checkpoint | None = None,
        dtype: torch.dtype | DtypeOf | None = None,
        memory: StateMemory | None = None,
        warned: set[str] | None = None,
    ) -> None:
        if method.needs_base and base is None:
            raise ConfigError(
                "this method merges task vectors, so it needs the model that the runs were fine-tuned "
                "from: give its folder as pool.base=…"
            )
        self.method: AnyMethod = next(iter(method.variants.values()))
        self.device = device or torch.device("cpu")
        self.base = base if method.needs_base else None
        self.dtype_of = _telling(dtype)
        self._memory = memory or StateMemory(self.device)
        self._ingredients: tuple[Checkpoint, ...] = ()
        self._folds: dict[str, _Fold] = {}
        self._fixed: dict[str, torch.Tensor] = {}
        self._warned = set() if warned is None else warned
        self._surveys: dict[Checkpoint, Any] = {}
        keep_freed_memory()

    def forget(self) -> None:
        """Gives the memory of the state back; the soup is not to be used after that."""
        self._folds.clear()
        self._fixed.clear()

    @property
    def ingredients(self) -> tuple[str, ...]:
        """Names of the ingredients, in the order in which they were kept."""
        return tuple(run.name for run in self._ingredients)

    def tensors(self) -> Tensors:
        """Yields the soup's weights. A soup of one is that ingredient, whatever the method."""
        if len(self._ingredients) == 1:
            yield from self._alone(self._ingredients[0])
            return
        first = self._ingredients[0]
        for name in first.header:
            if name in self._fixed:
                yield name, self._fixed[name]
            elif name in self._folds:
                yield name, self._folds[name].result(self.method)
            elif isinstance(self.method, StackMethod) and not self._untouched(name, self._ingredients):
                yield name, self._stacked(name, self._ingredients)
            else:
                yield name, self._cast(name, first.tensor(name))

    def taste(self, candidate: Checkpoint, variant: AnyMethod | None = None) -> Tensors:
        """Yields the weights that the soup would have with `candidate` in it."""
        if not self._ingredients:
            yield from self._alone(candidate)
            return
        self._warn_of_fixed((self._ingredients[0], candidate))
        remarks = _Remarks()
        together = (*self._ingredients, candidate)
        for name, info in candidate.header.items():
            if not info.is_floating_point:
                yield name, self._unmerged(name, candidate)
            elif self._untouched(name, together):
                yield name, self._cast(name, candidate.tensor(name))
            elif isinstance(self.method, StackMethod):
                yield name, self._stacked(name, together)
            elif name in self._folds:
                operand = self._operand(name, candidate)
                yield name, self._folds[name].taste(operand, variant or self.method, remarks)
            else:  # the candidate is the first to change it
                yield name, self._blended(name, together, variant, remarks)
        remarks.say()

    def keep(self, ingredient: Checkpoint, variant: AnyMethod | None = None) -> None:
        """Makes `ingredient` part of the soup."""
        if self.base is not None and not self._ingredients:
            self._name_what_the_base_lacks(ingredient)
        together = (*self._ingredients, ingredient)
        for name, info in ingredient.header.items():
            if not info.is_floating_point:
                self._fixed[name] = self._unmerged(name, ingredient)
            elif not (isinstance(self.method, StackMethod) or self._untouched(name, together)):
                started = name in self._folds
                if not started:
                    self._folds[name] = self._start(name, ingredient, self._memory)
                for run in (ingredient,) if started else together:
                    self._folds[name].keep(self._operand(name, run))
        self._ingredients = together
        self.method = variant or self.method

    def blend(self, ingredients: Sequence[Checkpoint], variant: AnyMethod | None = None) -> Tensors:
        """Yields the weights that a soup of just these `ingredients` would have.

        Where all are known beforehand this takes the memory of one tensor, not of a
        running state; the arithmetic is the same.
        """
        first = ingredients[0]
        if len(ingredients) == 1:
            yield from self._alone(first)
            return
        if self.base is not None and not self._ingredients:
            self._name_what_the_base_lacks(first)
        self._warn_of_fixed(ingredients)
        remarks = _Remarks()
        for name, info in first.header.items():
            if not info.is_floating_point or self._untouched(name, ingredients):
                yield name, self._cast(name, first.tensor(name))
            elif isinstance(self.method, StackMethod):
                yield name, self._stacked(name, tuple(ingredients))
            else:
                yield name, self._blended(name, ingredients, variant, remarks)
        remarks.say()

    def _blended(
        self, name: str, runs: Sequence[Checkpoint], variant: AnyMethod | None, remarks: _Remarks
    ) -> torch.Tensor:
        fold = self._start(name, runs[0])
        return fold.blend([self._operand(name, run) for run in runs], variant or self.method, remarks)

    def _alone(self, run: Checkpoint) -> Tensors:
        yield from in_dtype(run.tensors, self.dtype_of)

    def _cast(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        dtype = self.dtype_of(name) if tensor.is_floating_point() else None
        return tensor if dtype is None else tensor.to(dtype)

    def _untouched(self, name: str, runs: Sequence[Checkpoint]) -> bool:
        """Whether the tensor is the base's in all `runs`, without looking, and stays so when merged."""
        return self.method.keeps_untouched and all(run.weights.leaves(name) for run in runs)

    def _start(self, name: str, like: Checkpoint, memory: StateMemory | None = None) -> _Fold:
        """What merges the tensor `name` of runs like `like`; `memory` is for its state."""
        assert isinstance(self.method, MergeMethod)
        shape, dtype = like.header[name].shape, self.dtype_of(name) or like.header[name].torch_dtype
        assert dtype is not None
        memory = memory or StateMemory(self.device)
        if self.base is None:
            return _Fold(self.method, shape, dtype, None, memory)
        if self._base_lacks(name, shape):
            return _Fold(Linear(), shape, dtype, None, memory, instead=True)
        return _Fold(self.method, shape, dtype, self.base.tensor(name), memory)

    def _base_lacks(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether the base has no tensor of that name and shape."""
        info = self.base.header.get(name) if self.base else None
        return info is None or info.shape != shape

    def _name_what_the_base_lacks(self, run: Checkpoint) -> None:
        if lacking := [name for name, info in run.header.items() if self._base_lacks(name, info.shape)]:
            self._warn(
                f"the base model lacks {len(lacking)} tensors of the runs, which are averaged instead: "
                f"{_some(lacking)}"
            )

    def _operand(self, name: str, run: Checkpoint) -> _Operand:
        """The run's tensor as methods see it."""
        origin = self._origin(name, run)
        if self.base is not None and not self._base_lacks(name, run.header[name].shape):
            change = run.weights.task_vector(name, self.device)
            if change is not None:
                return _Operand(change, origin, relative=True)
        return _Operand(run.weights.exact(name, self.device), origin)

    def _origin(self, name: str, run: Checkpoint) -> Origin:
        weight, shape = self.method.weight(run.name), run.header[name].shape
        if self.base is not None and self._base_lacks(name, shape):
            weight = max(weight, _NEXT_TO_NOTHING)
        return Origin(run, name, weight, shape, self._survey(run))

    def _survey(self, run: Checkpoint) -> Any:
        """What the method has to know of all of the run's tensors; each run's is remembered."""
        if not (isinstance(self.method, MergeMethod) and self.method.surveys):
            return None
        if run not in self._surveys:
            vectors = {
                name: _Whole(run, name, self.base, self.device)
                for name, info in run.header.items()
                if info.is_floating_point and not (self.base and self._base_lacks(name, info.shape))
            }
            self._surveys[run] = self.method.survey(vectors)
        return self._surveys[run]

    def _stacked(self, name: str, runs: tuple[Checkpoint, ...]) -> torch.Tensor:
        assert isinstance(self.method, StackMethod)
        loaded = [run.weights.exact(name, self.device).to(self.device, torch.float32) for run in runs]
        merged = self.method.merge(loaded, [self.method.weight(run.name) for run in runs])
        return merged.to(self.dtype_of(name) or runs[0].header[name].torch_dtype)

    def _unmerged(self, name: str, run: Checkpoint) -> torch.Tensor:
        return self._fixed.get(name, run.tensor(name))

    def _warn_of_fixed(self, runs: Sequence[Checkpoint]) -> None:
        """Names, once, the tensors that are not merged although they differ between the runs."""
        first = runs[0]
        fixed = [name for name, info in first.header.items() if not info.is_floating_point]
        differing = [
            name
            for name in fixed
            if any(not torch.equal(first.tensor(name), r.tensor(name)) for r in runs[1:])
        ]
        if differing:
            self._warn(
                f"{_some(differing)}: not floating point, and other values in other runs; the soup keeps "
                f"those of {first.name}"
            )

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            log.warning("%s", message)


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def in_dtype(weights: Callable[[], Tensors], dtype: torch.dtype | DtypeOf | None) -> Tensors:
    """Yields the tensors, those that are floating point in `dtype`, if given."""
    dtype_of = _telling(dtype)
    for name, tensor in weights():
        wanted = dtype_of(name) if tensor.is_floating_point() else None
        yield name, tensor if wanted is None else tensor.to(wanted)


def _telling(dtype: torch.dtype | DtypeOf | None) -> DtypeOf:
    return (lambda name: dtype) if dtype is None or isinstance(dtype, torch.dtype) else dtype


class _Operand(NamedTuple):
    """One run's tensor for a fold.

    Attributes:
        x: its values or, where `relative`, what fine-tuning changed.
    """

    x: torch.Tensor
    origin: Origin
    relative: bool = False


class _Vector:
    """A tensor, or what fine-tuning changed of it: flat, float32, computed where it is looked at."""

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
        """The same, for those who have that part of the base in float32 already."""
        x = self._x[part]
        if self._base is None or base is None:
            return x.float()
        return torch.sub(x, base) if x.dtype == torch.float32 else x.float().sub_(base)


class _Whole:
    """What fine-tuning changed of one tensor, looked up anew whenever it is looked at: nothing is held."""

    def __init__(self, run: Checkpoint, name: str, base: Checkpoint | None, device: torch.device) -> None:
        self.device = device
        self._run, self._name, self._base = run, name, base

    def numel(self) -> int:
        return self._run.header[self._name].elements

    def __getitem__(self, part: slice) -> torch.Tensor:
        x = self._run.weights.task_vector(self._name, self.device) if self._base else None
        if x is not None:
            return _Vector(x, None, self.device)[part]
        base = self._base.tensor(self._name).to(self.device).reshape(-1) if self._base else None
        return _Vector(self._run.tensor(self._name), base, self.device)[part]


class _Fold:
    """One tensor's running state, driven chunk by chunk."""

    def __init__(
        self,
        method: MergeMethod,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        base: torch.Tensor | None,
        memory: StateMemory,
        instead: bool = False,
    ) -> None:
        """`instead`: whether `method` stands in for the soup's own."""
        self.method = method
        self._instead = instead
        self._base = None if base is None else memory.hold(base).reshape(-1)
        self._shape, self._dtype, self._device = shape, dtype, memory.device
        self._memory = memory
        self._elements = torch.Size(shape).numel()
        self._state: Any = None

    def taste(self, operand: _Operand, variant: AnyMethod, remarks: _Remarks | None = None) -> torch.Tensor:
        vector, measure = self._measure(operand, remarks)
        merged = self._empty()
        for part in chunks(self._elements, self._device):
            base = self._base_of(part)
            folded = self.method.add(self._slice(part), vector.look(part, base), measure, part.start)
            self._write_out(merged, part, folded, base, variant)
        return merged

    def keep(self, operand: _Operand, remarks: _Remarks | None = None) -> None:
        if self._state is None:
            self._state = self._memory.state(self.method, self._elements)
        vector, measure = self._measure(operand, remarks)
        state, folded = self._state, self._state
        for part in chunks(self._elements, self._device):
            sliced = self._slice(part)
            folded = self.method.add_(sliced, vector[part], measure, part.start)
            for field, old, new in zip(state, sliced, folded, strict=True):
                if isinstance(field, torch.Tensor) and (new is not old or field.device != new.device):
                    field[part] = new
        # tensors were written in place; plain numbers are those of the fold
        self._state = type(state)(
            *(old if isinstance(old, torch.Tensor) else new for old, new in zip(state, folded, strict=True))
        )

    def blend(
        self, operands: Sequence[_Operand], variant: AnyMethod, remarks: _Remarks | None = None
    ) -> torch.Tensor:
        """What keeping all of them gives. Where measures allow it, the state never leaves the cache."""
        if self.method.stepwise:
            for operand in operands:
                self.keep(operand, remarks)
            return self.result(variant)
        measured = [self._measure(operand, remarks) for operand in operands]
        merged = self._empty()
        for part in chunks(self._elements, self._device):
            base = self._base_of(part)
            like = torch.empty(part.stop - part.start, dtype=torch.float32, device=self._device)
            state = self.method.init(like)
            for vector, measure in measured:
                state = self.method.add_(state, vector.look(part, base), measure, part.start)
            self._write_out(merged, part, state, base, variant)
        return merged

    def result(self, variant: AnyMethod) -> torch.Tensor:
        merged = self._empty()
        for part in chunks(self._elements, self._device):
            self._write_out(merged, part, self._slice(part), self._base_of(part), variant)
        return merged

    def _empty(self) -> torch.Tensor:
        return torch.empty(self._shape, dtype=self._dtype, device=self._device)

    def _base_of(self, part: slice) -> torch.Tensor | None:
        """A part of the base's tensor in float32, converted once for all that look at it."""
        return None if self._base is None else self._base[part].to(self._device, torch.float32)

    def _slice(self, part: slice) -> Any:
        """A part of the state, on the device where arithmetic is done."""
        fields = (f[part].to(self._device) if isinstance(f, torch.Tensor) else f for f in self._state)
        return type(self._state)(*fields)

    def _measure(self, operand: _Operand, remarks: _Remarks | None) -> tuple[_Vector, Any]:
        vector = _Vector(operand.x, None if operand.relative else self._base, self._device)
        measure = self.method.measure(self._state, vector, operand.origin)
        if remarks is not None:
            remarks.add(self.method.remark(measure))
        return vector, measure

    def _write_out(
        self, merged: torch.Tensor, part: slice, state: Any, base: torch.Tensor | None, variant: AnyMethod
    ) -> None:
        method = self.method if self._instead else variant
        assert isinstance(method, MergeMethod)
        values = method.result(state)
        if base is not None:
            values = values + base
        merged.view(-1)[part] = values


class _Remarks:
    """Counts what a method has to say of the tensors of one merge."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._tensors = 0

    def add(self, remark: str | None) -> None:
        self._tensors += 1
        if remark:
            self._counts[remark] += 1

    def say(self) -> None:
        for remark, count in self._counts.items():
            log.info("%s in %d of %d tensors", remark, count, self._tensors)
