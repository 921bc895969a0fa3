"""Predictions of differences from what is known: the formulas, written out, and their honesty."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from soupkitchen import metrics
from soupkitchen.evaluation import Evaluation, Part, prediction
from soupkitchen.evaluation.bets import excluded_after, proven
from soupkitchen.evaluation.prediction import FIRST, GROWTH, Known, chances_of, features_of, residuals
from soupkitchen.evaluation.scoring import Examples, Listed


def naive(differences, bounds, features, chances):
    """yᵢ = (dᵢ − bᵢ·zᵢ) / (chance of i, times n − i) + bᵢ·z̄ᵢ, one example at a time.

    bᵢ is by ridge regression of what came before its block, each example as it counts.
    """
    t, n = len(differences), len(bounds)
    z = (features - features.mean(0)) / features.std(0)
    values, most, slope, fitted = [], [], np.zeros(z.shape[1]), 0
    counts = np.array([sum(chances[i:]) / (n - i) / chances[i] for i in range(t)])
    for i in range(t):
        if i >= FIRST and i >= max(int(fitted * GROWTH), FIRST) * (fitted > 0):
            fitted = i
            x, y = counts[:i, None] * z[:i], counts[:i] * differences[:i]
            x, y = x - x.mean(0), y - y.mean()
            slope = np.linalg.inv(x.T @ x + np.sqrt(i) * np.eye(z.shape[1])) @ x.T @ y
        rest, chance = z[i:].mean(0), chances / sum(chances[i:])
        values.append((differences[i] - slope @ z[i]) / (chance[i] * (n - i)) + slope @ rest)
        most.append(
            max((bounds[j] - slope @ z[j]) / (chance[j] * (n - i)) + slope @ rest for j in range(i, n))
        )
    return values, most


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 150), st.booleans())
def test_residuals_are_those_of_the_formula(seed, q, t, equal):
    random = np.random.default_rng(seed)
    features, bounds = random.normal(size=(150, q)), random.random(150)
    differences = (features @ random.normal(size=q) + random.normal(size=150))[:t]
    chances = np.ones(150) if equal else random.random(150) + 0.1
    left = residuals(differences, bounds, features, None if equal else chances)
    values, most = naive(differences, bounds, features, chances)
    np.testing.assert_allclose(left.values, values, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(left.most, most, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("equal", [True, False], ids=["equal chances", "unequal chances"])
def test_in_the_mean_over_all_orders_bets_neither_win_nor_lose(equal, monkeypatch):
    """Whatever features say, at the boundary of the null hypothesis the capital is a martingale: mean 1."""
    monkeypatch.setattr(prediction, "FIRST", 2)
    random = np.random.default_rng(3)
    differences = random.choice([-1.0, 0.0, 1.0], size=7)
    differences[-1] = -differences[:-1].sum()  # mean 0
    bounds, features = np.full(7, np.abs(differences).max()), random.normal(size=(7, 2))
    chances = np.ones(7) if equal else random.random(7) + 0.5
    capitals, likely = [], []
    for order in permutations(range(7)):
        drawn = list(order)
        left = residuals(differences[drawn], bounds, features[drawn], chances[drawn])
        bets = proven(differences[drawn], bounds, 0.01, left)
        capitals.append(np.exp(bets.log_capital(0.0)))
        likely.append(np.prod(chances[drawn] / np.cumsum(chances[drawn][::-1])[::-1]))
    assert sum(likely) == pytest.approx(1.0)
    np.testing.assert_allclose(np.average(capitals, axis=0, weights=likely), 1.0, rtol=1e-9)
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


def in_order_of_chances(random, d, chances):
    """One drawn after another, from those that are left, in proportion to the chances."""
    left, order = np.arange(len(d)), []
    while len(left):
        sums = np.cumsum(chances[left])
        at = np.searchsorted(sums, random.random() * sums[-1])
        order.append(left[at])
        left = np.delete(left, at)
    return d[order], chances[order]


@pytest.mark.parametrize("kind", ["large", "anywhere", "small"])
def test_at_the_boundary_unequal_chances_discard_no_more_often_than_asked(kind):
    random, wrong = np.random.default_rng(6), 0
    for _ in range(300):
        d = random.normal(size=300)
        d -= d.mean() - 1e-9
        of = {"large": np.abs(d), "anywhere": random.exponential(size=300), "small": 1 / (np.abs(d) + 0.5)}
        d, chances = in_order_of_chances(random, d, np.maximum(of[kind], 2 / 3 * of[kind].mean()))
        known = (d, np.full(300, np.inf), 0.05)
        wrong += excluded_after(*known, sample=True, chances=chances) is not None
    assert wrong <= 300 * 0.05 + 3 * np.sqrt(300 * 0.05 * 0.95)


def test_chances_that_follow_the_differences_save_examples():
    """Most examples hardly differ, and which ones do is known."""
    random, shares = np.random.default_rng(7), {False: [], True: []}
    for _ in range(40):
        scale = np.where(random.random(1000) < 0.2, 5.0, 1.0)
        d = scale * random.normal(size=1000)
        d -= d.mean() + 0.15 * d.std()
        for told, after in shares.items():
            chances = np.maximum(scale, 2 / 3 * scale.mean()) if told else np.ones(1000)
            drawn, chances = in_order_of_chances(random, d, chances)
            known = (drawn, np.full(1000, np.inf), 0.01)
            after.append(excluded_after(*known, sample=True, chances=chances) or 1000)
    assert np.median(shares[True]) < 0.85 * np.median(shares[False])


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


def test_chances_follow_how_much_runs_differ_where_examples_are_as_hard():
    """Of 400 examples the hard half differs by 3, the easy half by 1; a run has seen a part, one is lost."""
    metric, hard = metrics.load("mse"), np.arange(400) % 2 == 0
    random = np.random.default_rng(8)
    best = np.where(hard, -1000.0, -1.0) + 0.01 * random.random(400)

    def run(scale, seen=400):
        values, order = best + np.where(hard, 3.0, 1.0) * scale * random.choice([-1, 1], size=400), None
        if seen < 400:
            order = random.permutation(400)[:seen]
        part = Part(float(values.mean()), values, (), seen, 400, order)
        return Evaluation("heldout", part.score, {"": part}, complete=seen == 400)

    pool = [evaluation(best), run(1.0), run(1.0), run(0.8, seen=300), run(50.0)]
    chances = chances_of(evaluation(best), pool, {"": metric}, {"": np.zeros(400)})[""]
    assert chances[hard] == pytest.approx(np.full(200, 3.0), rel=0.1)
    assert chances[~hard] == pytest.approx(np.full(200, 4 / 3), rel=0.1)  # two thirds of the mean
    alone = chances_of(evaluation(best), [evaluation(best)], {"": metric}, {"": np.zeros(400)})[""]
    assert (alone == alone[0]).all()


def test_examples_are_drawn_with_the_chances_that_were_asked_for():
    """Of 2,000 examples one half is thrice as likely as the other: it leads the first tenth."""
    chances = np.where(np.arange(2000) < 1000, 3.0, 1.0)
    examples = Examples({"heldout": {"": Listed(np.zeros(2000))}}, 16)
    examples.shuffle("heldout", {"": chances})
    order = examples.order("heldout")[""]
    assert sorted(order) == list(range(2000))
    assert 0.65 < (order[:200] < 1000).mean() < 0.81
    assert examples.shuffled["heldout"][""] is chances
