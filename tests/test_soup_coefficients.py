"""What ingredients count: in each part of the depth, nothing at all, and more than once."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import naive
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from mixtures import METHODS as SHIPPED
from mixtures import same
from omegaconf import OmegaConf
from peft import PeftModel
from safetensors.torch import load_file, save_file
from tiny import adapter
from transformers import AutoModelForCausalLM

from soupkitchen.checkpoints import Checkpoint, Pool, find_pool
from soupkitchen.errors import ConfigError
from soupkitchen.evaluation.identity import weights as known_by
from soupkitchen.merging import Karcher, Linear, Magnitude, ModelStock, Random, Slerp, TaskVectors
from soupkitchen.output import Output
from soupkitchen.search.base import Coefficient
from soupkitchen.soup import Mixer, Recipe, Soup

METHODS = SHIPPED | {
    "ties by model": TaskVectors(Magnitude(0.3, trim="model"), "mass", normalize=True),
    "slerp of task vectors": Slerp(space="task_vectors"),
    "linear sum": Linear(normalize=False),
}
LAYERS = 4
PART = {f"layers.{i}.weight": i for i in range(LAYERS)} | {"embed.weight": 0, "head.weight": LAYERS - 1}
SHAPES = dict.fromkeys(PART, (6, 5)) | {"head.weight": (3, 5)}
RUNS = ("a", "b", "c")


def model(folder: Path, name: str, **tensors: torch.Tensor) -> Checkpoint:
    (folder / name).mkdir(parents=True)
    (folder / name / "config.json").write_text("{}")
    save_file(tensors, folder / name / "model.safetensors")
    return Checkpoint.open(folder / name)


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Pool:
    """Three runs of four layers, with a base that lacks their head, and a step counter."""
    folder = tmp_path_factory.mktemp("deep")
    torch.manual_seed(5)
    start = {name: torch.randn(shape) for name, shape in SHAPES.items()}
    for number, name in enumerate(RUNS):
        tensors = {key: x + 0.1 * torch.randn(x.shape) for key, x in start.items()}
        model(folder / "runs", name, **tensors, **{"layers.2.steps": torch.tensor([number])})
    base = {name: x for name, x in start.items() if name != "head.weight"}
    model(folder, "base", **base)
    return find_pool(str(folder / "runs"), base=str(folder / "base"))


def made(
    pool: Pool, recipe: Recipe, mixer: Mixer | None = None, growing: bool = False
) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in (mixer or Mixer(pool)).tensors(recipe, growing)}


def by_depth(method: Any, first: tuple[float, ...], *others: Coefficient) -> list[Coefficient]:
    """Those coefficients or, where a method weighs all alike, 1 for each that is not 0."""
    told: list[Coefficient] = [first, *others]
    if method.weighs:
        return told
    return [tuple(float(v != 0) for v in c) if isinstance(c, tuple) else float(c != 0) for c in told]


def at(coefficient: Coefficient, part: int) -> float:
    return coefficient[part] if isinstance(coefficient, tuple) else coefficient


@pytest.mark.parametrize("name", METHODS)
def test_each_part_is_merged_by_its_own_coefficients(name, pool):
    """To the bit: a tensor is that of the recipe that has the coefficients of its part all through."""
    method = METHODS[name]
    told = by_depth(method, (1.0, 0.25, 2.0, 0.0), (0.5, 3.0, 0.0, 1.0), 0.75)
    merged = made(pool, Recipe.of(RUNS, method, told))
    for part in range(LAYERS):
        left = [(run, at(one, part)) for run, one in zip(RUNS, told, strict=True) if at(one, part)]
        plain = made(pool, Recipe.of([run for run, _ in left], method, [weight for _, weight in left]))
        for tensor in [tensor for tensor in PART if PART[tensor] == part]:
            assert torch.equal(merged[tensor], plain[tensor]), tensor
    assert merged["layers.2.steps"] == 0  # of the first that counts there


@pytest.mark.parametrize("name", METHODS)
def test_running_states_give_the_bits_of_a_blend_at_any_depth(name, pool):
    method, mixer = METHODS[name], Mixer(pool)
    names = ("a", "b", "a", "c")
    told = by_depth(
        method, (0.0, 0.25, 2.0, 0.0), (0.5, 0.0, 0.0, 0.0), (0.0, 0.0, 1.0, 3.0), (1.0, 0.0, 1.0, 1.0)
    )
    for size in (3, 4):
        recipe = Recipe.of(names[:size], method, told[:size])
        assert same(made(pool, recipe, mixer, growing=True), made(pool, recipe))
    last = Recipe.of(names, method, told)
    soup = Soup(method, base=pool.base)
    for run, weight in zip(names, told, strict=True):
        soup.keep(pool[run], weight)
    assert same({n: x.clone() for n, x in soup.tensors()}, made(pool, last))
    again = Recipe.from_data(json.loads(json.dumps(last.to_data(), allow_nan=False)))
    assert again == last
    assert again.digest == last.digest
    assert same(made(pool, again, mixer), made(pool, last))


FORMULAS: dict[str, tuple[Any, Any]] = {
    # the method, and its formula of task vectors (of tensors, for linear and slerp)
    "linear": (Linear(), naive.linear),
    "sum": (Linear(normalize=False), lambda x, w: naive.linear(x, w, normalize=False)),
    "slerp": (Slerp(), naive.slerp),
    "arithmetic": (TaskVectors(scale=0.4), lambda d, w: 0.4 * naive.linear(d, w, normalize=False)),
    "ties": (TaskVectors(Magnitude(0.5), "mass", normalize=True),
             lambda d, w: naive.consensus([naive.trim(x, 0.5) for x in d], w)),
    "count": (TaskVectors(consensus="count", normalize=True), lambda d, w: naive.consensus(d, w, "count")),
    "stock": (ModelStock(), lambda d, w: naive.model_stock(d)),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("runs", [RUNS, ("a", "b", "a"), ("a", "a"), ("b", "a", "b", "a", "c")], ids="".join)
def test_a_merge_by_depth_is_the_formula_of_each_tensor(name, runs, pool):
    """Also with runs that are there more than once, and parts where only one is left."""
    method, formula = FORMULAS[name]
    told = by_depth(method, (1.0, 0.25, 0.0, 2.0), *[(0.5, 3.0, 0.7, 0.0)] * (len(runs) - 1))
    merged = made(pool, Recipe.of(runs, method, told))
    start = load_file(pool.base.path / "model.safetensors")
    files = {run: load_file(pool[run].path / "model.safetensors") for run in RUNS}
    for tensor, part in PART.items():
        if tensor not in start:
            continue
        zero = start[tensor].double().numpy() if method.needs_base else 0.0
        left = [(run, at(one, part)) for run, one in zip(runs, told, strict=True) if at(one, part)]
        arrays = [files[run][tensor].double().numpy() - zero for run, _ in left]
        expected = zero + formula([np.float32(x).astype(np.float64) for x in arrays], [w for _, w in left])
        np.testing.assert_allclose(merged[tensor], expected, rtol=0, atol=3e-6)


def test_a_subtracted_run_may_be_added_elsewhere(pool):
    told = ((1.0, -0.5, 0.0, 1.0), (-1.0, 1.0, 1.0, 0.0))
    merged = made(pool, Recipe.of(("a", "b"), TaskVectors(scale=0.5), told))
    start = load_file(pool.base.path / "model.safetensors")
    one, other = (load_file(pool[run].path / "model.safetensors") for run in "ab")
    for tensor, part in PART.items():
        if tensor in start:
            expected = start[tensor] + 0.5 * sum(
                w[part] * (x[tensor].double() - start[tensor])
                for w, x in zip(told, (one, other), strict=True)
            )
            np.testing.assert_allclose(merged[tensor], expected, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(merged["head.weight"], one["head.weight"])  # which the base lacks


def test_a_run_that_counts_nothing_may_change_what_it_likes(base, adapters):
    """An adapter of weight 0 in a part: its tensors there stay the base's, where no other changes them."""
    pool = find_pool(str(adapters))
    start, mixer = load_file(base / "model.safetensors"), Mixer(pool)
    recipe = Recipe.of(("c", "b"), Linear(), ((1.0, 0.0), (1.0, 1.0)))
    for merged in (made(pool, recipe), made(pool, recipe, mixer, growing=True)):
        for tensor, info in pool["c"].header.items():
            mean = (
                dict(pool["b"].tensors())[tensor].double() + dict(pool["c"].tensors())[tensor].double()
            ) / 2
            second = ".layers.1." in tensor or tensor in ("lm_head.weight", "model.norm.weight")
            expected = dict(pool["b"].tensors())[tensor].double() if second else mean
            torch.testing.assert_close(merged[tensor].double(), expected, rtol=1e-6, atol=1e-6)
            if second and "up_proj" in tensor:  # which only c changes
                assert torch.equal(merged[tensor], start[tensor])
            assert merged[tensor].dtype == info.torch_dtype


