"""Spherical linear interpolation: along the arc between two weight vectors, not the chord.

With a the soup so far, b the candidate, cos φ = ⟨a, b⟩ / (‖a‖‖b‖) over the flattened
tensor: [sin((1−t)φ)·a + sin(tφ)·b] / sin φ. Where |cos φ| > 0.9995, or one of the two
is zero, the arc is the chord to within rounding: (1−t)·a + t·b.

Shoemake 1985, "Animating Rotation with Quaternion Curves", SIGGRAPH.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from soupkitchen.errors import ConfigError
from soupkitchen.merging.base import Origin
from soupkitchen.merging.geometry import dot, norm
from soupkitchen.merging.weights import Weights, check_weights, weight_of

COLINEAR = 0.9995


class SlerpState(NamedTuple):
    soup: torch.Tensor
    weight: float


class SlerpMeasure(NamedTuple):
    of_soup: float
    of_candidate: float
    weight: float


@dataclass(frozen=True)
class Slerp:
    """Interpolates the candidate into the soup. Not symmetric: later ingredients see an older soup.

    Attributes:
        t: how far to go towards the candidate, 0 to 1; None for the candidate's share
            of the weight, so that equal weights give 1/k.
        space: "weights" for whole weights; "task_vectors" for what fine-tuning
            changed. Whole weights of fine-tunes of one model are nearly colinear, so
            that slerp between them is a plain average; task vectors are not.
        weights: weight by name of run; 1 for a run that is not named.

    Raises:
        ConfigError: for a `t` outside 0 to 1, or a weight that is not a positive number.
    """

    t: float | None = None
    space: Literal["weights", "task_vectors"] = "weights"
    weights: Weights | None = None

    ordered = True

    def __post_init__(self) -> None:
        check_weights(self.weights, negative=False)
        if self.t is not None and not 0 <= self.t <= 1:
            raise ConfigError(f"method.t={self.t} should lie between 0 and 1")
        if self.space not in ("weights", "task_vectors"):
            raise ConfigError(f"method.space={self.space}: choose weights or task_vectors")

    @property
    def needs_base(self) -> bool:
        return self.space == "task_vectors"

    def weight(self, ingredient: str) -> float:
        return weight_of(self.weights, ingredient)

    def init(self, like: torch.Tensor) -> SlerpState:
        return SlerpState(torch.zeros_like(like), 0.0)

    def measure(self, state: SlerpState, x: torch.Tensor, origin: Origin) -> SlerpMeasure:
        if state.weight == 0:
            return SlerpMeasure(0.0, 1.0, origin.weight)
        t = origin.weight / (state.weight + origin.weight) if self.t is None else self.t
        norms = norm(state.soup) * norm(x)
        cosine = dot(state.soup, x) / norms if norms else 1.0
        if abs(cosine) > COLINEAR:
            return SlerpMeasure(1 - t, t, origin.weight)
        angle = math.acos(cosine)
        return SlerpMeasure(
            math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle), origin.weight
        )

    def add(self, state: SlerpState, x: torch.Tensor, measure: SlerpMeasure, start: int) -> SlerpState:
        soup = torch.add(state.soup * measure.of_soup, x, alpha=measure.of_candidate)
        return SlerpState(soup, state.weight + measure.weight)

    def result(self, state: SlerpState) -> torch.Tensor:
        return state.soup
