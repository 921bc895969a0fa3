"""What a merge method is: a fold over ingredients, on one tensor at a time.

A method is a frozen dataclass whose fields are its options. Its state is a
NamedTuple of flat float32 tensors, one element for each element of the merged
tensor, and of plain numbers. The laws, which one test holds every method to:

1. `add` changes neither the state nor the tensor that it is given.
2. `add` and `result` cost the same however many ingredients came before.
3. The order of the ingredients does not matter, but for rounding.
4. `add` and `result` work element by element. What a method must know of the
   whole tensor (a norm, a threshold) it takes in `measure`, which sees all of
   it once. So whoever drives a method may feed `add` any slice of a tensor.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch


class Origin(NamedTuple):
    """Where a tensor comes from: the ingredient, the tensor's name, the ingredient's weight."""

    ingredient: str
    tensor: str
    weight: float


class MergeMethod(Protocol):
    """A merge method. `State` and `Measure` are its own; nobody else looks inside."""

    def weight(self, ingredient: str) -> float:
        """The weight of the ingredient called `ingredient`."""
        ...

    def init(self, like: torch.Tensor) -> Any:
        """The state of a soup of nothing, for tensors like `like` (float32, flat)."""
        ...

    def measure(self, state: Any, x: torch.Tensor, origin: Origin) -> Any:
        """What `add` has to know of the whole tensor `x` (any dtype, its own shape)."""
        ...

    def add(self, state: Any, x: torch.Tensor, measure: Any) -> Any:
        """The state with one more ingredient; `x` float32, flat, a slice like the state's."""
        ...

    def result(self, state: Any) -> torch.Tensor:
        """The merged values (float32, flat, a slice like the state's)."""
        ...
