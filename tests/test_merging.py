"""The laws of merge methods, and each method against its formula in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import hydra
import naive
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from soupkitchen.errors import ConfigError
from soupkitchen.merging import (
    Karcher,
    Linear,
    Magnitude,
    MagnitudeOutliers,
    MergeMethod,
    ModelStock,
    Origin,
    Random,
    RankRandom,
    Slerp,
    StackMethod,
    TaskVectors,
    alternatives,
)
from soupkitchen.merging.noise import key_of, survivors, uniform
from soupkitchen.merging.selection import ascending, largest
from soupkitchen.options import files

METHODS = sorted(file.stem for file in (files.folder("conf") / "method").glob("*.yaml"))


def method_called(name: str) -> Any:
    file = files.folder("conf") / "method" / f"{name}.yaml"
    return hydra.utils.instantiate(OmegaConf.load(file), _convert_="all")


FOLDS = [name for name in METHODS if isinstance(method_called(name), MergeMethod)]


@dataclass(frozen=True)
class Run:
    fingerprint: str


def origin(index: int, weight: float = 1.0, shape: tuple[int, ...] = (50,)) -> Origin:
    return Origin(Run(f"run{index}"), "tensor", weight, shape)


def fold(method: Any, tensors: list[torch.Tensor], weights: list[float]) -> Any:
    state = method.init(tensors[0].reshape(-1))
    for index, (x, weight) in enumerate(zip(tensors, weights, strict=True)):
        measure = method.measure(state, x.reshape(-1), origin(index, weight, tuple(x.shape)))
        state = method.add(state, x.reshape(-1), measure, 0)
    return state


def merge(method: Any, tensors: list[torch.Tensor], weights: list[float] | None = None) -> torch.Tensor:
    weights = weights or [1.0] * len(tensors)
    if isinstance(method, StackMethod):
        return method.merge(tensors, weights)
    return method.result(fold(method, tensors, weights)).reshape(tensors[0].shape)


def random_tensors(number: int, *shape: int) -> list[torch.Tensor]:
    return list(torch.randn(number, *shape, generator=torch.Generator().manual_seed(number)))


def snapshot(state: Any) -> list[Any]:
    return [field.clone() if isinstance(field, torch.Tensor) else field for field in state]


def equal(one: Any, other: Any) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b for a, b in zip(one, other, strict=True)
    )


def part_of(values: Any, part: slice) -> Any:
    return type(values)(*(v[part] if isinstance(v, torch.Tensor) else v for v in values))


def assert_near(merged: torch.Tensor, expected: np.ndarray, scale: np.ndarray | None = None) -> None:
    """Relative error below 1e-6 of the expected tensor (or of what it was summed from)."""
    reference = np.linalg.norm(expected if scale is None else scale)
    assert np.linalg.norm(merged.double().numpy() - expected) <= 1e-6 * reference + 1e-30


# The laws


@pytest.mark.parametrize("name", FOLDS)
def test_add_changes_neither_state_nor_tensor(name):
    method, (x, y) = method_called(name), random_tensors(2, 50)
    first = fold(method, [x], [1.0])
    before, y_before = snapshot(first), y.clone()
    method.result(method.add(first, y, method.measure(first, y, origin(1)), 0))
    assert equal(snapshot(first), before)
    assert torch.equal(y, y_before)


@pytest.mark.parametrize("name", FOLDS)
def test_adding_in_place_gives_the_same_to_the_last_bit(name):
    method, (x, y) = method_called(name), random_tensors(2, 50)
    first = fold(method, [x], [1.0])
    measure, y_before = method.measure(first, y, origin(1)), y.clone()
    expected = snapshot(method.add(first, y, measure, 0))
    assert equal(snapshot(method.add_(first, y, measure, 0)), expected)
    assert torch.equal(y, y_before)


@pytest.mark.parametrize("consensus", [None, "mass", "count"])
@pytest.mark.parametrize("normalize", [False, True])
def test_task_vectors_are_added_in_place_without_new_memory(consensus, normalize):
    method, (x, y) = TaskVectors(consensus=consensus, normalize=normalize), random_tensors(2, 50)
    state = fold(method, [x], [1.0])
    added = method.add_(state, y, method.measure(state, y, origin(1)), 0)
    assert all(new is old for new, old in zip(added, state, strict=True) if isinstance(old, torch.Tensor))


@pytest.mark.parametrize("name", FOLDS)
def test_the_state_does_not_grow(name):
    method, tensors = method_called(name), random_tensors(9, 50)

    def size(number: int) -> int:
        state = fold(method, tensors[:number], [1.0] * number)
        return sum(field.nbytes for field in state if isinstance(field, torch.Tensor))

    assert size(1) == size(2) == size(9)


@pytest.mark.parametrize("name", METHODS)
def test_order_does_not_matter_but_for_rounding_unless_a_method_says_so(name):
    method, tensors = method_called(name), random_tensors(6, 7, 8)
    if isinstance(method, StackMethod):
        one, other = merge(method, tensors), merge(method, tensors[::-1])
    else:
        one, other = (
            method.result(method_fold).reshape(7, 8)
            for method_fold in (fold(method, tensors, [1.0] * 6), reversed_fold(method, tensors))
        )
    near = torch.allclose(one, other, rtol=1e-4, atol=1e-5)
    assert near != method.ordered


def reversed_fold(method: Any, tensors: list[torch.Tensor]) -> Any:
    """Folds from the last ingredient to the first, each keeping its own identity."""
    state = method.init(tensors[0].reshape(-1))
    for index in reversed(range(len(tensors))):
        x = tensors[index]
        state = method.add(
            state, x.reshape(-1), method.measure(state, x.reshape(-1), origin(index, 1.0, tuple(x.shape))), 0
        )
    return state


@pytest.mark.parametrize("name", FOLDS)
def test_a_slice_is_merged_as_the_whole_is(name):
    method, tensors, part = method_called(name), random_tensors(4, 64), slice(10, 37)
    whole = method.init(tensors[0])
    sliced = part_of(whole, part)
    for index, x in enumerate(tensors):
        measure = method.measure(whole, x, origin(index, 1.0, tuple(x.shape)))
        sliced = method.add(sliced, x[part], measure, part.start)
        whole = method.add(whole, x, measure, 0)
    assert torch.equal(method.result(sliced), method.result(whole)[part])


@pytest.mark.parametrize("name", METHODS)
def test_zeros_stay_zeros(name):
    zeros = [torch.zeros(4, 5)] * 3
    assert torch.equal(merge(method_called(name), zeros), zeros[0])


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (0,), (3, 0)])
@pytest.mark.parametrize("name", METHODS)
def test_small_and_empty_tensors_are_merged_too(name, shape):
    merged = merge(method_called(name), [torch.ones(shape)] * 2)
    assert merged.shape == shape
    assert torch.isfinite(merged).all()


@pytest.mark.parametrize("name", ["linear", "slerp", "task_arithmetic", "model_stock", "karcher"])
def test_a_soup_of_one_ingredient_is_that_ingredient(name):
    (x,) = random_tensors(1, 5, 6)
    torch.testing.assert_close(merge(method_called(name), [x]), x, rtol=1e-6, atol=0)


@pytest.mark.parametrize("copies", [2, 3, 8])
@pytest.mark.parametrize("name", ["linear", "slerp", "model_stock", "karcher"])
def test_copies_of_one_ingredient_are_that_ingredient(name, copies):
    x = random_tensors(1, 100)[0]
    torch.testing.assert_close(merge(method_called(name), [x] * copies), x, rtol=2e-6, atol=1e-6)


# The formulas

ingredients = st.lists(st.tuples(st.integers(0, 2**32 - 1), st.floats(0.01, 100)), min_size=1, max_size=8)
shapes = st.lists(st.integers(1, 9), min_size=0, max_size=3)


def draw(pairs: list[tuple[int, float]], shape: list[int]):
    """float32 tensors, the same in float64, and their weights."""
    tensors = [
        torch.tensor(np.random.default_rng(seed).normal(size=shape), dtype=torch.float32) for seed, _ in pairs
    ]
    return tensors, [x.double().numpy() for x in tensors], [weight for _, weight in pairs]


def magnitude_of(arrays: list[np.ndarray], weights: list[float], normalize: bool) -> np.ndarray:
    return naive.linear([np.abs(x) for x in arrays], weights, normalize)


@given(ingredients, shapes, st.booleans())
def test_linear(pairs, shape, normalize):
    tensors, arrays, weights = draw(pairs, shape)
    expected = naive.linear(arrays, weights, normalize)
    merged = merge(Linear(normalize=normalize), tensors, weights)
    assert_near(merged, expected, magnitude_of(arrays, weights, normalize))


@given(ingredients, shapes, st.none() | st.floats(0, 1))
def test_slerp(pairs, shape, t):
    tensors, arrays, weights = draw(pairs, shape)
    norms = [np.linalg.norm(x) for x in arrays]
    soup = naive.slerp(arrays, weights, t)
    merged = merge(Slerp(t=t), tensors, weights)
    # nearly opposite vectors divide by a sine near zero: no two precisions agree there
    if np.linalg.norm(soup) > 2 * max(norms) or np.linalg.norm(soup) < 0.2 * min(norms):
        return
    assert np.linalg.norm(merged.double().numpy() - soup) <= 2e-5 * np.linalg.norm(soup)


def test_slerp_with_a_zero_vector_is_an_average():
    a = torch.tensor([2.0, 4.0])
    torch.testing.assert_close(merge(Slerp(), [a, torch.zeros(2)]), a / 2)


@given(ingredients, shapes, st.booleans(), st.floats(-2, 2))
def test_task_arithmetic(pairs, shape, normalize, scale):
    tensors, arrays, weights = draw(pairs, shape)
    expected = scale * naive.linear(arrays, weights, normalize)
    merged = merge(TaskVectors(normalize=normalize, scale=scale), tensors, weights)
    assert_near(merged, expected, scale * magnitude_of(arrays, weights, normalize))


@given(ingredients, shapes, st.floats(0.05, 1), st.sampled_from(["mass", "count"]), st.booleans())
def test_ties(pairs, shape, density, elect, normalize):
    tensors, arrays, weights = draw(pairs, shape)
    trimmed = [naive.trim(x, density) for x in arrays]
    # where the votes cancel to rounding, either sign is right: leave such entries out
    vote = naive.linear(trimmed, weights, normalize=False)
    clear = np.abs(vote) > 1e-5 * magnitude_of(trimmed, weights, normalize=False) if elect == "mass" else True
    clear |= magnitude_of(trimmed, weights, normalize=False) == 0
    expected = naive.consensus(trimmed, weights, elect, normalize)
    method = TaskVectors(Magnitude(density), elect, normalize, scale=0.5)
    merged = merge(method, tensors, weights).double().numpy()
    assert np.linalg.norm((merged - 0.5 * expected)[()] * clear) <= 1e-6 * np.linalg.norm(expected) + 1e-30


@given(st.integers(0, 2**32 - 1), shapes, st.floats(0.1, 1), st.floats(0, 1))
def test_breadcrumbs(seed, shape, density, share):
    gamma = share * (1 - density)
    (tensor,), (array,), _ = draw([(seed, 1.0)], shape)
    merged = merge(TaskVectors(MagnitudeOutliers(density, gamma)), [tensor])
    assert_near(merged, naive.outliers(array, density, gamma))


@given(ingredients, shapes, st.floats(0.1, 1), st.booleans())
def test_dare_given_its_masks(pairs, shape, density, ties):
    tensors, arrays, weights = draw(pairs, shape)
    dropped = []
    for index, array in enumerate(arrays):
        key = key_of(7, f"run{index}", "tensor")
        mask = survivors(key, 0, array.size, density, torch.device("cpu"))
        dropped.append(array * mask.numpy().reshape(array.shape) / (max(round(density * 65536), 1) / 65536))
    method = TaskVectors(Random(density, seed=7), "mass" if ties else None, normalize=True)
    merged = merge(method, tensors, weights)
    if ties:
        expected = naive.consensus(dropped, weights)
        vote = naive.linear(dropped, weights, normalize=False)
        sizes = magnitude_of(dropped, weights, normalize=False)
        clear = (np.abs(vote) > 1e-5 * sizes) | (sizes == 0)
        difference = (merged.double().numpy() - expected)[()] * clear
        assert np.linalg.norm(difference) <= 2e-6 * np.linalg.norm(expected) + 1e-30
    else:
        assert_near(merged, naive.linear(dropped, weights), magnitude_of(dropped, weights, True) * 2)


@given(st.integers(0, 2**32 - 1), shapes, st.floats(0.2, 0.8), st.floats(0, 0.19))
def test_della_given_its_masks(seed, shape, density, epsilon):
    (tensor,), (array,), _ = draw([(seed, 1.0)], shape)
    chances = naive.probabilities(array, density, epsilon)
    numbers = uniform(key_of(0, "run0", "tensor"), 0, array.size, torch.device("cpu")).numpy()
    numbers = numbers.reshape(array.shape)
    clear = np.abs(numbers - chances) > 1e-6
    expected = np.where(numbers < chances, array / chances, 0.0)
    merged = merge(TaskVectors(RankRandom(density, epsilon)), [tensor]).double().numpy()
    assert np.linalg.norm((merged - expected)[()] * clear) <= 2e-6 * np.linalg.norm(expected) + 1e-30


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=8, unique=True), shapes)
def test_model_stock(seeds, shape):
    shape = [*shape, 6]  # room for directions
    tensors, arrays, weights = draw([(seed, 1.0) for seed in seeds], shape)
    k = len(arrays)
    cosine = np.mean(
        [
            np.sum(a * b) / (np.linalg.norm(a) * np.linalg.norm(b))
            for i, a in enumerate(arrays)
            for b in arrays[:i]
        ]
        or [1.0]
    )
    if abs(1 + (k - 1) * cosine) < 0.1:  # near the pole of the formula no two precisions agree
        return
    merged = merge(ModelStock(), tensors, weights)
    expected = naive.model_stock(arrays)
    assert np.linalg.norm(merged.double().numpy() - expected) <= 1e-4 * np.linalg.norm(
        np.mean(arrays, axis=0)
    )


def test_model_stock_of_ingredients_that_cancel_is_the_base():
    x = torch.tensor([1.0, 2.0])
    assert torch.equal(merge(ModelStock(), [x, -x]), torch.zeros(2))
    assert torch.equal(merge(ModelStock(), [x, 0 * x]), torch.zeros(2))  # as orthogonal ones
    torch.testing.assert_close(merge(ModelStock(), [x, x, 0 * x]), 0.6 * x * 2 / 3)  # 3c / (1 + 2c), c = 1/3


def test_karcher_is_where_the_steps_along_the_sphere_cancel():
    tensors = [x + 3 for x in random_tensors(5, 4, 5)]
    weights = [1.0, 2.0, 0.5, 1.0, 1.0]
    mean = merge(Karcher(iterations=50, tolerance=1e-9), tensors, weights).double()
    lengths = torch.stack([x.double().norm() for x in tensors])
    shares = torch.tensor(weights, dtype=torch.float64) / sum(weights)
    assert mean.norm().item() == pytest.approx((lengths * shares).sum().item(), rel=1e-6)
    m = mean / mean.norm()
    steps = []
    for x, share in zip(tensors, shares, strict=True):
        u = x.double() / x.double().norm()
        sideways = u - (u * m).sum() * m
        steps.append(share * torch.arccos((u * m).sum()) * sideways / sideways.norm())
    assert torch.stack(steps).sum(0).norm() < 1e-6


def test_karcher_of_two_is_slerp_with_the_mean_length():
    a, b = (x / x.norm() for x in random_tensors(2, 30))
    torch.testing.assert_close(merge(Karcher(), [a, b]), merge(Slerp(t=0.5), [a, b]), rtol=1e-5, atol=1e-6)


# Selection and randomness


@given(st.lists(st.sampled_from([0.0, 1.0, -1.0, 2.0, -2.0, 3.5]), min_size=1, max_size=60), st.data())
def test_exactly_k_are_chosen_the_earlier_first_among_equals(values, data):
    x = torch.tensor(values)
    k = data.draw(st.integers(0, len(values)))
    cut = data.draw(st.integers(0, len(values)))
    found = largest(x, k)
    kept = torch.cat([found.keep(x[:cut], 0), found.keep(x[cut:], cut)])
    order = sorted(range(len(values)), key=lambda i: (-abs(values[i]), i))
    assert kept.tolist() == [value if i in order[:k] else 0.0 for i, value in enumerate(values)]


@given(st.integers(0, 2**32 - 1), st.lists(shapes, min_size=1, max_size=5), st.floats(0.02, 1))
def test_trimming_a_model_keeps_the_largest_of_its_flattened_task_vector(seed, many, density):
    """The TIES paper's definition: one threshold over the whole vector."""
    random = np.random.default_rng(seed)
    vectors = {f"t{i}": np.float32(random.normal(size=shape)) for i, shape in enumerate(many)}
    flat = np.concatenate([x.reshape(-1) for x in vectors.values()])
    expected = naive.trim(flat, density)
    sparsifier = Magnitude(density, trim="model")
    tensors = {name: torch.tensor(x).reshape(-1) for name, x in vectors.items()}
    survey = sparsifier.survey(dict(reversed(tensors.items())))  # the order of names counts
    kept = []
    for name, x in tensors.items():
        plan = sparsifier.plan(x, Origin(Run("run"), name, 1.0, tuple(x.shape), survey))
        cut = x.numel() // 3
        kept += [sparsifier.apply(x[:cut], plan, 0), sparsifier.apply(x[cut:], plan, cut)]
    np.testing.assert_array_equal(torch.cat(kept).numpy(), expected)


