"""A soup: a merge method applied to whole checkpoints, tensor by tensor.

*Taste* a candidate to get the weights that the soup would have with it; nothing
changes. *Keep* it to make it an ingredient. To discard a candidate is to do
nothing: there is no rollback.

The cost of a candidate does not grow with the soup: the soup is a running state
(a few float32 values for each parameter), and a candidate is folded into it
while it is read from its files. (A `StackMethod` has no such state, and reads all
ingredients again.)
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from soupkitchen.checkpoints.reader import Checkpoint, Tensors
from soupkitchen.errors import ConfigError
from soupkitchen.merging import Linear, MergeMethod, Origin, StackMethod
from soupkitchen.merging.chunks import chunks

log = logging.getLogger(__name__)

AnyMethod = MergeMethod | StackMethod

_NEXT_TO_NOTHING = 1e-30
"""The weight of a subtracted run where tensors are averaged: it counts only if there are no others."""


class Soup:
    """Ingredients merged by one method, starting from nothing.

    The dtype of each merged tensor is that of the first ingredient's. Tensors
    that are not floating point (integer buffers) are the first ingredient's;
    where another's differ, a warning names them.

    Where the method has variants, what is tasted and kept is the first, or that
    which is given.

    Args:
        method: how to merge.
        device: where states are kept and arithmetic is done.
        base: what the runs were fine-tuned from, for methods on task vectors.
            Tensors that it lacks, or has in another shape (a new head), are averaged
            instead, by `Linear` with the same weights where these are positive.

    Raises:
        ConfigError: where the method needs a base and there is none.
    """

    def __init__(
        self, method: AnyMethod, device: torch.device | None = None, base: Checkpoint | None = None
    ) -> None:
        if method.needs_base and base is None:
            raise ConfigError(
                "this method merges task vectors, so it needs the model that the runs were fine-tuned "
                "from: give its folder as pool.base=…"
            )
        self.method: AnyMethod = next(iter(method.variants.values()))
        self.device = device or torch.device("cpu")
        self.base = base if method.needs_base else None
        self._ingredients: tuple[Checkpoint, ...] = ()
        self._folds: dict[str, _Fold] = {}
        self._fixed: dict[str, torch.Tensor] = {}
        self._warned: set[str] = set()
        self._survey_of: tuple[Checkpoint | None, Any] = (None, None)

    @property
    def ingredients(self) -> tuple[str, ...]:
        """Names of the ingredients, in the order in which they were kept."""
        return tuple(run.name for run in self._ingredients)

    def tensors(self) -> Tensors:
        """Yields the soup's weights. A soup of one is that ingredient, whatever the method."""
        if len(self._ingredients) == 1:
            yield from self._ingredients[0].tensors()
            return
        for name in self._ingredients[0].header:
            if name in self._fixed:
                yield name, self._fixed[name]
            elif isinstance(self.method, StackMethod):
                yield name, self._stacked(name, self._ingredients)
            else:
                yield name, self._folds[name].result(self.method)

    def taste(self, candidate: Checkpoint, variant: AnyMethod | None = None) -> Tensors:
        """Yields the weights that the soup would have with `candidate` in it."""
        if not self._ingredients:
            yield from candidate.tensors()
            return
        remarks = _Remarks()
        for name, x in candidate.tensors():
            if not x.is_floating_point():
                yield name, self._unmerged(name, x, candidate)
            elif isinstance(self.method, StackMethod):
                yield name, self._stacked(name, (*self._ingredients, candidate))
            else:
                fold = self._folds[name]
                origin = self._origin(name, x, candidate)
                yield name, fold.taste(x, origin, variant or self.method, remarks)
        remarks.say()

    def keep(self, ingredient: Checkpoint, variant: AnyMethod | None = None) -> None:
        """Makes `ingredient` part of the soup."""
        if self.base is not None and not self._ingredients:
            self._name_what_the_base_lacks(ingredient)
        for name, x in ingredient.tensors():
            if not x.is_floating_point():
                self._fixed[name] = self._unmerged(name, x, ingredient)
            elif not isinstance(self.method, StackMethod):
                if name not in self._folds:
                    self._folds[name] = self._start(name, x)
                self._folds[name].keep(x, self._origin(name, x, ingredient))
        self._ingredients += (ingredient,)
        self.method = variant or self.method

    def blend(self, ingredients: Sequence[Checkpoint], variant: AnyMethod | None = None) -> Tensors:
        """Yields the weights that a soup of just these `ingredients` would have.

        Where all are known beforehand this takes the memory of one tensor, not of a
        running state; the arithmetic is the same.
        """
        first = ingredients[0]
        if len(ingredients) == 1:
            yield from first.tensors()
            return
        surveys = [self._survey(run) for run in ingredients]
        remarks = _Remarks()
        for name in first.header:
            x = first.tensor(name)
            if not x.is_floating_point():
                yield name, x
            elif isinstance(self.method, StackMethod):
                yield name, self._stacked(name, tuple(ingredients))
            else:
                fold = self._start(name, x)
                tensors = [run.tensor(name) for run in ingredients]
                origins = [
                    self._origin(name, tensor, run, survey)
                    for tensor, run, survey in zip(tensors, ingredients, surveys, strict=True)
                ]
                yield name, fold.blend(tensors, origins, variant or self.method, remarks)
        remarks.say()

    def _start(self, name: str, like: torch.Tensor) -> _Fold:
        assert isinstance(self.method, MergeMethod)
        if self.base is None:
            return _Fold(self.method, like, None, self.device)
        if self._base_lacks(name, tuple(like.shape)):
            return _Fold(Linear(), like, None, self.device, instead=True)
        return _Fold(self.method, like, self.base.tensor(name), self.device)

    def _base_lacks(self, name: str, shape: tuple[int, ...]) -> bool:
        """Whether the base has no tensor of that name and shape."""
        info = self.base.header.get(name) if self.base else None
        return info is None or info.shape != shape

    def _name_what_the_base_lacks(self, run: Checkpoint) -> None:
        if lacking := [name for name, info in run.header.items() if self._base_lacks(name, info.shape)]:
            log.warning(
                "the base model lacks %d tensors of the runs, which are averaged instead: %s",
                len(lacking),
                ", ".join(lacking),
            )

    def _origin(self, name: str, x: torch.Tensor, run: Checkpoint, survey: Any = None) -> Origin:
        weight = self.method.weight(run.name)
        if self.base is not None and self._base_lacks(name, tuple(x.shape)):
            weight = max(weight, _NEXT_TO_NOTHING)
        return Origin(run, name, weight, tuple(x.shape), survey or self._survey(run))

    def _survey(self, run: Checkpoint) -> Any:
        """What the method has to know of all of the run's tensors; that of the last run is remembered."""
        if not (isinstance(self.method, MergeMethod) and self.method.surveys):
            return None
        if self._survey_of[0] is not run:
            vectors = {
                name: _Vector(x, self.base.tensor(name) if self.base else None, self.device)
                for name, x in run.tensors()
                if x.is_floating_point() and not (self.base and self._base_lacks(name, tuple(x.shape)))
            }
            self._survey_of = (run, self.method.survey(vectors))
        return self._survey_of[1]

    def _stacked(self, name: str, runs: tuple[Checkpoint, ...]) -> torch.Tensor:
        assert isinstance(self.method, StackMethod)
        tensors = [run.tensor(name) for run in runs]
        loaded = [x.to(self.device, torch.float32) for x in tensors]
        return self.method.merge(loaded, [self.method.weight(run.name) for run in runs]).to(tensors[0].dtype)

    def _unmerged(self, name: str, x: torch.Tensor, run: Checkpoint) -> torch.Tensor:
        first = self._fixed.get(name, x)
        if not torch.equal(first, x) and name not in self._warned:
            self._warned.add(name)
            log.warning(
                "%s is not floating point and differs between runs (%s has its own): the soup keeps %s's",
                name,
                run.name,
                self.ingredients[0],
            )
        return first


