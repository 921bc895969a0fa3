"""Merges task vectors: sparsifier × consensus × normalisation × scale.

Of the task vectors δᵢ = θᵢ − θ₀ a sparsifier leaves δ̂ᵢ, a consensus combines these (see `consensus`), and
the result is multiplied by λ. Task arithmetic, TIES, DARE, Breadcrumbs and DELLA have this form.

Ilharco et al. 2023, "Editing models with task arithmetic", arXiv 2212.04089.
Yadav et al. 2023, "TIES-Merging", arXiv 2306.01708.
Yu et al. 2024, "Language models are Super Mario" (DARE), arXiv 2311.03099.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from soupkitchen.merging.base import MergeMethod, Origin, Vector
from soupkitchen.merging.consensus import Consensus, Count, Mass, Sum
from soupkitchen.merging.sparsifiers import Keep, Magnitude, Sparsifier
from soupkitchen.options.kinds import Scales

_CONSENSUS: Mapping[str | None, Callable[[bool], Consensus]] = {None: Sum, "mass": Mass, "count": Count}


class Measured(NamedTuple):
    weight: float
    plan: Any
    factor: float


@dataclass(frozen=True)
class TaskVectors(MergeMethod):
    """The family of task arithmetic, TIES, DARE, Breadcrumbs and DELLA.

    Attributes:
        sparsifier: None to keep all entries.
        consensus: "mass" or "count" to elect signs, or None.
        normalize: divide by the weights.
        scale: λ; a list is a grid, from which held-out data chooses (see `alternatives`).
    """

    sparsifier: Sparsifier | None = None
    consensus: Literal["mass", "count"] | None = None
    normalize: bool = False
    scale: Scales = 1.0

    needs_base = True
    negative_weights = True
    late = ("scale",)

    @property
    def keeps_equal(self) -> bool:  # type: ignore[override]
        whole = self.sparsifier is None or self.sparsifier == Magnitude(density=1.0)
        return whole and self.normalize and self.scale == 1

    @property
    def surveys(self) -> bool:  # type: ignore[override]
        return self._sparsifier.surveys

    @property
    def stepwise(self) -> bool:  # type: ignore[override]
        return self._sparsifier.large_plans

    def survey(self, vectors: Mapping[str, Vector]) -> Any:
        return self._sparsifier.survey(vectors)

    def init(self, like: torch.Tensor) -> Any:
        return self._consensus.init(like)

    def plan(self, x: Vector, origin: Origin) -> Any:
        return self._sparsifier.plan(x, origin)

    def measure(self, state: Any, x: Vector, origin: Origin) -> Measured:
        plan = self.plan(x, origin) if origin.plan is None else origin.plan
        return Measured(origin.weight, plan, self._sparsifier.factor(plan))

    def add(self, state: Any, x: torch.Tensor, measure: Measured, start: int, out: Any = None) -> Any:
        sparse = self._sparsifier.apply(x, measure.plan, start)
        return self._consensus.add(state, sparse, measure.weight, measure.factor, out)

    def add_(self, state: Any, x: torch.Tensor, measure: Measured, start: int) -> Any:
        return self.add(state, x, measure, start, out=state)

    def result(self, state: Any) -> torch.Tensor:
        assert not isinstance(self.scale, Sequence), "one of the alternatives has to be chosen first"
        merged = self._consensus.merged(state)
        return merged if self.scale == 1 else merged * self.scale

    @property
    def _sparsifier(self) -> Sparsifier:
        return self.sparsifier or Keep()

    @property
    def _consensus(self) -> Consensus:
        return _CONSENSUS[self.consensus](self.normalize)