def test_an_arc_that_is_a_chord_is_remarked_upon():
    method, x = Slerp(), torch.randn(100)
    state = fold(method, [x], [1.0])
    assert method.remark(method.measure(state, x * 1.001, origin(1))) == "the arc was a plain chord"
    assert method.remark(method.measure(state, torch.randn(100), origin(1))) is None


# Weights and grids


def test_weights_by_score_are_the_softmax_up_to_a_factor():
    scores = {"a": 0.70, "b": 0.66, "c": math.nan, "d": -40.0}
    method = Linear(weights={"by": "score", "temperature": 0.02}).with_scores(scores)
    expected = np.exp(np.array([0.70, 0.66]) / 0.02)
    expected /= expected.sum()
    weights = np.array([method.weight("a"), method.weight("b")])
    np.testing.assert_allclose(weights / weights.sum(), expected)
    assert method.weight("a") == 1
    assert 0 < method.weight("c") < 1e-300
    assert 0 < method.weight("d") < 1e-300
    assert Linear(weights={"a": 2.0}).with_scores(scores).weights == {"a": 2.0}


@pytest.mark.parametrize(
    "weights",
    [{"by": "score"}, {"by": "score", "temperature": 0}, {"by": "size", "temperature": 1.0},
     {"by": "score", "temperature": 1.0, "a": 2.0}],
)  # fmt: skip
def test_weights_by_anything_else_are_refused(weights):
    with pytest.raises(ConfigError, match=r"method\.weights"):
        Linear(weights=weights)


