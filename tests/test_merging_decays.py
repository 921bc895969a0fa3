"""Averages of checkpoints that stand for decays of the learning rate, and the steps that order them."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soupkitchen.checkpoints.checkpoint import training_step
from soupkitchen.errors import ConfigError
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.merging import Linear, ModelStock, TaskVectors, alternatives
from soupkitchen.merging.weights import DECAYS, ByStep, coefficients
from soupkitchen.search import Mixture

alphas = st.floats(0.01, 0.99)


def decayed(decay: str, k: int, alpha: float) -> np.ndarray:
    """w₁ … w_k as METHODS.md has them, in float64."""
    i = np.arange(1, k + 1, dtype=np.float64)
    x = i / (k + 1)
    if decay == "ema":  # what is left of each update by m ← (1 − α)m + αθ, on made-up one-hot updates
        average, updates = np.zeros(k), np.eye(k)
        for j in range(k):
            average = (1 - alpha) * average + alpha * updates[: j + 1].sum(0)
        return average
    return {
        "linear": 1 - x,
        "cosine": (1 + np.cos(np.pi * x)) / 2,
        "one_minus_sqrt": 1 - np.sqrt(x),
        "inverse_sqrt": (1 + i) ** -0.5,
    }[decay]


# The coefficients


@pytest.mark.parametrize("decay", DECAYS)
@given(st.integers(0, 80), alphas)
def test_what_is_left_of_each_update_is_what_the_decay_says(decay, k, alpha):
    counts = np.array(coefficients(decay, k + 1, alpha))
    sums = np.array([counts[i:].sum() for i in range(1, k + 1)])
    np.testing.assert_allclose(sums, decayed(decay, k, alpha), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("decay", DECAYS)
@given(st.integers(1, 80), alphas)
def test_coefficients_sum_to_1_and_none_is_below_0(decay, size, alpha):
    counts = coefficients(decay, size, alpha)
    assert len(counts) == size
    assert math.fsum(counts) == pytest.approx(1, abs=1e-14)
    assert min(counts) >= 0


# Weights by step


STEPS = {"c": 300, "a": 100, "d": 400, "b": 200}


def recipes(method: Any) -> Recipes:
    return Recipes(method, steps=STEPS)


@pytest.mark.parametrize("decay", DECAYS)
@given(st.permutations("abcd"), st.integers(2, 4))
def test_an_ingredient_counts_by_its_place_in_training_wherever_it_stands(decay, names, size):
    names = names[:size]
    (recipe,) = recipes(Linear(weights={"by": "step", "decay": decay})).of(Mixture(tuple(names)))
    assert recipe.ingredients == tuple(names)
    counts = dict(zip(names, recipe.coefficients, strict=True))
    oldest_first = sorted(names)  # as their steps are
    np.testing.assert_allclose([counts[name] for name in oldest_first], coefficients(decay, size))


def test_what_a_mixture_says_of_its_ingredients_comes_on_top():
    method = TaskVectors(weights={"by": "step", "decay": "ema", "alpha": 0.5})
    (recipe,) = recipes(method).of(Mixture(("d", "a", "b"), (3.0, 1.0, 2.0)))
    np.testing.assert_allclose(recipe.coefficients, [3 * 0.5, 0.25, 2 * 0.25])


def test_a_run_that_is_there_twice_has_two_places():
    assert ByStep("cosine").coefficients([20, 10, 20]) == [
        coefficients("cosine", 3)[place] for place in (1, 0, 2)
    ]


def test_a_list_of_decays_is_a_grid():
    weights = {"by": "step", "decay": ["linear", "ema"], "alpha": 0.5}
    method = TaskVectors(weights=weights, scale=[0.5, 1.0])
    labels = [f"decay={decay}, scale={scale}" for decay in ("linear", "ema") for scale in ("0.5", "1")]
    assert list(alternatives(method)) == labels
    made = recipes(method).of(Mixture(("b", "a")))
    assert [recipe.variant for recipe in made] == labels
    for recipe in recipes(Linear(weights=weights)).of(Mixture(("c", "b", "a"))):
        expected = {"decay=linear": (1 / 3, 1 / 3, 1 / 3), "decay=ema": (0.5, 0.25, 0.25)}[recipe.variant]
        assert recipe.coefficients == pytest.approx(expected)
    (one,) = alternatives(Linear(weights={"by": "step", "decay": ["cosine"]})).values()
    assert one.weights == {"by": "step", "decay": "cosine"}


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"by": "step"}, "NAME one of linear, cosine"),
        ({"by": "step", "decay": "exponential"}, "NAME one of linear, cosine"),
        ({"by": "step", "decay": []}, "a list of different ones"),
        ({"by": "step", "decay": ["linear", "linear"]}, "a list of different ones"),
        ({"by": "step", "decay": [["linear"]]}, "NAME one of"),
        ({"by": "step", "decay": "linear", "a": 2.0}, "NAME one of"),
        ({"by": "step", "decay": "linear", "alpha": 0.2}, "it is that of decay: ema"),
        ({"by": "step", "decay": "ema", "alpha": 1.0}, "above 0 and below 1"),
        ({"by": "step", "decay": "ema", "alpha": "x"}, "above 0 and below 1"),
        ({"by": "age", "decay": "linear"}, "by training step are {by: step"),
    ],
    ids=str,
)
def test_other_weights_by_step_are_refused(weights, says):
    with pytest.raises(ConfigError, match=r"method\.weights") as raised:
        Linear(weights=weights)
    assert says in str(raised.value)


def test_a_method_whose_ingredients_all_count_the_same_refuses_them():
    with pytest.raises(ConfigError, match="leave it null"):
        ModelStock(weights={"by": "step", "decay": "linear"})


# The step of a run


@pytest.mark.parametrize(
    ("name", "state", "step"),
    [
        ("checkpoint-500", None, 500),
        ("run/checkpoint-0", None, 0),
        ("step_1000", None, 1000),
        ("org/name-70m@step3000", None, 3000),
        ("two-12-of-34-end", None, 34),
        ("final", None, None),
        ("x" + "9" * 30, None, None),
        ("checkpoint-500", {"global_step": 512}, 512),
        ("final", {"global_step": 512}, 512),
        ("checkpoint-500", {"global_step": None}, 500),
        ("checkpoint-500", {"global_step": -1}, 500),
        ("checkpoint-500", {"global_step": True}, 500),
        ("checkpoint-500", {"epoch": 1.0}, 500),
        ("checkpoint-500", [1], 500),
    ],
    ids=str,
)
def test_a_runs_step_is_what_its_trainer_says_else_the_last_number_of_its_name(name, state, step, tmp_path):
    if state is not None:
        (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    run: Any = SimpleNamespace(name=name, path=tmp_path)
    assert training_step(run) == step


def test_what_cannot_be_read_says_no_step(tmp_path):
    (tmp_path / "trainer_state.json").write_text("{")
    run: Any = SimpleNamespace(name="checkpoint-7", path=tmp_path)
    assert training_step(run) == 7
