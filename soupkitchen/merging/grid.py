"""Grids of options: a method that is several, between which held-out data has to choose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import product
from typing import Any, TypeVar

from soupkitchen.merging.base import Method
from soupkitchen.merging.weights import ByStep, parsed

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