def test_a_list_of_scales_stands_for_methods_of_one_state():
    method, tensors = TaskVectors(scale=[0.5, 1.0]), random_tensors(3, 20)
    state = fold(method, tensors, [1.0] * 3)
    assert list(alternatives(method)) == ["scale=0.5", "scale=1"]
    for scale, one in zip([0.5, 1.0], alternatives(method).values(), strict=True):
        torch.testing.assert_close(one.result(state), merge(TaskVectors(scale=scale), tensors))


@pytest.mark.parametrize("scale", [[], [1.0, 1.0], ["x"], math.inf])
def test_scales_that_are_no_numbers_are_refused(scale):
    with pytest.raises(ConfigError, match=r"method\.scale"):
        TaskVectors(scale=scale)


@pytest.mark.parametrize(
    "kind", ["normal", "bfloat16", "few levels", "rows", "sorted", "one value", "mostly zero"]
)
@pytest.mark.parametrize("share", [0.0, 1e-6, 0.01, 0.2, 0.8, 0.999999, 1.0])
def test_selection_by_sample_is_exact_on_long_vectors(kind, share):
    n = 700_001
    x = torch.randn(n, generator=torch.Generator().manual_seed(1))
    if kind == "bfloat16":
        x = x.bfloat16().float()
    elif kind == "few levels":  # as of small changes of bfloat16 weights
        x = (x * 2).round() / 2
    elif kind == "rows":  # the sample walks over rows of very different size
        x *= (torch.arange(n) // 1000 % 7).float().exp()
    elif kind == "sorted":
        x = x.sort().values
    elif kind == "one value":
        x = torch.ones(n)
    elif kind == "mostly zero":
        x = torch.where(torch.arange(n) % 10 == 3, x, 0.0)
    k = int(share * n)
    expected = np.zeros(n, np.float32)
    order = np.argsort(-x.abs().numpy(), kind="stable")[:k]
    expected[order] = x.numpy()[order]
    assert np.array_equal(largest(x, k).keep(x, 0).numpy(), expected)


def test_a_misleading_sample_costs_time_and_not_exactness():
    x = torch.zeros(1 << 20)
    stride = (x.numel() // ((1 << 20) // 64)) | 1
    x[1::stride] = 5.0  # where the sample does not look
    x[2::stride] = 3.0
    k = int((x == 5).sum()) + 7
    kept = largest(x, k).keep(x, 0)
    assert int((kept == 5).sum()) == k - 7
    assert (kept == 3).nonzero().reshape(-1).tolist() == (x == 3).nonzero().reshape(-1)[:7].tolist()


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 300), st.integers(1, 50))
def test_rows_are_sorted_and_ties_keep_their_order(seed, rows, width, levels):
    numbers = np.random.default_rng(seed).integers(levels, size=(rows, width)) / 7
    expected = np.argsort(numbers, axis=1, kind="stable")
    assert np.array_equal(ascending(torch.tensor(numbers, dtype=torch.float32)).numpy(), expected)