@pytest.mark.parametrize("name", METHODS)
def test_states_of_adapters_that_change_other_tensors_give_the_bits_of_a_blend(name, base, adapters):
    """A tensor's state begins with the first that changes it and counts there."""
    pool, method = find_pool(str(adapters), base=str(base)), METHODS[name]
    told = by_depth(method, (1.0, 0.5), (2.0, 0.0), (0.0, 1.0), (0.25, 0.0))
    recipe, mixer = Recipe.of(("b", "c", "a", "c"), method, told), Mixer(pool)
    for size in (2, 3, 4):
        grown = Recipe.of(recipe.ingredients[:size], method, told[:size])
        assert same(made(pool, grown, mixer, growing=True), made(pool, grown))


# Recipes


def test_coefficients_by_depth_are_data():
    recipe = Recipe.of("ab", Linear(), ((1, 2.0), np.float32(0.5)))
    assert recipe.coefficients == ((1.0, 2.0), 0.5)
    assert recipe.to_data()["coefficients"] == [[1.0, 2.0], 0.5]
    assert Recipe.from_data(json.loads(json.dumps(recipe.to_data()))) == recipe
    assert Recipe.from_data(OmegaConf.to_container(OmegaConf.create(recipe.to_data()))) == recipe
    assert hash(recipe) == hash(Recipe.of("ab", Linear(), ([1.0, 2.0], 0.5)))
    others = [((2.0, 1.0), 0.5), ((1.0, 2.0, 2.0), 0.5), ((1.0, 2.0), (0.5, 0.4)), (1.0, 0.5)]
    assert len({recipe.digest, *(Recipe.of("ab", Linear(), c).digest for c in others)}) == 5


