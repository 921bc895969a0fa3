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
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from soupkitchen.checkpoints.reader import Checkpoint, Tensors
from soupkitchen.errors import ConfigError
from soupkitchen.merging import Linear, MergeMethod, Origin, StackMethod

log = logging.getLogger(__name__)

CPU_CHUNK = 1 << 16
"""Elements folded at once on a CPU: temporaries that stay in its cache cost next to nothing."""

AnyMethod = MergeMethod | StackMethod


class Soup:
    """Ingredients merged by one method, starting from nothing.

    The dtype of each merged tensor is that of the first ingredient's. Tensors
    that are not floating point (integer buffers) are the first ingredient's;
    where another's differ, a warning names them.

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
        self.method = method
        self.device = device or torch.device("cpu")
        self.base = base if method.needs_base else None
        self._ingredients: tuple[Checkpoint, ...] = ()
        self._folds: dict[str, _Fold] = {}
        self._fixed: dict[str, torch.Tensor] = {}
        self._warned: set[str] = set()

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
                yield name, self._folds[name].result()

    def taste(self, candidate: Checkpoint) -> Tensors:
        """Yields the weights that the soup would have with `candidate` in it."""
        if not self._ingredients:
            yield from candidate.tensors()
            return
        for name, x in candidate.tensors():
            if not x.is_floating_point():
                yield name, self._unmerged(name, x, candidate)
            elif isinstance(self.method, StackMethod):
                yield name, self._stacked(name, (*self._ingredients, candidate))
            else:
                yield name, self._folds[name].taste(x, self._origin(name, candidate))

    def keep(self, ingredient: Checkpoint) -> None:
        """Makes `ingredient` part of the soup."""
        if self.base is not None and not self._ingredients:
            self._name_what_the_base_lacks(ingredient)
        for name, x in ingredient.tensors():
            if not x.is_floating_point():
                self._fixed[name] = self._unmerged(name, x, ingredient)
            elif not isinstance(self.method, StackMethod):
                if name not in self._folds:
                    self._folds[name] = self._start(name, x, self.method)
                self._folds[name].keep(x, self._origin(name, ingredient))
        self._ingredients += (ingredient,)

    def blend(self, ingredients: Sequence[Checkpoint]) -> Tensors:
        """Yields the weights that a soup of just these `ingredients` would have.

        Where all are known beforehand this takes the memory of one tensor, not of a
        running state; the arithmetic is the same.
        """
        first = ingredients[0]
        if len(ingredients) == 1:
            yield from first.tensors()
            return
        for name, x in first.tensors():
            if not x.is_floating_point():
                yield name, x
            elif isinstance(self.method, StackMethod):
                yield name, self._stacked(name, tuple(ingredients))
            else:
                fold = self._start(name, x, self.method)
                for run in ingredients:
                    fold.keep(run.tensor(name), self._origin(name, run, fold))
                yield name, fold.result()

    def _start(self, name: str, x: torch.Tensor, method: MergeMethod) -> _Fold:
        if self.base is None:
            return _Fold(method, x, None, self.device)
        if self._base_lacks(name, tuple(x.shape)):
            return _Fold(Linear(), x, None, self.device)
        return _Fold(method, x, self.base.tensor(name), self.device)

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

    def _origin(self, name: str, run: Checkpoint, fold: _Fold | None = None) -> Origin:
        fold = fold or self._folds[name]
        weight = self.method.weight(run.name)
        if self.base is not None and fold.base is None:
            weight = max(weight, 0.0)
        return Origin(run, name, weight)

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


class _Fold:
    """One tensor's running state, driven chunk by chunk."""

    def __init__(
        self, method: MergeMethod, like: torch.Tensor, base: torch.Tensor | None, device: torch.device
    ) -> None:
        self.method = method
        self.base = base
        self._shape, self._dtype, self._device = like.shape, like.dtype, device
        self._state = method.init(torch.empty(like.numel(), dtype=torch.float32, device=device))

    def taste(self, x: torch.Tensor, origin: Origin) -> torch.Tensor:
        vector = self._load(x)
        measure = self.method.measure(self._state, vector, origin)
        merged = torch.empty(self._shape, dtype=self._dtype, device=self._device)
        for part in self._chunks():
            folded = self.method.add(_slice(self._state, part), vector.view(-1)[part], measure, part.start)
            self._write_out(merged, part, folded)
        return merged

    def keep(self, x: torch.Tensor, origin: Origin) -> None:
        vector = self._load(x)
        state, folded = self._state, self._state
        measure = self.method.measure(state, vector, origin)
        for part in self._chunks():
            folded = self.method.add(_slice(state, part), vector.view(-1)[part], measure, part.start)
            for field, new in zip(state, folded, strict=True):
                if isinstance(field, torch.Tensor):
                    field[part] = new
        # tensors were written in place; plain numbers are those of the fold
        self._state = type(state)(
            *(old if isinstance(old, torch.Tensor) else new for old, new in zip(state, folded, strict=True))
        )

    def result(self) -> torch.Tensor:
        merged = torch.empty(self._shape, dtype=self._dtype, device=self._device)
        for part in self._chunks():
            self._write_out(merged, part, _slice(self._state, part))
        return merged

    def _load(self, x: torch.Tensor) -> torch.Tensor:
        """The tensor, or what fine-tuning changed of it, in float32 on the device."""
        vector = x.to(self._device, torch.float32)
        if self.base is None:
            return vector
        return torch.sub(vector, self.base.to(self._device, torch.float32))

    def _write_out(self, merged: torch.Tensor, part: slice, state: Any) -> None:
        values = self.method.result(state)
        if self.base is not None:
            values = values + self.base.view(-1)[part].to(self._device, torch.float32)
        merged.view(-1)[part] = values.to(self._dtype)

    def _chunks(self) -> Iterator[slice]:
        elements = self._shape.numel()
        size = CPU_CHUNK if self._device.type == "cpu" else max(elements, 1)
        for start in range(0, elements, size):
            yield slice(start, min(start + size, elements))


def _slice(state: Any, part: slice) -> Any:
    return type(state)(*(field[part] if isinstance(field, torch.Tensor) else field for field in state))
