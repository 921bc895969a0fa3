"""Predictions of differences from what is known: the formulas, written out, and their honesty."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soupkitchen import metrics
from soupkitchen.evaluation import Evaluation, Part, prediction
from soupkitchen.evaluation.confidence import excluded_after, proven
from soupkitchen.evaluation.prediction import FIRST, GROWTH, Known, features_of, residuals


def naive(differences, bounds, features):
    """yᵢ = dᵢ − bᵢ·(zᵢ − z̄ᵢ), one example at a time, bᵢ by ridge regression of what came before its block."""
    t, n = len(differences), len(bounds)
    z = (features - features.mean(0)) / features.std(0)
    values, most, slope, fitted = [], [], None, 0
    for i in range(t):
        if i >= FIRST and i >= max(int(fitted * GROWTH), FIRST) * (fitted > 0):
            fitted = i
            x, y = z[:i] - z[:i].mean(0), differences[:i] - differences[:i].mean()
            slope = np.linalg.inv(x.T @ x + np.sqrt(i) * np.eye(z.shape[1])) @ x.T @ y
        if slope is None:
            values.append(differences[i])
            most.append(max(bounds[i:]))
            continue
        rest = z[i:].mean(0)
        values.append(differences[i] - slope @ (z[i] - rest))
        most.append(max(bounds[j] - slope @ (z[j] - rest) for j in range(i, n)))
    return values, most


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 150))
def test_residuals_are_those_of_the_formula(seed, q, t):
    random = np.random.default_rng(seed)
    features, bounds = random.normal(size=(150, q)), random.random(150)
    differences = (features @ random.normal(size=q) + random.normal(size=150))[:t]
    left = residuals(differences, bounds, features)
    values, most = naive(differences, bounds, features)
    np.testing.assert_allclose(left.values, values, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(left.most, most, rtol=1e-9, atol=1e-9)


def test_in_the_mean_over_all_orders_bets_neither_win_nor_lose(monkeypatch):
    """Whatever features say, at the boundary of the null hypothesis the capital is a martingale: mean 1."""
    monkeypatch.setattr(prediction, "FIRST", 2)
    random = np.random.default_rng(3)
    differences = random.choice([-1.0, 0.0, 1.0], size=7)
    differences[-1] = -differences[:-1].sum()  # mean 0
    bounds, features = np.full(7, np.abs(differences).max()), random.normal(size=(7, 2))
    capitals = []
    for order in permutations(range(7)):
        drawn = list(order)
        left = residuals(differences[drawn], bounds, features[drawn])
        bets = proven(differences[drawn], bounds, 0.01, left)
        capitals.append(np.exp(bets.log_capital(0.0)))
    np.testing.assert_allclose(np.mean(capitals, axis=0), 1.0, rtol=1e-9)
    assert np.std(capitals) > 0.01  # they do bet


KINDS = {
    "informative": lambda random, d: d + 0.5 * random.normal(size=len(d)),
    "useless": lambda random, d: random.normal(size=len(d)),
    "misleading": lambda random, d: np.where(np.arange(len(d)) < len(d) // 4, 2 * d, -2 * d),
}


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_boundary_candidates_are_discarded_no_more_often_than_asked(kind):
    random, wrong = np.random.default_rng(1), 0
    for _ in range(400):
        d = random.normal(size=400)
        d -= d.mean() - 1e-9
        z = KINDS[kind](random, d)[:, None]
        wrong += excluded_after(d, np.full(400, np.inf), 0.05, sample=True, features=z) is not None
    assert wrong <= 400 * 0.05 + 3 * np.sqrt(400 * 0.05 * 0.95)


def test_features_that_tell_save_more_than_half_of_the_examples():
    random, shares = np.random.default_rng(2), {False: [], True: []}
    for _ in range(40):
        d = random.normal(size=1000)
        d -= d.mean() + 0.15
        z = (d + 0.5 * random.normal(size=1000))[:, None]
        for told, after in shares.items():
            features = z if told else None
            after.append(
                excluded_after(d, np.full(1000, np.inf), 0.01, sample=True, features=features) or 1000
            )
    assert np.median(shares[True]) < 0.6 * np.median(shares[False])


def test_a_large_gain_that_features_announce_is_waited_for():
    """Residuals of what is drawn are small; the gains that make up for all are among those to come."""
    random = np.random.default_rng(4)
    d = random.normal(size=1000) - 0.3
    announced = np.zeros(1000)
    announced[-30:] = 1.0
    d[-30:] += 10
    features = np.stack([announced + 0.01 * random.normal(size=1000)], axis=1)
    left = residuals(d[:400], np.full(1000, np.inf), features)
    assert (left.largest[100:] >= 0).all()


def evaluation(values, predictions=(), order=None):
    values = np.asarray(values, float)
    part = Part(
        float(values.mean()), values, predictions, len(values if order is None else order), len(values), order
    )
    return Evaluation("heldout", part.score, {"": part})


def test_features_are_of_the_incumbent_the_runs_their_mixture_and_other_models():
    metric = metrics.load("cross_entropy")
    random = np.random.default_rng(5)
    references = np.array([0, 1, 2, 1])
    logits = {name: random.normal(size=(4, 3)) for name in "abs"}
    values = {name: metric.per_example(rows, references) for name, rows in logits.items()}
    whole = {name: evaluation(values[name], logits[name]) for name in "abs"}
    other = evaluation(random.normal(size=4))
    known = [Known(0.75, False, whole["a"]), Known(0.25, True, whole["b"])]
    found = features_of(known, whole["s"], {"": metric}, {"": references}, [other])[""]

    def value(rows):
        return np.array([row[k] - np.log(np.exp(row).sum()) for row, k in zip(rows, references, strict=True)])

    expected = [
        value(1.1 * logits["s"]),
        0.75 * value(logits["a"]) + 0.25 * value(logits["b"]),
        value(logits["b"]),
        value(0.75 * logits["a"] + 0.25 * logits["b"]),
        other.parts[""].values,
    ]
    level = value(logits["s"])
    np.testing.assert_allclose(found, np.stack([level, *(column - level for column in expected)], axis=1))


def test_of_a_run_that_was_scored_in_part_the_rest_counts_as_nothing():
    metric = metrics.load("accuracy")
    soup = evaluation([1, 0, 0, 1])
    part = evaluation([0, 1, 1, 1], order=np.array([1, 0]))
    (name, found), *_ = features_of([Known(1.0, True, part)], soup, {"": metric}, {"": np.zeros(4)}).items()
    assert name == ""
    np.testing.assert_array_equal(found, [[1, -1, -1], [0, 1, 1], [0, 0, 0], [1, 0, 0]])
