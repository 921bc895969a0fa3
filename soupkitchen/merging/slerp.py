"""Spherical linear interpolation: along the arc between two weight vectors, not the chord.

With a the soup, b the candidate, and cos φ = ⟨a, b⟩ / (‖a‖‖b‖) over the flattened tensor: [sin((1−t)φ)·a +
sin(tφ)·b] / sin φ. If |cos φ| > 0.9995 or a norm is zero: (1−t)·a + t·b, equal up to rounding.

Shoemake 1985, "Animating Rotation with Quaternion Curves", SIGGRAPH.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch

from soupkitchen.merging.base import MergeMethod, Origin, Vector
from soupkitchen.merging.chunks import gram
from soupkitchen.options.kinds import Fraction

COLINEAR = 0.9995


class SlerpState(NamedTuple):
    soup: torch.Tensor
    weight: float


class SlerpMeasure(NamedTuple):
    of_soup: float
    of_candidate: float
    weight: float
    chord: bool


@dataclass(frozen=True)
class Slerp(MergeMethod):
    """Interpolates the candidate into the soup. The order of ingredients matters.

    Attributes:
        t: how far to go towards the candidate, 0 to 1; None for its share of the weight.
        space: whole weights of fine-tunes of one model are nearly colinear, so slerp is a plain average, and
            the log says so; "task_vectors" are not.
    """

    t: Fraction | None = None
    space: Literal["weights", "task_vectors"] = "weights"

    ordered = True
    stepwise = True
    keeps_equal = True

    @property
    def needs_base(self) -> bool:  # type: ignore[override]
        return self.space == "task_vectors"

    def init(self, like: torch.Tensor) -> SlerpState:
        return SlerpState(torch.zeros_like(like), 0.0)

    def measure(self, state: SlerpState, x: Vector, origin: Origin) -> SlerpMeasure:
        if state.weight == 0:
            return SlerpMeasure(0.0, 1.0, origin.weight, chord=False)
        t = origin.weight / (state.weight + origin.weight) if self.t is None else self.t
        (a, inner), (_, b) = gram([state.soup, x], x.device)
        norms = math.sqrt(a) * math.sqrt(b)
        cosine = inner / norms if norms else 1.0
        if abs(cosine) > COLINEAR:
            return SlerpMeasure(1 - t, t, origin.weight, chord=True)
        angle = math.acos(cosine)
        of_soup, of_candidate = (math.sin(share * angle) / math.sin(angle) for share in (1 - t, t))
        return SlerpMeasure(of_soup, of_candidate, origin.weight, chord=False)

    def add(self, state: SlerpState, x: torch.Tensor, measure: SlerpMeasure, start: int) -> SlerpState:
        if measure.chord:
            return SlerpState(torch.lerp(state.soup, x, measure.of_candidate), state.weight + measure.weight)
        soup = torch.add(state.soup * measure.of_soup, x, alpha=measure.of_candidate)
        return SlerpState(soup, state.weight + measure.weight)

    def result(self, state: SlerpState) -> torch.Tensor:
        return state.soup

    def remark(self, measure: SlerpMeasure) -> str | None:
        return "the arc was a plain chord" if measure.chord else None