def test_della_sees_rows_that_are_longer_than_a_chunk_whole():
    (x,) = random_tensors(1, 3, 150_000)
    chances = RankRandom(0.5, 0.1).plan(x.reshape(-1), origin(0, 1.0, tuple(x.shape))).probability
    expected = naive.probabilities(x.double().numpy(), 0.5, 0.1)
    assert np.abs(chances.reshape(x.shape).numpy() - expected).max() < 1e-6


def test_weights_that_differ_a_lot_do_not_spoil_the_weights_that_agree():
    tensors = [torch.tensor([-1e-3]), torch.tensor([1e4]), torch.tensor([0.0])]
    weights = [1e4, 3e-3, 1.0]
    merged = merge(TaskVectors(None, "mass", normalize=True), tensors, weights)
    expected = naive.consensus([x.double().numpy() for x in tensors], weights)
    np.testing.assert_allclose(merged.numpy(), expected, rtol=1e-6)


def test_a_vector_with_nans_is_kept_whole():
    x = torch.full((10,), math.nan)
    assert torch.isnan(largest(x, 3).keep(x, 0)).all()


@given(
    st.integers(0, 2**128 - 1),
    st.integers(0, 200) | st.integers(2**17 - 100, 2**17 + 100),
    st.integers(0, 200),
)
def test_random_numbers_do_not_depend_on_how_they_are_sliced(key, start, number):
    whole = uniform(key, 0, start + number, torch.device("cpu"))
    assert torch.equal(uniform(key, start, number, torch.device("cpu")), whole[start:])
    mask = survivors(key, 0, start + number, 0.5, torch.device("cpu"))
    assert torch.equal(survivors(key, start, number, 0.5, torch.device("cpu")), mask[start:])


