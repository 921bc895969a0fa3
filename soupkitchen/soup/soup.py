"""A soup: a merge method applied to whole checkpoints, tensor by tensor.

*Taste* a candidate to get the soup's weights with it; nothing changes. *Keep* it to make it an ingredient.

A candidate costs the same in a large soup: the soup is a running state of a few float32 values for each
parameter, and the candidate is folded in while it is read. (A `StackMethod` reads all ingredients again.)
Tensors that no ingredient changed have no state.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from soupkitchen.checkpoints.checkpoint import Checkpoint
from soupkitchen.checkpoints.weights import Tensors
from soupkitchen.errors import ConfigError
from soupkitchen.merging import Linear, MergeMethod, Origin, StackMethod
from soupkitchen.merging.chunks import keep_freed_memory
from soupkitchen.search.base import Coefficient
from soupkitchen.soup.coefficients import by_tensor
from soupkitchen.soup.fold import AnyMethod, Fold, LazyChange, Operand, Plans, Remarks
from soupkitchen.soup.memory import StateMemory
from soupkitchen.soup.reader import TensorReader

log = logging.getLogger(__name__)

DtypeOf = Callable[[str], torch.dtype | None]
"""The dtype by tensor name; None for that of the files."""

_NEXT_TO_NOTHING = 1e-30
"""The weight of a subtracted run in averaged tensors: it counts only without others."""


class Portion(NamedTuple):
    run: Checkpoint
    weight: Callable[[str], float]


class Share(NamedTuple):
    """A run, and its nonzero weight in one tensor."""

    run: Checkpoint
    weight: float


class Soup:
    """Ingredients merged by one method; empty at first.

    Merged tensors have `dtype`, by default the first ingredient's. Tensors that are not floating point are
    the first ingredient's; a warning names those that differ.

    A run's weight, by default the method's, is one number, or one for each part of the model's depth (see
    `coefficients`). With weight 0 a run takes no part in a tensor; ConfigError if all have 0. `method` may be
    replaced if only `late` options differ.

    Args:
        base: the pretrained model, for methods on task vectors. If it lacks a tensor or its shape differs (a
            new head), `Linear` averages the runs' with the same weights, if positive.
        dtype: may be a function of the tensor's name.
        memory: for states; by default on the device.
        warned: earlier warnings; soups may share it.
        surveys, plans: the method's; soups of one method may share them.

    Raises:
        ConfigError: if the method needs a base and there is none.
    """

    def __init__(
        self,
        method: AnyMethod,
        device: torch.device | None = None,
        base: Checkpoint | None = None,
        dtype: torch.dtype | DtypeOf | None = None,
        memory: StateMemory | None = None,
        warned: set[str] | None = None,
        surveys: dict[Checkpoint, Any] | None = None,
        reader: TensorReader | None = None,
        plans: Plans | None = None,
    ) -> None:
        if method.needs_base and base is None:
            raise ConfigError(
                "this method merges task vectors, so it needs the model that the runs were fine-tuned "
                "from: give its folder as pool.base=…"
            )
        self.method: AnyMethod = method
        self.device = device or torch.device("cpu")
        self.base = base if method.needs_base else None
        self.dtype_of = _by_name(dtype)
        self._memory = memory or StateMemory(self.device)
        self._ingredients: tuple[Portion, ...] = ()
        self._folds: dict[str, Fold] = {}
        self._fixed: dict[str, torch.Tensor] = {}
        self._warned = set() if warned is None else warned
        self._surveys = {} if surveys is None else surveys
        self._reader = reader or TensorReader(self.device)
        self._plans = plans
        self._differing: set[str] = set()  # tensors that are not bitwise equal in all ingredients
        keep_freed_memory()

    def forget(self) -> None:
        self._folds.clear()
        self._fixed.clear()

    @property
    def ingredients(self) -> tuple[str, ...]:
        return tuple(portion.run.name for portion in self._ingredients)

    def tensors(self) -> Tensors:
        """Yields the soup's weights; a soup of one is that run."""
        return self._merged(self._ingredients, self._ingredients[0].run)

    def taste(self, candidate: Checkpoint, weight: Coefficient | None = None) -> Tensors:
        """Yields the soup's weights with `candidate` in it."""
        portion = self._portion(candidate, weight)
        return self._merged((*self._ingredients, portion), candidate, candidate=portion)

    def blend(
        self, ingredients: Sequence[Checkpoint], weights: Sequence[Coefficient] | None = None
    ) -> Tensors:
        """Yields the weights of a soup of just these runs, in the memory of one tensor."""
        each: Sequence[Coefficient | None] = weights or [None] * len(ingredients)
        portions = [self._portion(run, weight) for run, weight in zip(ingredients, each, strict=True)]
        return self._merged(portions, ingredients[0], running=False)

    def keep(self, ingredient: Checkpoint, weight: Coefficient | None = None) -> None:
        if not self._ingredients:
            self._name_what_the_base_lacks(ingredient)
        portion = self._portion(ingredient, weight)
        together = (*self._ingredients, portion)
        for name, info in ingredient.header.items():
            if not portion.weight(name):
                continue
            if not info.is_floating_point:
                self._fixed[name] = self._unmerged(name, ingredient)
                continue
            shares = self._shares(name, together)
            if name not in self._differing and not _are_equal(name, shares, self._reader):
                self._differing.add(name)
            if not (isinstance(self.method, StackMethod) or self._untouched(name, shares)):
                started = name in self._folds
                if not started:
                    self._folds[name] = self._start(name, shares[0].run, self._memory)
                for share in shares[-1:] if started else shares:
                    self._folds[name].keep(self._operand(name, share), [])
        self._ingredients = together

    def _merged(
        self,
        portions: Sequence[Portion],
        like: Checkpoint,
        candidate: Portion | None = None,
        running: bool = True,
    ) -> Tensors:
        """Yields the merge of `portions`, tensors in the order of `like`.

        Args:
            candidate: the last portion, if the running state has only the others.
            running: use the running state.
        """
        if len(portions) == 1:
            yield from in_dtype(self._reader.tensors(portions[0].run), self.dtype_of)
            return
        if not running:
            self._name_what_the_base_lacks(like)
        if candidate or not running:
            self._warn_of_fixed([portion.run for portion in portions])
        folds = self._folds if running else {}
        remarks: Remarks = []
        kept = candidate is None and running  # then `_differing` says which are equal
        for name, info in like.header.items():
            shares = self._shares(name, portions)
            if not info.is_floating_point:
                yield name, self._unmerged(name, shares[0].run) if running else shares[0].run.tensor(name)
            elif self._untouched(name, shares) or (
                self._keeps_equal(shares)
                and not (running and name in self._differing)
                and (kept or _are_equal(name, shares, self._reader))
            ):
                tensor, dtype = self._reader.tensor(shares[0].run, name), self.dtype_of(name)
                yield name, tensor if dtype is None else tensor.to(dtype)
            elif isinstance(self.method, StackMethod):
                yield name, self._stacked(name, shares)
            elif name not in folds:  # a candidate may be the first to change it
                operands = [self._operand(name, share) for share in shares]
                yield name, self._start(name, shares[0].run).blend(operands, self.method, remarks)
            elif candidate and candidate.weight(name):
                yield name, folds[name].taste(self._operand(name, shares[-1]), self.method, remarks)
            else:
                yield name, folds[name].result(self.method)
        for remark, count in Counter(filter(None, remarks)).items():
            log.info("%s in %d of %d tensors", remark, count, len(remarks))

    def _portion(self, run: Checkpoint, weight: Coefficient | None) -> Portion:
        return Portion(run, by_tensor(self.method.weight(run.name) if weight is None else weight, run.header))

    def _shares(self, name: str, portions: Sequence[Portion]) -> list[Share]:
        """The runs with weight in the tensor `name`; ConfigError if there are none."""
        shares = [Share(run, weight) for run, weight_in in portions if (weight := weight_in(name))]
        if not shares:
            raise ConfigError(
                f"the weight of all of {_some([run.name for run, _ in portions])} is 0 in {name}: give one "
                "of them another there"
            )
        return shares

    def _untouched(self, name: str, shares: Sequence[Share]) -> bool:
        """Tells whether the tensor is the base's in all runs and in the merge."""
        return self.method.keeps_untouched and all(one.run.weights.leaves(name) for one in shares)

    def _keeps_equal(self, shares: Sequence[Share]) -> bool:
        return self.method.keeps_equal and all(share.weight > 0 for share in shares)

    def _start(self, name: str, like: Checkpoint, memory: StateMemory | None = None) -> Fold:
        assert isinstance(self.method, MergeMethod)
        shape, dtype = like.header[name].shape, self.dtype_of(name) or like.header[name].torch_dtype
        assert dtype is not None
        memory = memory or StateMemory(self.device)
        if self.base is None:
            return Fold(self.method, shape, dtype, None, memory)
        if self._base_lacks(name, shape):
            return Fold(Linear(), shape, dtype, None, memory, instead=True)
        return Fold(self.method, shape, dtype, self._reader.exact(self.base, name), memory)

    def _base_lacks(self, name: str, shape: tuple[int, ...]) -> bool:
        info = self.base.header.get(name) if self.base else None
        return info is None or info.shape != shape

    def _name_what_the_base_lacks(self, run: Checkpoint) -> None:
        if self.base is None:
            return
        if lacking := [name for name, info in run.header.items() if self._base_lacks(name, info.shape)]:
            self._warn(
                f"the base model lacks {len(lacking)} tensors of the runs, which are averaged instead: "
                f"{_some(lacking)}"
            )

    def _operand(self, name: str, share: Share) -> Operand:
        (run, weight), shape, change = share, share.run.header[name].shape, None
        if self.base is not None and self._base_lacks(name, shape):
            weight = max(weight, _NEXT_TO_NOTHING)
        elif self.base is not None:
            change = self._reader.change(run, name)
        origin = Origin(run, name, weight, shape, self._survey(run))
        if change is not None:
            return Operand(change, origin, relative=True, plans=self._plans)
        return Operand(self._reader.exact(run, name), origin, plans=self._plans)

    def _survey(self, run: Checkpoint) -> Any:
        if not (isinstance(self.method, MergeMethod) and self.method.surveys):
            return None
        if run not in self._surveys:
            vectors = {
                name: LazyChange(run, name, self.base, self._reader)
                for name, info in run.header.items()
                if info.is_floating_point and not (self.base and self._base_lacks(name, info.shape))
            }
            self._surveys[run] = self.method.survey(vectors)
        return self._surveys[run]

    def _stacked(self, name: str, shares: Sequence[Share]) -> torch.Tensor:
        assert isinstance(self.method, StackMethod)
        exact = [self._reader.exact(share.run, name) for share in shares]
        loaded = [tensor.to(self.device, torch.float32) for tensor in exact]
        merged = self.method.merge(loaded, [share.weight for share in shares])
        return merged.to(self.dtype_of(name) or shares[0].run.header[name].torch_dtype)

    def _unmerged(self, name: str, run: Checkpoint) -> torch.Tensor:
        return self._fixed.get(name, run.tensor(name))

    def _warn_of_fixed(self, runs: Sequence[Checkpoint]) -> None:
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


def in_dtype(tensors: Tensors, dtype: torch.dtype | DtypeOf | None) -> Tensors:
    dtype_of = _by_name(dtype)
    for name, tensor in tensors:
        wanted = dtype_of(name) if tensor.is_floating_point() else None
        yield name, tensor if wanted is None else tensor.to(wanted)


def _are_equal(name: str, shares: Sequence[Share], reader: TensorReader) -> bool:
    """Tells whether the tensor is bitwise equal in all runs; False for adapters, whose tensors are
    computed.
    """
    first, *others = (share.run for share in shares)
    if any(run.adapted is not None for run in (first, *others)):
        return False
    tensor = reader.peek(first, name)
    return all(
        run.header[name].dtype == first.header[name].dtype
        and torch.equal(reader.peek(run, name).to(tensor.device), tensor)
        for run in others
    )


def _by_name(dtype: torch.dtype | DtypeOf | None) -> DtypeOf:
    return (lambda name: dtype) if dtype is None or isinstance(dtype, torch.dtype) else dtype