def test_the_same_in_all_parts_is_one_number():
    one, other = Recipe.of("ab", Linear(), ((0.5, 0.5), 1)), Recipe.of("ab", Linear(), (0.5, 1.0))
    assert one == other
    assert one.digest == other.digest


def test_recipes_by_depth_carry_on_a_soup_by_depth():
    soup = Recipe.of("ab", Linear(), ((1.0, 2.0), 1.0))
    assert Recipe.of("abc", Linear(), ((1.0, 2.0), 1.0, (0.0, 1.0))).extends(soup)
    assert not Recipe.of("abc", Linear(), ((2.0, 1.0), 1.0, (0.0, 1.0))).extends(soup)
    assert not Recipe.of("abc", Linear(), (1.0, 1.0, 1.0)).extends(soup)


@pytest.mark.parametrize(
    ("method", "coefficients", "told"),
    [
        (Linear(), (0.0, 0.0), "coefficients of all ingredients are 0:"),
        (Linear(), ((1.0, 0.0, 2.0), (1.0, 0.0, 0.0)), "are 0 in part 2 of the depth"),
        (Linear(), ((0.0, 1.0), 0.0), "are 0 in part 1 of the depth"),
        (Linear(), (1.0, (0.5, -0.5)), r"of b is -0\.5: Linear subtracts no runs"),
        (Karcher(), (1.0, -1.0), "Karcher subtracts no runs"),
        (TaskVectors(), (1.0, (math.nan, 1.0)), "of b is nan"),
        (TaskVectors(), (1.0, math.inf), "of b is inf"),
        (TaskVectors(), ((1.0, 2.0), (1.0, 2.0, 3.0)), "for 2 and for 3 parts"),
        (ModelStock(), (1.0, 0.5), "one weight for all ingredients"),
    ],
)
def test_coefficients_that_nothing_can_be_merged_by_are_refused(method, coefficients, told, pool):
    with pytest.raises(ConfigError, match=told):
        Recipe.of("ab", method, coefficients)
    tree = Recipe.of("ab", method).method
    with pytest.raises(ConfigError, match=told):  # as well where it comes from elsewhere
        Mixer(pool).tensors(Recipe(("a", "b"), tuple(coefficients), tree))


