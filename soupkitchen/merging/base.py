"""What a merge method is: a fold over ingredients, on one tensor at a time.

A method is a frozen dataclass whose fields are its options. Its state is a
NamedTuple of flat float32 tensors, one element for each element of the merged
tensor, and of plain numbers. The laws, which one test holds every method to:

1. `add` changes neither the state nor the tensor that it is given.
2. `add` and `result` cost the same however many ingredients came before.
3. The order of the ingredients does not matter, but for rounding
   (`ordered = True` opts out).
4. `add` and `result` work element by element. What a method must know of the
   whole tensor (a norm, a threshold) it takes in `measure`, which sees all of
   it once. So whoever drives a method may feed `add` any slice of a tensor.
5. Zeros added to nothing stay zeros.

A method that `needs_base` is given task vectors (what fine-tuning changed, θᵢ − θ₀)
and gives back a task vector; it never sees the base model itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch


class Ingredient(Protocol):
    """What methods may know of an ingredient."""

    @property
    def fingerprint(self) -> str:
        """The same for the same weights, whatever they are called; it may take a reading to find out."""
        ...


class Origin(NamedTuple):
    """Where a tensor comes from: the ingredient, the tensor's name, the ingredient's weight."""

    ingredient: Ingredient
    tensor: str
    weight: float


@runtime_checkable
class MergeMethod(Protocol):
    """A merge method. `State` and `Measure` are its own; nobody else looks inside."""

    @property
    def needs_base(self) -> bool:
        """Whether it works on task vectors."""
        ...

    @property
    def ordered(self) -> bool:
        """Whether the order of the ingredients matters."""
        ...

    def weight(self, ingredient: str) -> float:
        """The weight of the ingredient called `ingredient`."""
        ...

    def init(self, like: torch.Tensor) -> Any:
        """The state of a soup of nothing, for tensors like `like` (float32, flat)."""
        ...

    def measure(self, state: Any, x: torch.Tensor, origin: Origin) -> Any:
        """What `add` has to know of the whole tensor `x` (float32, its own shape)."""
        ...

    def add(self, state: Any, x: torch.Tensor, measure: Any, start: int) -> Any:
        """The state with one more ingredient.

        `x` (float32, flat) and `state` are slices that begin at element `start` of
        the whole tensor.
        """
        ...

    def result(self, state: Any) -> torch.Tensor:
        """The merged values (float32, flat, a slice like the state's)."""
        ...


@runtime_checkable
class StackMethod(Protocol):
    """A merge method that is no fold: it needs all ingredients of a tensor at once.

    Each candidate then costs a reading of all ingredients, and `merge` as many
    tensors in memory as there are ingredients.
    """

    @property
    def needs_base(self) -> bool: ...

    @property
    def ordered(self) -> bool: ...

    def weight(self, ingredient: str) -> float: ...

    def merge(self, tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
        """The merged tensor, float32, of float32 tensors of one shape."""
        ...
