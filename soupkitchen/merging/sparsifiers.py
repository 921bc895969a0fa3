"""Sparsifiers: choose the entries of a task vector that stay, and scale them.

`plan` sees the whole tensor once; `apply` then works on any slice of it.

- `Magnitude`, TIES: the largest stay. Yadav et al. 2023, arXiv 2306.01708
- `Random`, DARE: random ones stay, scaled up. Yu et al. 2024, arXiv 2311.03099
- `MagnitudeOutliers`, Breadcrumbs: neither the largest nor the smallest stay. Davari and Belilovsky 2023,
  arXiv 2312.06795
- `RankRandom`, DELLA: random ones stay, large ones more likely. Deep et al. 2024, arXiv 2406.11617
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import torch

from soupkitchen.errors import ConfigError
from soupkitchen.merging.base import Origin, Vector
from soupkitchen.merging.chunks import chunks, widest
from soupkitchen.merging.noise import attainable, key_of, survivors, uniform
from soupkitchen.merging.selection import Largest, ascending, largest
from soupkitchen.options import check_fields
from soupkitchen.options.kinds import Fraction, Share

_GROUP = "method.sparsifier"

Rescale = Literal["probability", "l1"]


class Sparsifier:
    """The contract of sparsifiers. A plan is private to its sparsifier."""

    surveys = False
    """True if `survey` has to see all tensors of an ingredient first."""

    large_plans = False
    """True if a plan is as large as the tensor."""

    def survey(self, vectors: Mapping[str, Vector]) -> Any:
        return None

    def plan(self, x: Vector, origin: Origin) -> Any:
        """Plans `apply` from one tensor's whole task vector `x`."""
        raise NotImplementedError

    def apply(self, x: torch.Tensor, plan: Any, start: int) -> torch.Tensor:
        """The sparse values of `x` (float32, flat, a slice from element `start`), without `factor`."""
        raise NotImplementedError

    def factor(self, plan: Any) -> float:
        """The factor of results of `apply`; a sum multiplies by it at no cost."""
        return 1.0


class Keep(Sparsifier):
    """Keeps everything."""

    def plan(self, x: Vector, origin: Origin) -> None:
        return None

    def apply(self, x: torch.Tensor, plan: None, start: int) -> torch.Tensor:
        return x


class Trimmed(NamedTuple):
    """The `largest` entries of a whole model, its tensors end to end, and each tensor's start."""

    largest: Largest
    offsets: Mapping[str, int]


@dataclass(frozen=True)
class Magnitude(Sparsifier):
    """Keeps the `density` share of largest magnitude, at least one entry.

    Attributes:
        trim: "tensor" for that share of each tensor, as mergekit; "model" for that of the whole task vector,
            as the paper: tensors that changed little then lose more.
    """

    density: Share
    trim: Literal["tensor", "model"] = "tensor"

    def __post_init__(self) -> None:
        check_fields(self, _GROUP)

    @property
    def surveys(self) -> bool:  # type: ignore[override]
        return self.trim == "model"

    def survey(self, vectors: Mapping[str, Vector]) -> Trimmed:
        chain = _Chain(vectors)
        return Trimmed(self._largest(chain), dict(zip(chain.vectors, chain.starts, strict=False)))

    def plan(self, x: Vector, origin: Origin) -> Largest:
        if origin.survey is None:
            return self._largest(x)
        return origin.survey.largest.after(origin.survey.offsets[origin.tensor])

    def apply(self, x: torch.Tensor, plan: Largest, start: int) -> torch.Tensor:
        return plan.keep(x, start)

    def _largest(self, x: Vector) -> Largest:
        return largest(x, max(1, int(self.density * x.numel())))


class _Chain:
    """Vectors end to end in the order of their names, without copies."""

    def __init__(self, vectors: Mapping[str, Vector]) -> None:
        self.vectors = dict(sorted(vectors.items()))
        self.starts = [0, *accumulate(vector.numel() for vector in self.vectors.values())]
        self.device = next(iter(self.vectors.values())).device
        self._list = list(self.vectors.values())

    def numel(self) -> int:
        return self.starts[-1]

    def __getitem__(self, part: slice) -> torch.Tensor:
        start, stop, step = part.indices(self.numel())
        pieces = []
        index = bisect_right(self.starts, start) - 1
        while start < stop:
            begin, end = self.starts[index], min(self.starts[index + 1], stop)
            if start < end:
                pieces.append(self._list[index][start - begin : end - begin : step])
                start += step * pieces[-1].numel()
            index += 1
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


class Outliers(NamedTuple):
    dropped: Largest
    kept: Largest


