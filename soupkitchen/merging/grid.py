"""Grids of options: a method that is several, between which held-out data has to choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import TypeVar

from soupkitchen.merging.base import Method

M = TypeVar("M", bound=Method)


def alternatives(method: M) -> Mapping[str, M]:
    """The methods that `method` stands for, by how tables call them: itself, or one for each of a grid.

    A grid is a list of values of an option that `result` alone looks at (`late`), so that trying
    them all costs one merge and as many evaluations.
    """
    grids = {name: values for name in method.late if _is_list(values := getattr(method, name))}
    chosen = [dict(zip(grids, values, strict=True)) for values in product(*grids.values())]
    return {_label(one): replace(method, **one) if one else method for one in chosen}


def _label(options: Mapping[str, float]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in options.items())


def _is_list(value: object) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