@pytest.mark.parametrize("density", [0.01, 0.1, 0.5, 0.9])
def test_dare_keeps_its_share_and_the_mean(density):
    x = torch.ones(400_000)
    merged = merge(TaskVectors(Random(density)), [x])
    kept = (merged != 0).double().mean().item()
    assert kept == pytest.approx(density, abs=5 * math.sqrt(density * (1 - density) / x.numel()))
    assert merged[merged != 0].unique().tolist() == pytest.approx([1 / density], rel=2**-17 / density)
    assert merged.mean().item() == pytest.approx(1.0, abs=5 / math.sqrt(density * x.numel()))


def test_masks_depend_on_seed_ingredient_and_tensor_and_are_independent():
    keys = [key_of(seed, run, tensor) for seed in (0, 1) for run in ("a", "b") for tensor in ("x", "y")]
    masks = [survivors(key, 0, 100_000, 0.5, torch.device("cpu")) for key in keys]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert (one * other).double().mean().item() == pytest.approx(0.25, abs=0.01)


def test_whether_one_entry_survives_says_nothing_about_another():
    kept = survivors(key_of(0, "a", "x"), 0, 1_000_000, 0.3, torch.device("cpu")).double()
    apart = [*range(1, 70), 128, 2048, 2**17]
    both = torch.stack([(kept[:-lag] * kept[lag:]).mean() for lag in apart])
    assert both.sub(0.09).abs().max().item() < 5 * math.sqrt(0.09 * 0.91 / 850_000)


