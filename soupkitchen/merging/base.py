"""The contract of merge methods: a fold over ingredients, on one tensor at a time.

A method is a frozen dataclass whose fields are its options. Its state is a
NamedTuple of flat tensors, float32 or smaller, one element for each element of the
merged tensor, and of plain numbers. A dtype may change when an ingredient is added.
The laws, which one test holds every method to:

1. `add` changes neither the state nor the tensor that it is given. (`add_` may change the
   state, and gives the same.)
2. `add` and `result` cost the same however many ingredients came before.
3. The order of the ingredients does not matter, but for rounding
   (`ordered = True` opts out).
4. `add` and `result` work element by element. What a method must know of the
   whole tensor (a norm, a threshold) it takes in `measure`, which may see all of
   it. So `add` may be given any slice of a tensor.
5. Zeros added to nothing stay zeros.

A method that `needs_base` is given task vectors (what fine-tuning changed, θᵢ − θ₀)
and gives back a task vector; it never sees the base model itself.
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
    """The facts that methods may know of an ingredient."""

    @property
    def fingerprint(self) -> str:
        """The same for the same weights, whatever they are called; it may take a reading to find out."""
        ...


class Vector(Protocol):
    """All elements of a tensor, flat, of which slices can be had: `x[:]` is the whole in float32.

    A flat float32 tensor is one. What a soup gives to methods reads its slices from
    the files, so a method that does not look costs nothing.
    """

    @property
    def device(self) -> torch.device: ...

    def numel(self) -> int: ...

    def __getitem__(self, part: slice, /) -> torch.Tensor: ...


class Origin(NamedTuple):
    """The ingredient and the name of a tensor.

    Attributes:
        ingredient: the run.
        tensor: the tensor's name.
        weight: the ingredient's weight.
        shape: the tensor's.
        survey: what the method's own `survey` found of the whole ingredient.
        plan: what the method's own `plan` found of the tensor; None where it was not asked before.
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
        weights: weight by name of run, 1 for a run that is not named; or `ByScore`, `ByStep`.
        recalibrate_batchnorm: training batches on which the running statistics of batch
            norm are computed anew for merged weights, as averaging them is known to hurt;
            0 to average them.

    Raises:
        ConfigError: for options out of range.
    """

    weights: Weights | None = None
    recalibrate_batchnorm: AtLeast0 = 0

    needs_base = False
    """Tells whether it works on task vectors."""
    ordered = False
    """Tells whether the order of the ingredients matters."""
    negative_weights = False
    """Tells whether a run may be subtracted."""
    weighs = True
    """Tells whether ingredients may weigh differently."""
    late: ClassVar[tuple[str, ...]] = ()
    """Options that `result` alone looks at: methods that differ in nothing else share a running state."""
    keeps_untouched = True
    """Tells whether a tensor stays as it is if all runs, and the base if needed, have the same."""
    keeps_equal = False
    """Tells whether a tensor that is the same in all runs, whatever the base has, stays so if all weigh more
    than 0: it is then not merged."""

    def __post_init__(self) -> None:
        check_fields(self, "method")
        check_weights(self.weights, negative=self.negative_weights)

    def weight(self, ingredient: str) -> float:
        """The weight of the ingredient called `ingredient`."""
        weights = parsed(self.weights)
        assert not isinstance(weights, (ByScore, ByStep)), "they have to be resolved first"
        by_name = {str(name): weight for name, weight in (weights or {}).items()}  # a run may be called 1
        return float(by_name.get(ingredient, 1.0))

    def with_scores(self, scores: Mapping[str, float]) -> Self:
        """The method with weights by score, if it has such, made numbers; `scores` are higher better."""
        weights = parsed(self.weights)
        if not isinstance(weights, ByScore):
            return self
        return replace(self, weights=softmax(scores, weights.temperature))


class MergeMethod(Method):
    """A merge method that is a fold. Its state and its measure are its own; nobody else looks inside."""

    surveys = False
    """Tells whether it has to see all tensors of an ingredient before it adds the first."""

    stepwise = False
    """Tells whether `measure` looks at the state, or gives something as large as the tensor."""

    def survey(self, vectors: Mapping[str, Vector]) -> Any:
        """Surveys all of an ingredient's tensors, by name, for `measure`."""
        return None

    def plan(self, x: Vector, origin: Origin) -> Any:
        """Prepares `measure`: all about `x` that depends on neither the state nor the weight.

        Where it is much smaller than the tensor (the method is not `stepwise`) it may be found once and
        given to `measure` in `origin` time and again.
        """
        return None

    def init(self, like: torch.Tensor) -> Any:
        """The state of a soup of nothing, for tensors like `like` (float32, flat)."""
        raise NotImplementedError

    def measure(self, state: Any, x: Vector, origin: Origin) -> Any:
        """Measures the whole tensor `x` for `add`."""
        raise NotImplementedError

    def add(self, state: Any, x: torch.Tensor, measure: Any, start: int) -> Any:
        """The state with one more ingredient.

        `x` (float32, flat) and `state` are slices that begin at element `start` of
        the whole tensor.
        """
        raise NotImplementedError

    def add_(self, state: Any, x: torch.Tensor, measure: Any, start: int) -> Any:
        """The same, where the state is not needed any more: its tensors may be written to and returned."""
        return self.add(state, x, measure, start)

    def result(self, state: Any) -> torch.Tensor:
        """The merged values (float32, flat, a slice like the state's)."""
        raise NotImplementedError

    def remark(self, measure: Any) -> str | None:
        """A remark on one tensor, which the log counts over the tensors of a merge."""
        return None


class StackMethod(Method):
    """A merge method that is no fold: it needs all ingredients of a tensor at once.

    Each candidate then costs a reading of all ingredients, and `merge` as many
    tensors in memory as there are ingredients.
    """

    def merge(self, tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
        """The merged tensor, float32, of float32 tensors of one shape."""
        raise NotImplementedError


M = TypeVar("M", bound=Method)


def alternatives(method: M) -> Mapping[str, M]:
    """The methods that `method` stands for, by how tables call them: itself, or one for each of a grid.

    A grid is a list of values of an option that `result` alone looks at (`late`), so that trying
    them all costs one merge and as many evaluations; or of decays of weights by training step.
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
