"""The contract of merge methods: a fold over ingredients, one tensor at a time.

A method is a frozen dataclass of options. Its state is a NamedTuple of plain numbers and of flat tensors,
float32 or smaller, with one element for each of the merged tensor. A dtype may change when an ingredient is
added. One test holds every method to these laws:

1. `add` changes neither the state nor the tensor. (`add_` may change the state; the result is the same.)
2. `add` and `result` cost the same for any number of earlier ingredients.
3. The order of ingredients changes nothing beyond rounding, unless `ordered = True`.
4. `add` and `result` work element by element, so they may get any slice. Facts of the whole tensor (a norm, a
   threshold) come from `measure`.
5. Zeros added to an empty state give zeros.

A method that `needs_base` gets task vectors (δᵢ = θᵢ − θ₀) and returns one; it never sees the base.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, TypeVar

import torch

from soupkitchen.merging.weights import ByScore, ByStep, Weights, check_weights, parsed, softmax
from soupkitchen.options import check_fields
from soupkitchen.options.kinds import AtLeast0

if TYPE_CHECKING:
    from typing_extensions import Self


class Ingredient(Protocol):
    @property
    def fingerprint(self) -> str:
        """Equal for equal weights; may read the files."""
        ...


class Vector(Protocol):
    """A flat float32 tensor, read by slices: `x[:]` is all of it.

    Slices may come from files, so a method that does not look costs nothing.
    """

    @property
    def device(self) -> torch.device: ...

    def numel(self) -> int: ...

    def __getitem__(self, part: slice, /) -> torch.Tensor: ...


class Origin(NamedTuple):
    """The ingredient and name of a tensor.

    Attributes:
        survey: the result of the method's `survey`.
        plan: the result of the method's `plan`; None if not made yet.
    """

    ingredient: Ingredient
    tensor: str
    weight: float
    shape: tuple[int, ...]
    survey: Any = None
    plan: Any = None


@dataclass(frozen=True, kw_only=True)
class Method:
    """The base of all methods.

    Attributes:
        weights: by name of run, 1 by default; or `ByScore`, `ByStep`.
        recalibrate_batchnorm: training batches on which batch-norm statistics are recomputed; 0 to average
            them, which often hurts.

    Raises:
        ConfigError: if an option is out of range.
    """

    weights: Weights | None = None
    recalibrate_batchnorm: AtLeast0 = 0

    needs_base = False
    """True if it merges task vectors."""
    ordered = False
    """True if the order of ingredients matters."""
    negative_weights = False
    """True if a run may be subtracted."""
    weighs = True
    """True if ingredients may have different weights."""
    late: ClassVar[tuple[str, ...]] = ()
    """Options that only `result` uses: methods that differ just in these share a running state."""
    keeps_untouched = True
    """True if a tensor that all runs, and the base if needed, have in common stays as it is."""
    keeps_equal = False
    """True if a tensor that all runs have in common stays as it is for positive weights, whatever the base
    has; it is then not merged.
    """

    def __post_init__(self) -> None:
        check_fields(self, "method")
        check_weights(self.weights, negative=self.negative_weights)

    def weight(self, ingredient: str) -> float:
        """The weight of the ingredient with this name."""
        weights = parsed(self.weights)
        assert not isinstance(weights, (ByScore, ByStep)), "they have to be resolved first"
        by_name = {str(name): weight for name, weight in (weights or {}).items()}  # a run may have the name 1
        return float(by_name.get(ingredient, 1.0))

    def with_scores(self, scores: Mapping[str, float]) -> Self:
        """The method with weights by score, if any, made numbers; `scores` are higher better."""
        weights = parsed(self.weights)
        if not isinstance(weights, ByScore):
            return self
        return replace(self, weights=softmax(scores, weights.temperature))


class MergeMethod(Method):
    """A merge method that is a fold. State and measure are private to it."""

    surveys = False
    """True if `survey` has to see all tensors of an ingredient first."""

    stepwise = False
    """True if `measure` uses the state, or is as large as the tensor."""

    def survey(self, vectors: Mapping[str, Vector]) -> Any:
        """Surveys all of an ingredient's tensors, by name, for `measure`."""
        return None

    def plan(self, x: Vector, origin: Origin) -> Any:
        """Computes the part of `measure` that depends on neither state nor weight.

        Unless the method is `stepwise`, it may be kept and passed again in `origin`.
        """
        return None

    def init(self, like: torch.Tensor) -> Any:
        """The empty state for tensors like `like` (float32, flat)."""
        raise NotImplementedError

    def measure(self, state: Any, x: Vector, origin: Origin) -> Any:
        """Measures the whole tensor `x` for `add`."""
        raise NotImplementedError

    def add(self, state: Any, x: torch.Tensor, measure: Any, start: int) -> Any:
        """The state with one more ingredient.

        `x` (float32, flat) and `state` are slices from element `start` of the whole tensor.
        """
        raise NotImplementedError

    def add_(self, state: Any, x: torch.Tensor, measure: Any, start: int) -> Any:
        """As `add`, but may write to the state's tensors and return them."""
        return self.add(state, x, measure, start)

    def result(self, state: Any) -> torch.Tensor:
        """The merged values (float32, flat, a slice like the state's)."""
        raise NotImplementedError

    def remark(self, measure: Any) -> str | None:
        """A remark on one tensor; the log counts equal ones."""
        return None


class StackMethod(Method):
    """A merge method that is no fold: it needs all ingredients of a tensor at once.

    Each candidate costs a reading of all ingredients.
    """

    def merge(self, tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
        """The merged tensor, float32, of float32 tensors of one shape."""
        raise NotImplementedError


M = TypeVar("M", bound=Method)


def alternatives(method: M) -> Mapping[str, M]:
    """The methods of a grid, by their names in tables; without a grid, just `method`.

    A grid is a list of values of a `late` option, so that all cost one merge; or of decays of weights by
    step.
    """
    grids: dict[str, Sequence[Any]] = {}
    weights = parsed(method.weights)
    if isinstance(weights, ByStep) and _is_list(weights.decay):
        grids["decay"] = weights.decay
    grids |= {name: values for name in method.late if _is_list(values := getattr(method, name))}
    chosen = [dict(zip(grids, values, strict=True)) for values in product(*grids.values())]
    return {_label(one): _with(method, one) if one else method for one in chosen}


def _with(method: M, options: Mapping[str, Any]) -> M:
    late = {name: value for name, value in options.items() if name != "decay"}
    if "decay" in options:
        weights = {**(method.weights or {}), "decay": options["decay"]}
        if options["decay"] != "ema":
            weights.pop("alpha", None)
        late["weights"] = weights
    return replace(method, **late)


def _label(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={v if isinstance(v, str) else f'{v:g}'}" for name, v in options.items())


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
