"""Vectors as mixtures: coefficients of runs by part of the depth, and options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from soupkitchen.search.base import Coefficient, Mixture

_DIGITS = 6
"""Decimals of coefficients and options, so that they can be written down."""


@dataclass(frozen=True)
class Range:
    """An option's range; place 0 is the low end, 1 the high one."""

    name: str
    low: float
    high: float

    @property
    def by_ratio(self) -> bool:
        """Tells whether steps are factors, as for a scale above 0."""
        return self.name.split(".")[-1] == "scale" and self.low > 0

    def value(self, place: float) -> float:
        share = min(max(place, 0.0), 1.0)
        if self.by_ratio:
            return float(round(self.low * (self.high / self.low) ** share, _DIGITS))
        return float(round(self.low + (self.high - self.low) * share, _DIGITS))

    def place(self, value: float | None) -> float:
        """The place of a value; the middle for None."""
        if value is None:
            return 0.5
        if self.by_ratio:
            share = np.log(max(value, self.low) / self.low) / np.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return float(min(max(share, 0.0), 1.0))


@dataclass(frozen=True)
class Space:
    """Vectors, float64 (runs × parts + ranges,): each run's coefficients by part, then the options.

    Attributes:
        parts: of the model's depth.
        negative: keep coefficients below 0; else they count as 0.
    """

    runs: tuple[str, ...]
    parts: int = 1
    negative: bool = False
    ranges: tuple[Range, ...] = ()

    def place(self, mixture: Mixture, options: Mapping[str, float]) -> np.ndarray:
        """The vector of a mixture; `options` are the method's own."""
        counts = dict.fromkeys(self.runs, 0.0)
        for name, coefficient in zip(mixture.ingredients, mixture.shares, strict=True):
            assert isinstance(coefficient, (int, float)), "what a search begins at has no parts"
            counts[name] += coefficient
        told = {**options, **mixture.options}
        return np.array(
            [
                *np.repeat(list(counts.values()), self.parts),
                *(one.place(told.get(one.name)) for one in self.ranges),
            ]
        )

    @property
    def coefficients(self) -> int:
        return len(self.runs) * self.parts

    def inside(self, point: np.ndarray) -> np.ndarray:
        """The nearest vector with allowed coefficients and options.

        CMA-ES gets these: outside, many vectors are the same mixture, and the search would get lost.
        """
        counts, places = np.split(np.asarray(point), [self.coefficients])
        return np.concatenate(
            [counts if self.negative else np.maximum(counts, 0.0), np.clip(places, 0.0, 1.0)]
        )

    def mixture(self, point: np.ndarray) -> Mixture:
        """The mixture of a vector; runs with coefficient 0 are left out, but two always stay."""
        raw = np.asarray(point[: self.coefficients]).reshape(len(self.runs), self.parts)
        counts = np.round(self.inside(point)[: self.coefficients].reshape(raw.shape), _DIGITS)
        for part in np.flatnonzero(~counts.any(axis=0)):  # each part needs an ingredient
            counts[np.argmax(raw[:, part]), part] = 1.0
        most_first = np.argsort(-np.abs(counts).max(axis=1), kind="stable")
        taken = sorted(at for number, at in enumerate(most_first) if number < 2 or counts[at].any())
        coefficients: list[Coefficient] = [
            float(counts[at, 0]) if self.parts == 1 else tuple(map(float, counts[at])) for at in taken
        ]
        options = {
            one.name: one.value(place)
            for one, place in zip(self.ranges, point[self.coefficients :], strict=True)
        }
        return Mixture(tuple(self.runs[at] for at in taken), tuple(coefficients), options)

    def shown(self, mixture: Mixture) -> str:
        return ", ".join(f"{name}={value:g}" for name, value in mixture.options.items())