@pytest.mark.parametrize("coefficients", [["x", 1], [[], 1], [None, 1], [[[1]], 1], "12"], ids=str)
def test_what_are_no_coefficients_is_no_recipe(coefficients):
    data = Recipe.of("ab", Linear()).to_data() | {"coefficients": coefficients}
    with pytest.raises(ConfigError, match="this is no recipe"):
        Recipe.from_data(data)


def test_a_soup_that_nobody_counts_in_is_refused(pool):
    soup = Soup(Linear())
    soup.keep(pool["a"], (1.0, 0.0))
    with pytest.raises(ConfigError, match=r"of all of a, b is 0 in head\.weight"):
        dict(soup.taste(pool["b"], (1.0, 0.0)))
    soup.keep(pool["b"], (1.0, 0.0))
    with pytest.raises(ConfigError, match=r"is 0 in head\.weight"):
        dict(soup.tensors())
    with pytest.raises(ConfigError, match=r"is 0 in embed"):
        dict(Soup(Karcher()).blend([pool["a"], pool["b"]], [0.0, 0.0]))


def test_evaluations_are_known_by_coefficients_of_depth(pool):
    told = [
        json.dumps(known_by(Recipe.of(("a", "b"), Linear(), c), pool))
        for c in [(1.0, 0.5), (1.0, (0.5, 0.4)), (1.0, (0.4, 0.5)), ((1.0, 0.9), 0.5)]
    ]
    assert len(set(told)) == len(told)
    twice = json.dumps(known_by(Recipe.of(("a", "b", "a"), Linear()), pool))
    assert twice not in {json.dumps(known_by(Recipe.of(names, Linear()), pool)) for names in ("ab", "aab")}


# More than once


@pytest.mark.parametrize("name", sorted(METHODS.keys() - {"slerp", "slerp of task vectors", "model_stock"}))
def test_two_times_a_run_is_that_run_with_twice_the_weight(name, pool):
    """Masks of DARE and DELLA are the run's, so they are the same both times."""
    method = METHODS[name]
    once, twice = Recipe.of("ab", method, (2.0, 1.0)), Recipe.of("aba", method)
    one, other = made(pool, once), made(pool, twice)
    for tensor in one:
        torch.testing.assert_close(one[tensor], other[tensor], rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("name", METHODS)
def test_a_soup_of_one_run_twice_is_finite_and_has_one_survey(name, pool):
    mixer = Mixer(pool)
    merged = made(pool, Recipe.of("aa", METHODS[name]), mixer)
    assert all(x.isfinite().all() for x in merged.values() if x.is_floating_point())
    assert len(mixer._surveyed[1]) == (1 if name == "ties by model" else 0)
    grown = made(pool, Recipe.of("aa", METHODS[name]), mixer, growing=True)
    assert same(merged, grown)
    alone = dict(pool["a"].tensors())
    if name in ("linear", "slerp", "model_stock", "karcher", "slerp of task vectors"):
        for tensor in PART:
            torch.testing.assert_close(merged[tensor], alone[tensor], rtol=1e-5, atol=1e-6)


def test_dares_mask_of_a_run_is_the_same_each_time(pool):
    method = TaskVectors(Random(0.5), normalize=True)
    start = load_file(pool.base.path / "model.safetensors")
    merged = made(pool, Recipe.of("aa", method))
    dropped = [float((merged[name] == start[name]).float().mean()) for name in start]
    assert 0.3 < np.mean(dropped) < 0.7  # with two masks a quarter would be


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=5), st.data())
def test_any_mixture_is_the_weighted_mean(pool, names, data):
    numbers = st.floats(0.125, 8, width=16)
    each = st.one_of(numbers, st.tuples(*[st.one_of(numbers, st.just(0.0))] * LAYERS))
    told = [data.draw(numbers), *(data.draw(each) for _ in names[1:])]
    mixer = Mixer(pool)
    merged = made(pool, Recipe.of(names, Linear(), told), mixer, growing=data.draw(st.booleans()))
    files = {run: load_file(pool[run].path / "model.safetensors") for run in RUNS}
    for tensor, part in PART.items():
        shares = [at(one, part) for one in told]
        expected = naive.linear([files[n][tensor].double().numpy() for n in names], shares)
        np.testing.assert_allclose(merged[tensor], expected, rtol=0, atol=2e-6)