def test_a_density_below_one_in_65536_still_keeps_something():
    kept = survivors(key_of(0, "a", "x"), 0, 2_000_000, 1e-9, torch.device("cpu"))
    assert 5 <= int(kept.sum()) <= 80  # 2⁻¹⁶ of two million is 31, ± 5 standard deviations


@pytest.mark.parametrize("sparsifier", [Random(0.3, "l1"), RankRandom(0.3, 0.1, "l1")])
def test_rescaling_by_l1_restores_the_sum_of_magnitudes(sparsifier):
    (x,) = random_tensors(1, 60, 50)
    merged = merge(TaskVectors(sparsifier), [x])
    assert 0.2 < (merged != 0).double().mean() < 0.4
    assert merged.abs().sum().item() == pytest.approx(x.abs().sum().item(), rel=1e-5)


def test_without_rescaling_survivors_keep_their_values():
    (x,) = random_tensors(1, 50)
    for sparsifier in (Random(0.5, None), RankRandom(0.5, 0.2, None)):
        merged = merge(TaskVectors(sparsifier), [x])
        assert torch.equal(merged[merged != 0], x[merged != 0])


# Properties


def test_scale_zero_gives_the_base():
    for name in METHODS:
        if isinstance(method := method_called(name), TaskVectors):
            assert not merge(replace(method, scale=0.0), random_tensors(3, 20)).any()