class _Vector:
    """A tensor, or what fine-tuning changed of it: flat, float32, computed where it is looked at."""

    def __init__(self, x: torch.Tensor, base: torch.Tensor | None, device: torch.device) -> None:
        self.device = device
        self._x = x.to(device).reshape(-1)
        self._base = None if base is None else base.to(device).reshape(-1)

    def numel(self) -> int:
        return self._x.numel()

    def __getitem__(self, part: slice) -> torch.Tensor:
        x = self._x[part]
        if self._base is None:
            return x.float()
        base = self._base[part].float()
        return torch.sub(x, base) if x.dtype == torch.float32 else x.float().sub_(base)


class _Fold:
    """One tensor's running state, driven chunk by chunk."""

    def __init__(
        self,
        method: MergeMethod,
        like: torch.Tensor,
        base: torch.Tensor | None,
        device: torch.device,
        instead: bool = False,
    ) -> None:
        """`instead`: whether `method` stands in for the soup's own."""
        self.method = method
        self._instead = instead
        self._base = base
        self._shape, self._dtype, self._device = like.shape, like.dtype, device
        self._state: Any = None

    def taste(
        self, x: torch.Tensor, origin: Origin, variant: AnyMethod, remarks: _Remarks | None = None
    ) -> torch.Tensor:
        vector, measure = self._measure(x, origin, remarks)
        merged = torch.empty(self._shape, dtype=self._dtype, device=self._device)
        for part in chunks(vector.numel(), self._device):
            folded = self.method.add(_slice(self._state, part), vector[part], measure, part.start)
            self._write_out(merged, part, folded, variant)
        return merged

    def keep(self, x: torch.Tensor, origin: Origin, remarks: _Remarks | None = None) -> None:
        if self._state is None:
            self._state = self._nothing(x.numel())
        vector, measure = self._measure(x, origin, remarks)
        state, folded = self._state, self._state
        for part in chunks(vector.numel(), self._device):
            folded = self.method.add(_slice(state, part), vector[part], measure, part.start)
            for field, new in zip(state, folded, strict=True):
                if isinstance(field, torch.Tensor):
                    field[part] = new
        # tensors were written in place; plain numbers are those of the fold
        self._state = type(state)(
            *(old if isinstance(old, torch.Tensor) else new for old, new in zip(state, folded, strict=True))
        )

    def blend(
        self,
        tensors: Sequence[torch.Tensor],
        origins: Sequence[Origin],
        variant: AnyMethod,
        remarks: _Remarks | None = None,
    ) -> torch.Tensor:
        """What keeping all of them gives. Where measures allow it, the state never leaves the cache."""
        if self.method.stepwise:
            for x, origin in zip(tensors, origins, strict=True):
                self.keep(x, origin, remarks)
            return self.result(variant)
        measured = [self._measure(x, origin, remarks) for x, origin in zip(tensors, origins, strict=True)]
        merged = torch.empty(self._shape, dtype=self._dtype, device=self._device)
        for part in chunks(merged.numel(), self._device):
            state = self._nothing(part.stop - part.start)
            for vector, measure in measured:
                state = self.method.add(state, vector[part], measure, part.start)
            self._write_out(merged, part, state, variant)
        return merged

    def result(self, variant: AnyMethod) -> torch.Tensor:
        merged = torch.empty(self._shape, dtype=self._dtype, device=self._device)
        for part in chunks(merged.numel(), self._device):
            self._write_out(merged, part, _slice(self._state, part), variant)
        return merged

    def _nothing(self, elements: int) -> Any:
        return self.method.init(torch.empty(elements, dtype=torch.float32, device=self._device))

    def _measure(self, x: torch.Tensor, origin: Origin, remarks: _Remarks | None) -> tuple[_Vector, Any]:
        vector = _Vector(x, self._base, self._device)
        measure = self.method.measure(self._state, vector, origin)
        if remarks is not None:
            remarks.add(self.method.remark(measure))
        return vector, measure

    def _write_out(self, merged: torch.Tensor, part: slice, state: Any, variant: AnyMethod) -> None:
        method = self.method if self._instead else variant
        assert isinstance(method, MergeMethod)
        values = method.result(state)
        if self._base is not None:
            values = values + self._base.view(-1)[part].to(self._device, torch.float32)
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


def _slice(state: Any, part: slice) -> Any:
    return type(state)(*(field[part] if isinstance(field, torch.Tensor) else field for field in state))