@dataclass(frozen=True)
class MagnitudeOutliers(Sparsifier):
    """Drops the `gamma` share of largest magnitude, then the smallest until the `density` share is left."""

    density: Share
    gamma: Fraction

    def __post_init__(self) -> None:
        check_fields(self, _GROUP)
        if not 0 <= self.gamma <= 1 - self.density:
            raise ConfigError(
                f"method.sparsifier.gamma={self.gamma} should lie between 0 and 1 - density "
                f"({1 - self.density:g})"
            )

    def plan(self, x: Vector, origin: Origin) -> Outliers:
        top, kept = int(self.gamma * x.numel()), int(self.density * x.numel())
        return Outliers(largest(x, top), largest(x, top + kept))

    def apply(self, x: torch.Tensor, plan: Outliers, start: int) -> torch.Tensor:
        return plan.kept.keep(x, start) - plan.dropped.keep(x, start)


class Draw(NamedTuple):
    key: int
    scale: float


@dataclass(frozen=True)
class Random(Sparsifier):
    """Keeps each entry with probability `density`; drop rate p = 1 − density.

    Attributes:
        density: rounded to a multiple of 2⁻¹⁶.
        rescale: "probability" divides survivors by density, as the paper; "l1" restores the sum of
            magnitudes, as mergekit; None does neither.
    """

    density: Share
    rescale: Rescale | None = "probability"
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self, _GROUP)

    def plan(self, x: Vector, origin: Origin) -> Draw:
        key = key_of(self.seed, origin.ingredient.fingerprint, origin.tensor)
        if self.rescale == "l1":
            return Draw(key, restoring(x, lambda part, start: self.apply(part, Draw(key, 1.0), start)))
        return Draw(key, 1 / attainable(self.density) if self.rescale == "probability" else 1.0)

    def apply(self, x: torch.Tensor, plan: Draw, start: int) -> torch.Tensor:
        survives = survivors(plan.key, start, x.numel(), self.density, x.device)
        return survives.mul_(x)

    def factor(self, plan: Draw) -> float:
        return plan.scale


class RankDraw(NamedTuple):
    key: int
    scale: float
    probability: torch.Tensor


@dataclass(frozen=True)
class RankRandom(Sparsifier):
    """Keeps entries with a probability that grows with the rank of their magnitude in their row.

    The probability is (density − ε) + 2ε·(rank − 1)/(n − 1), and density in a row of one. A vector is one
    row.

    Attributes:
        epsilon: ε, half the spread of probabilities.
        rescale: as for `Random`, but each survivor is divided by its own probability.
    """

    density: Share
    epsilon: Fraction
    rescale: Rescale | None = "probability"
    seed: int = 0

    large_plans = True

    def __post_init__(self) -> None:
        check_fields(self, _GROUP)
        if not (0 <= self.epsilon < self.density and self.density + self.epsilon <= 1):
            raise ConfigError(
                f"method.sparsifier.epsilon={self.epsilon} should leave density ± epsilon between 0 and 1 "
                f"(density is {self.density})"
            )

    def plan(self, x: Vector, origin: Origin) -> RankDraw:
        key = key_of(self.seed, origin.ingredient.fingerprint, origin.tensor)
        width = math.prod(origin.shape[1:] if len(origin.shape) > 1 else origin.shape)
        probability = self._probability(x, width)
        draw = RankDraw(key, 1.0, probability)
        if self.rescale == "l1":
            draw = draw._replace(scale=restoring(x, lambda part, start: self.apply(part, draw, start)))
        return draw

    def apply(self, x: torch.Tensor, plan: RankDraw, start: int) -> torch.Tensor:
        probability = plan.probability[start : start + x.numel()]
        survivors = x * (uniform(plan.key, start, x.numel(), x.device) < probability)
        return survivors / probability if self.rescale == "probability" else survivors

    def factor(self, plan: RankDraw) -> float:
        return plan.scale

    def _probability(self, x: Vector, width: int) -> torch.Tensor:
        """The probability of each element, in rows of `width`: float32, flat."""
        if width < 2:
            return torch.full((x.numel(),), self.density, device=x.device)
        step = 2 * self.epsilon / (width - 1)
        ladder = torch.arange(width, dtype=torch.float32, device=x.device) * step
        ladder += self.density - self.epsilon
        probability = torch.empty(x.numel(), device=x.device)
        for part in chunks(x.numel(), x.device, whole=width):
            order = ascending(x[part].abs().reshape(-1, width))
            probability[part].view(-1, width).scatter_(1, order, ladder.expand_as(order))
        return probability


def restoring(x: Vector, sparse: Callable[[torch.Tensor, int], torch.Tensor]) -> float:
    """‖x‖₁ / ‖sparse x‖₁; 1 if nothing is left."""
    sums = torch.zeros(2, dtype=widest(x.device), device=x.device)
    for chunk in chunks(x.numel(), x.device):
        part = x[chunk]
        left = sparse(part, chunk.start)
        sums += torch.stack([one.abs().sum(dtype=sums.dtype) for one in (part, left)])
    before, after = sums.tolist()
    return before / after if after else 1.0