def test_a_negative_weight_subtracts():
    a, b = random_tensors(2, 30)
    torch.testing.assert_close(merge(TaskVectors(), [a, b], [1.0, -0.5]), a - 0.5 * b)
    opposed = TaskVectors(Magnitude(1.0), "mass", normalize=True)
    torch.testing.assert_close(merge(opposed, [a], [-2.0]), -a)


def test_cancelling_votes_elect_plus():
    merged = merge(TaskVectors(Magnitude(1.0), "mass"), [torch.tensor([2.0]), torch.tensor([-2.0])])
    assert merged.item() == 2.0


def test_counting_votes_is_not_weighing_them():
    tensors = [torch.tensor([5.0]), torch.tensor([-1.0]), torch.tensor([-1.0])]
    assert merge(TaskVectors(None, "mass", normalize=True), tensors).item() == 5.0
    assert merge(TaskVectors(None, "count", normalize=True), tensors).item() == -1.0


# Options


@pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf, "heavy", None, True])
@pytest.mark.parametrize("method", [Linear, Slerp, Karcher, TaskVectors])
def test_a_weight_that_makes_no_sense_is_refused(method, weight):
    if method is TaskVectors and weight == -1:
        assert method(weights={"a": weight}).weight("a") == -1
        return
    with pytest.raises(ConfigError, match=r"method\.weights\.a"):
        method(weights={"a": weight})


@pytest.mark.parametrize(
    ("build", "option"),
    [
        (lambda: Slerp(t=1.5), "method.t"),
        (lambda: Slerp(space="moon"), "method.space"),
        (lambda: Karcher(iterations=0), "method.iterations"),
        (lambda: Magnitude(0.0), "density"),
        (lambda: Random(1.5), "density"),
        (lambda: Random(0.5, "l2"), "rescale"),
        (lambda: MagnitudeOutliers(0.9, 0.2), "gamma"),
        (lambda: RankRandom(0.5, 0.5), "epsilon"),
        (lambda: RankRandom(0.9, 0.2), "epsilon"),
        (lambda: TaskVectors(consensus="mas"), "consensus"),
    ],
)
def test_options_out_of_range_are_named(build, option):
    with pytest.raises(ConfigError, match=option):
        build()


def test_the_articles_methods_and_their_kin_are_all_there():
    expected = """breadcrumbs breadcrumbs_ties dare_linear dare_ties della della_linear karcher linear
        model_stock slerp task_arithmetic ties"""
    assert expected.split() == METHODS
