"""The laws of merge methods, and each method against its formula in float64."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import hydra
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from soupkitchen import resources
from soupkitchen.errors import ConfigError
from soupkitchen.merging import Linear, MergeMethod, Origin

METHODS = sorted(file.stem for file in (resources.folder("conf") / "method").glob("*.yaml"))


def method_called(name: str) -> MergeMethod:
    file = resources.folder("conf") / "method" / f"{name}.yaml"
    return hydra.utils.instantiate(OmegaConf.load(file), _convert_="all")


def merge(method: MergeMethod, tensors: list[torch.Tensor]) -> torch.Tensor:
    state = method.init(tensors[0].reshape(-1))
    for index, x in enumerate(tensors):
        origin = Origin(f"run{index}", "tensor", method.weight(f"run{index}"))
        state = method.add(state, x.reshape(-1), method.measure(state, x, origin))
    return method.result(state).reshape(tensors[0].shape)


def random_tensors(number: int, *shape: int) -> list[torch.Tensor]:
    return list(torch.randn(number, *shape, generator=torch.Generator().manual_seed(number)))


def snapshot(state: Any) -> list[Any]:
    return [field.clone() if isinstance(field, torch.Tensor) else field for field in state]


def equal(one: Any, other: Any) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one, other, strict=True)
    )


@pytest.mark.parametrize("name", METHODS)
def test_add_changes_neither_state_nor_tensor(name: str) -> None:
    method, (x, y) = method_called(name), random_tensors(2, 50)
    origin = Origin("run", "tensor", 1.0)
    first = method.add(method.init(x), x, method.measure(method.init(x), x, origin))
    before, y_before = snapshot(first), y.clone()
    method.result(method.add(first, y, method.measure(first, y, origin)))
    assert equal(snapshot(first), before)
    assert torch.equal(y, y_before)


@pytest.mark.parametrize("name", METHODS)
def test_the_state_does_not_grow(name: str) -> None:
    method, tensors = method_called(name), random_tensors(9, 50)

    def size(number: int) -> int:
        state = method.init(tensors[0])
        for x in tensors[:number]:
            state = method.add(state, x, method.measure(state, x, Origin("run", "tensor", 1.0)))
        return sum(field.nbytes for field in state if isinstance(field, torch.Tensor))

    assert size(1) == size(2) == size(9)


@pytest.mark.parametrize("name", METHODS)
def test_order_does_not_matter_but_for_rounding(name: str) -> None:
    method, tensors = method_called(name), random_tensors(6, 7, 8)
    torch.testing.assert_close(merge(method, tensors), merge(method, tensors[::-1]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", METHODS)
def test_a_slice_is_merged_as_the_whole_is(name: str) -> None:
    method, tensors = method_called(name), random_tensors(4, 64)
    states = [method.init(tensors[0])]
    measures = []
    for x in tensors:
        measures.append(method.measure(states[-1], x, Origin("run", "tensor", 1.0)))
        states.append(method.add(states[-1], x, measures[-1]))
    part = slice(10, 37)
    state = method.init(tensors[0][part])
    for x, measure in zip(tensors, measures, strict=True):
        state = method.add(state, x[part], measure)
    assert torch.equal(method.result(state), method.result(states[-1])[part])


@given(
    st.lists(st.tuples(st.integers(0, 2**32 - 1), st.floats(0.01, 100)), min_size=1, max_size=8),
    st.lists(st.integers(1, 9), min_size=0, max_size=3),
    st.booleans(),
    st.floats(-6, 6),
)
def test_linear_is_the_weighted_mean(
    ingredients: list[tuple[int, float]], shape: list[int], normalize: bool, exponent: float
) -> None:
    weights = {f"run{i}": weight for i, (_, weight) in enumerate(ingredients)}
    arrays = [np.random.default_rng(seed).normal(size=shape) * 10**exponent for seed, _ in ingredients]
    tensors = [torch.tensor(array, dtype=torch.float32) for array in arrays]
    expected = sum(w * t.numpy().astype(np.float64) for w, t in zip(weights.values(), tensors, strict=True))
    largest = sum(
        w * np.abs(t.numpy().astype(np.float64)) for w, t in zip(weights.values(), tensors, strict=True)
    )
    if normalize:
        expected, largest = expected / sum(weights.values()), largest / sum(weights.values())
    merged = merge(Linear(normalize=normalize, weights=weights), tensors).numpy()
    assert np.linalg.norm(merged - expected) <= 1e-6 * np.linalg.norm(largest)


@pytest.mark.parametrize("copies", range(1, 9))
def test_copies_of_one_ingredient_are_that_ingredient(copies: int) -> None:
    x = random_tensors(1, 100)[0]
    torch.testing.assert_close(merge(Linear(), [x] * copies), x, rtol=3e-7, atol=0)


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf, "heavy", None])
def test_a_weight_that_is_no_positive_number_is_refused(weight: Any) -> None:
    with pytest.raises(ConfigError, match=r"method\.weights\.a"):
        Linear(weights={"a": weight})


def test_every_method_has_its_yaml_and_says_where_it_comes_from() -> None:
    folder = resources.folder("conf") / "method"
    modules = {file.stem for file in (Path(resources.__file__).parent / "merging").glob("[!_]*.py")} - {
        "base"
    }
    targets = {OmegaConf.load(folder / f"{name}.yaml")._target_ for name in METHODS}
    assert modules <= {target.rsplit(".", 1)[-1].lower() for target in targets}
    for name in METHODS:
        assert (folder / f"{name}.yaml").read_text().startswith("#")