# As one adapter


def saved_as_adapter(output: Output, pool: Pool, recipe: Recipe, folder: Path) -> Checkpoint:
    runs, mixer = [pool[name] for name in recipe.ingredients], Mixer(pool)
    output.check(runs, recipe.merge_method())
    return output.save_adapter(runs, recipe.coefficients, lambda: mixer.empty(recipe), None, folder)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::FutureWarning")  # peft's
def test_a_linear_soup_by_depth_is_one_adapter_exactly(base, adapters, tmp_path):
    pool = find_pool(str(adapters), exclude=["d"])
    told = ((1.0, 0.5), (2.0, 0.0), (0.0, 1.0), (0.25, 0.0))
    recipe = Recipe.of(("a", "b", "c", "a"), Linear(), told)
    saved = saved_as_adapter(Output(format="adapter"), pool, recipe, tmp_path / "soup")
    start = load_file(base / "model.safetensors")
    by_peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "soup")
    loaded = by_peft.merge_and_unload().state_dict()
    changed = 0
    for name, tensor in saved.tensors():
        second = ".layers.1." in name
        shares = [one[second] for one in told]
        deltas = [dict(pool[run].tensors())[name].double() - start[name].double() for run in "abca"]
        summed = sum(w * d for w, d in zip(shares, deltas, strict=True)) / sum(shares)
        torch.testing.assert_close(tensor.double(), start[name].double() + summed, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(tensor, loaded[name], rtol=1e-5, atol=1e-5)
        changed += bool(summed.abs().max() > 1e-3)
    assert changed == 5  # q, v in both layers, up in the second
    file = load_file(tmp_path / "soup" / "adapter_model.safetensors")
    assert max(x.shape[0] for name, x in file.items() if "lora_A" in name) == 4 + 3  # a is there once, and c


def test_a_sum_that_multiplies_the_base_is_no_adapter(adapters):
    pool = find_pool(str(adapters), exclude=["d"])
    for rank in (None, 4):
        with pytest.raises(ConfigError, match=r"method\.normalize=true, or output\.format=full"):
            Output(format="adapter", rank=rank).check(pool.runs, Linear(normalize=False))


def test_a_cut_adapter_is_cut_by_depth_too(base, adapters, tmp_path):
    pool = find_pool(str(adapters), base=str(base))
    recipe = Recipe.of("ab", TaskVectors(Magnitude(0.5), "mass", normalize=True), ((1.0, 0.0), (0.5, 1.0)))
    saved = saved_as_adapter(Output(format="adapter", rank=16), pool, recipe, tmp_path / "soup")
    for name, tensor in made(pool, recipe).items():
        torch.testing.assert_close(saved.tensor(name), tensor, rtol=1e-4, atol=1e-5)


def test_modules_trained_whole_are_saved_by_depth(base, tmp_path):
    for seed, name in enumerate("ab"):
        adapter(
            base, tmp_path / "runs" / name, seed, r=2, target_modules=["q_proj"], modules_to_save=["lm_head"]
        )
    pool = find_pool(str(tmp_path / "runs"))
    recipe = Recipe.of("ab", Linear(), ((1.0, 3.0), (1.0, 1.0)))
    saved = saved_as_adapter(Output(format="adapter"), pool, recipe, tmp_path / "soup")
    one, other = (pool[name].tensor("lm_head.weight").double() for name in "ab")
    torch.testing.assert_close(
        saved.tensor("lm_head.weight").double(), (3 * one + other) / 4, rtol=1e-6, atol=1e-6
    )
