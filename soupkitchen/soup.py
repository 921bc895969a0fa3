"""A soup: a merge method applied to whole checkpoints, tensor by tensor.

*Taste* a candidate to get the weights that the soup would have with it; nothing
changes. *Keep* it to make it an ingredient. To discard a candidate is to do
nothing: there is no rollback.

The cost of a candidate does not grow with the soup: the soup is a running state
(a few float32 values for each parameter), and a candidate is folded into it
while it is read from its files.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import torch

from soupkitchen.checkpoints.reader import Checkpoint, Tensors
from soupkitchen.merging.base import MergeMethod, Origin

log = logging.getLogger(__name__)

CPU_CHUNK = 1 << 16
"""Elements folded at once on a CPU: temporaries that stay in its cache cost next to nothing."""


class Soup:
    """Ingredients merged by one method, starting from nothing.

    The dtype of each merged tensor is that of the first ingredient's. Tensors
    that are not floating point (integer buffers) are the first ingredient's;
    where another's differ, a warning names them.
    """

    def __init__(self, method: MergeMethod, device: torch.device | None = None) -> None:
        self.method = method
        self.device = device or torch.device("cpu")
        self._ingredients: tuple[Checkpoint, ...] = ()
        self._states: dict[str, Any] = {}
        self._fixed: dict[str, torch.Tensor] = {}
        self._dtypes: dict[str, torch.dtype] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
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
        for name, state in self._states.items():
            yield name, self._read_out(name, state)
        yield from self._fixed.items()

    def taste(self, candidate: Checkpoint) -> Tensors:
        """Yields the weights that the soup would have with `candidate` in it."""
        if not self._ingredients:
            yield from candidate.tensors()
            return
        for name, x in candidate.tensors():
            if not x.is_floating_point():
                yield name, self._unmerged(name, x, candidate)
                continue
            state = self._states[name]
            measure = self._measure(state, name, x, candidate)
            merged = torch.empty(self._shapes[name], dtype=self._dtypes[name], device=self.device)
            for part in self._chunks(x):
                folded = self.method.add(_slice(state, part), self._load(x, part), measure)
                merged.view(-1)[part] = self.method.result(folded).to(merged.dtype)
            yield name, merged

    def keep(self, ingredient: Checkpoint) -> None:
        """Makes `ingredient` part of the soup."""
        if not self._ingredients:
            self._shapes = {name: info.shape for name, info in ingredient.header.items()}
        states = {}
        for name, x in ingredient.tensors():
            if not x.is_floating_point():
                self._fixed[name] = self._unmerged(name, x, ingredient)
                continue
            if name not in self._states:
                self._dtypes[name] = x.dtype
                like = torch.empty(x.numel(), dtype=torch.float32, device=self.device)
                self._states[name] = self.method.init(like)
            state = self._states[name]
            measure = self._measure(state, name, x, ingredient)
            folded = state
            for part in self._chunks(x):
                folded = self.method.add(_slice(state, part), self._load(x, part), measure)
                _write(state, part, folded)
            states[name] = _with_numbers_of(state, folded)
        self._states.update(states)
        self._ingredients += (ingredient,)

    def _measure(self, state: Any, name: str, x: torch.Tensor, run: Checkpoint) -> Any:
        origin = Origin(run.name, name, self.method.weight(run.name))
        return self.method.measure(state, x, origin)

    def _read_out(self, name: str, state: Any) -> torch.Tensor:
        merged = torch.empty(self._shapes[name], dtype=self._dtypes[name], device=self.device)
        for part in self._chunks(merged):
            merged.view(-1)[part] = self.method.result(_slice(state, part)).to(merged.dtype)
        return merged

    def _unmerged(self, name: str, x: torch.Tensor, run: Checkpoint) -> torch.Tensor:
        first = self._fixed.get(name, x)
        if name not in self._warned and not torch.equal(first, x):
            self._warned.add(name)
            log.warning(
                "%s is not floating point and differs between runs (%s has its own): the soup keeps %s's",
                name,
                run.name,
                self.ingredients[0],
            )
        return first

    def _chunks(self, x: torch.Tensor) -> Iterator[slice]:
        size = CPU_CHUNK if self.device.type == "cpu" else max(x.numel(), 1)
        for start in range(0, x.numel(), size):
            yield slice(start, start + size)

    def _load(self, x: torch.Tensor, part: slice) -> torch.Tensor:
        return x.view(-1)[part].to(self.device, torch.float32)


def _slice(state: Any, part: slice) -> Any:
    return type(state)(*(f[part] if isinstance(f, torch.Tensor) else f for f in state))


def _write(state: Any, part: slice, folded: Any) -> None:
    for field, new in zip(state, folded, strict=True):
        if isinstance(field, torch.Tensor):
            field[part] = new


def _with_numbers_of(state: Any, folded: Any) -> Any:
    """`state`, whose tensors are written in place, with the plain numbers that the fold has now."""
    return type(state)(
        *(old if isinstance(old, torch.Tensor) else new for old, new in zip(state, folded, strict=True))
    )
