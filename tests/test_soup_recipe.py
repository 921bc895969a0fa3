"""Recipes are data, and the mixer makes the same tensors of one whichever way it takes."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import forked
from hypothesis import given
from hypothesis import strategies as st
from mixtures import METHODS, same
from safetensors.torch import load_file
from tiny import average

from soupkitchen.checkpoints import Checkpoint, Pool, find_pool
from soupkitchen.errors import CheckpointError, ConfigError
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.merging import Linear, Magnitude, Random, TaskVectors
from soupkitchen.options.building import build, describe
from soupkitchen.search import Mixture
from soupkitchen.soup import Mixer, Recipe, check_unchanged

WEIGHTLESS = {"model_stock"}
"""Methods that take no weights."""

numbers = st.floats(allow_nan=False, allow_infinity=False, width=32).filter(bool)


@st.composite
def recipes(draw: st.DrawFn) -> Recipe:
    names = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4, unique=True))
    if len(names) == 1:
        return Recipe.single(names[0], draw(st.sampled_from([None, "bfloat16"])))
    method = draw(st.sampled_from(list(METHODS.values())))
    weights = None if "Stock" in type(method).__name__ else [abs(draw(numbers)) for _ in names]
    return Recipe.of(names, method, weights, draw(st.sampled_from([None, "float16"])), draw(st.text()))


@given(recipes())
def test_a_recipe_comes_back_from_json_with_the_same_digest(recipe):
    again = Recipe.from_data(json.loads(json.dumps(recipe.to_data(), allow_nan=False)))
    assert again == recipe
    assert again.variant == recipe.variant
    assert again.digest == recipe.digest
    assert pickle.loads(pickle.dumps(recipe)).digest == recipe.digest
    if recipe.method is not None:
        assert again.merge_method() == recipe.merge_method()


def test_a_digest_is_the_same_in_another_process(tmp_path):
    recipe = Recipe.of("ab", METHODS["ties"])
    code = (
        "import json, sys; from soupkitchen.soup import Recipe\n"
        "print(Recipe.from_data(json.loads(sys.argv[1])).digest)"
    )
    told = forked(code, json.dumps(recipe.to_data()), cwd=tmp_path)
    assert told.stdout.strip() == recipe.digest


def test_whatever_changes_the_weights_changes_the_digest():
    one = Recipe.of("ab", TaskVectors(Magnitude(0.2), "mass"))
    others = [
        Recipe.of("ba", TaskVectors(Magnitude(0.2), "mass")),
        Recipe.of("ab", TaskVectors(Magnitude(0.3), "mass")),
        Recipe.of("ab", TaskVectors(Magnitude(0.2), "mass", scale=0.5)),
        Recipe.of("ab", TaskVectors(Magnitude(0.2), "mass", recalibrate_batchnorm=3)),
        Recipe.of("ab", TaskVectors(Magnitude(0.2), "mass", weights={"a": 2.0})),
        Recipe.of("ab", TaskVectors(Magnitude(0.2), "mass"), (1.0, 0.5)),
        Recipe.of("ab", TaskVectors(Magnitude(0.2), "mass"), dtype="float16"),
        Recipe.single("a"),
    ]
    digests = [recipe.digest for recipe in (one, *others)]
    assert len(set(digests)) == len(digests)
    assert Recipe.of("ab", TaskVectors(Magnitude(0.2), "mass"), variant="scale=1").digest == one.digest


@pytest.mark.parametrize(
    "data", [{}, {"ingredients": ["a"]}, {"ingredients": ["a"], "coefficients": []},
             {"ingredients": [], "coefficients": []}, {"ingredients": "a", "coefficients": [1], "salt": 1}],
    ids=str,
)  # fmt: skip
def test_what_is_no_recipe_is_refused(data):
    with pytest.raises(ConfigError, match="recipe"):
        Recipe.from_data(data)


def test_a_grid_of_scales_makes_one_recipe_each():
    made = Recipes(TaskVectors(scale=[0.5, 1.0], weights={"b": 3.0})).of(Mixture(("a", "b")))
    assert [recipe.variant for recipe in made] == ["scale=0.5", "scale=1"]
    assert [recipe.merge_method().scale for recipe in made] == [0.5, 1.0]
    assert {recipe.coefficients for recipe in made} == {(1.0, 3.0)}
    assert [recipe.method for recipe in Recipes(TaskVectors(scale=[0.5, 1.0])).of(Mixture(("a",)))] == [None]


# The mixer


@pytest.fixture(scope="module")
def pool(text_runs: Path) -> Pool:
    return find_pool(str(text_runs), base=str(text_runs / "wild"), exclude=["wild"])


def tensors(mixer: Mixer, recipe: Recipe, growing: bool = False) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in mixer.tensors(recipe, growing)}


@pytest.mark.parametrize("name", METHODS)
def test_a_running_state_gives_the_bits_that_reading_all_ingredients_gives(name, pool):
    """For every shipped method: none says otherwise."""
    method, runs = METHODS[name], [run.name for run in pool]
    growing, plain = Mixer(pool), Mixer(pool)
    weights = None if name in WEIGHTLESS else [1.0, 2.0, 0.5, 1.5]
    for size in range(2, len(runs) + 1):
        recipe = Recipe.of(runs[:size], method, weights and weights[:size])
        assert same(tensors(growing, recipe, growing=True), tensors(plain, recipe))
        assert same(tensors(growing, recipe), tensors(Mixer(pool), recipe))  # whatever the state is now
    first = Recipe.of(runs[:2], method, weights and weights[:2])
    assert same(tensors(growing, first, growing=True), tensors(plain, first))  # it has to begin again


def test_a_candidate_costs_one_reading_of_its_own_files(pool, monkeypatch):
    read: list[str] = []
    open_run = Mixer(pool)
    exact = type(pool.runs[0].weights).exact

    def counted(self: Any, name: str, device: torch.device) -> torch.Tensor:
        read.append(next(iter(self.files)).parent.name)
        return exact(self, name, device)

    monkeypatch.setattr(type(pool.runs[0].weights), "exact", counted)
    for candidate in "bcd":
        read.clear()
        tensors(open_run, Recipe.of(("a", candidate), Linear()), growing=True)
        assert set(read) == ({"a", candidate} if candidate == "b" else {candidate})
    read.clear()
    tensors(open_run, Recipe.of(("a", "c", "d"), Linear()), growing=True)
    assert set(read) == {"c", "d"}  # c was kept, and a is in the state


def test_a_run_by_itself_is_that_run_whatever_the_method(pool, text_runs):
    expected = load_file(text_runs / "b" / "model.safetensors")
    assert same(tensors(Mixer(pool), Recipe.single("b")), expected)
    (recipe,) = Recipes(METHODS["ties"]).of(Mixture(("b",)))
    assert same(tensors(Mixer(pool), recipe), expected)


def test_other_coefficients_or_options_are_not_taken_for_the_running_states(pool):
    mixer = Mixer(pool)
    for method, coefficients in [
        (Linear(), (1.0, 1.0, 1.0)),
        (Linear(), (2.0, 1.0, 1.0)),
        (TaskVectors(), (2.0, 1.0, 1.0)),
        (TaskVectors(scale=0.3), (2.0, 1.0, 1.0)),
        (TaskVectors(Random(0.5, seed=1)), (2.0, 1.0, 1.0)),
        (TaskVectors(Random(0.5, seed=2)), (2.0, 1.0, 1.0)),
    ]:
        recipe = Recipe.of(("a", "b", "c"), method, coefficients)
        assert same(tensors(mixer, recipe, growing=True), tensors(Mixer(pool), recipe))
        assert same(tensors(mixer, recipe), tensors(Mixer(pool), recipe))


def test_a_state_that_was_kept_half_is_not_used_again(pool, monkeypatch):
    mixer, kind = Mixer(pool), type(pool.runs[0].weights)
    tensors(mixer, Recipe.of(("a", "b"), Linear()), growing=True)
    exact, calls = kind.exact, []

    def breaks(self: Any, name: str, device: torch.device) -> torch.Tensor:
        calls.append(name)
        if len(calls) == 9:  # in the middle of keeping b
            raise RuntimeError("its tensors are odd")
        return exact(self, name, device)

    with monkeypatch.context() as broken:
        broken.setattr(kind, "exact", breaks)
        with pytest.raises(RuntimeError, match="odd"):
            tensors(mixer, Recipe.of(("a", "b", "c"), Linear()), growing=True)
    recipe = Recipe.of(("a", "b", "d"), Linear())
    assert same(tensors(mixer, recipe, growing=True), tensors(Mixer(pool), recipe))


def test_a_run_may_be_in_a_mixture_twice_or_with_any_coefficient(pool, text_runs):
    made = tensors(Mixer(pool), Recipe.of(("a", "b", "b"), Linear(), (2.0, 1.0, 1.0)))
    for name, tensor in average(text_runs, ["a", "b"]).items():
        torch.testing.assert_close(made[name], tensor, rtol=1e-6, atol=1e-7)
    alone = tensors(Mixer(pool), Recipe.of(("a", "b"), Linear(), (1.0, 0.0)))
    for name, tensor in average(text_runs, ["a"]).items():
        torch.testing.assert_close(alone[name], tensor, rtol=1e-6, atol=1e-7)


def test_files_that_changed_since_the_pool_was_opened_are_named(copy_runs, text_runs):
    opened = find_pool(str(copy_runs("a", "b", "c")))
    recipe = Recipe.of(("a", "b"), Linear())
    check_unchanged(recipe, opened)
    file = opened["b"].path / "model.safetensors"
    file.write_bytes((text_runs / "c" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"b/model\.safetensors changed while this run read it"):
        check_unchanged(recipe, opened)
    check_unchanged(Recipe.of(("a", "c"), Linear()), opened)


def test_methods_that_differ_in_scale_alone_share_the_state(pool):
    mixer = Mixer(pool)
    tensors(mixer, Recipe.of(("a", "b", "c"), TaskVectors(scale=0.3)), growing=True)
    state = mixer._soup
    recipe = Recipe.of(("a", "b", "d"), TaskVectors(scale=0.7))
    assert same(tensors(mixer, recipe, growing=True), tensors(Mixer(pool), recipe))
    assert mixer._soup is state


def test_what_was_saved_is_read_from_there(pool, text_runs):
    mixer, recipe = Mixer(pool), Recipe.of(("a", "b"), Linear())
    tensors(mixer, recipe, growing=True)
    mixer.take_from(Checkpoint.open(text_runs / "d"), recipe)
    assert same(tensors(mixer, recipe), load_file(text_runs / "d" / "model.safetensors"))
    assert mixer._soup is None


# Trees


class Plain:
    """What keeps what it was made of."""

    def __init__(self, a: int, *, b: float = 0.5) -> None:
        self.a, self.b, self.made = a, b, object()


def test_an_object_that_keeps_what_it_was_made_of_is_told_by_that():
    tree = describe(Plain(2))
    assert tree == {"_target_": "test_soup_recipe.Plain", "a": 2, "b": 0.5}
    again = build(tree)
    assert (again.a, again.b) == (2, 0.5)


def test_one_and_one_point_zero_are_the_same_recipe():
    one, other = (Recipe.of("ab", TaskVectors(scale=scale)) for scale in (1, 1.0))
    assert one.digest == other.digest


def test_what_cannot_be_written_down_is_said():
    with pytest.raises(ConfigError, match=r"cannot be written down.*describe\(\)"):
        describe({"model": object()})
    assert describe({"a": (1, np.float64(0.5), Path("x"))}) == {"a": [1, 0.5, "x"]}
    assert math.isclose(build({"a": [1, 0.5]})["a"][1], 0.5)


@pytest.mark.parametrize(
    ("tree", "told"),
    [({"_target_": "nowhere.at.All"}, "names nothing"),
     ({"_target_": "soupkitchen.merging.Linear", "salt": 1}, "salt")],
    ids=["name", "option"],
)  # fmt: skip
def test_a_tree_that_describes_nothing_is_refused(tree, told):
    with pytest.raises(ConfigError, match=told):
        build(tree)
