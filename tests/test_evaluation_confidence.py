"""Discarding on a part of the examples: how often that is wrong, and how soon it is right."""

from __future__ import annotations

import math
import pickle
import shutil
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command import as_module, forked, own, soupkitchen
from hypothesis import example, given, settings
from hypothesis import strategies as st
from made_up import Table, scores_over, searched
from scipy.stats import binom
from tiny import make_texts

from soupkitchen import metrics
from soupkitchen.errors import ConfigError
from soupkitchen.evaluation import ConfidentStopping, EarlyStopping, Evaluation, EvaluationOptions, Part
from soupkitchen.evaluation.bets import LEAST_EXAMPLES, excluded_after, proven, sampled, upper_limit
from soupkitchen.evaluation.confidence import score_at_most
from soupkitchen.options import check_tree
from soupkitchen.records.tables import trajectory
from soupkitchen.search import AcceptRule, Greedy
from soupkitchen.soup import Recipe
from soupkitchen.store.journal import read
from soupkitchen.tasks import Several

EXAMPLES = 1000
UNKNOWN = np.full(EXAMPLES, np.inf)

POPULATIONS: dict[str, Any] = {
    "normal": lambda random: random.normal(size=EXAMPLES),
    "student t with 3 degrees of freedom": lambda random: random.standard_t(3, size=EXAMPLES),
    "laplace": lambda random: random.laplace(size=EXAMPLES),
    "skewed, large gains": lambda random: random.exponential(size=EXAMPLES),
    "skewed, large losses": lambda random: -random.exponential(size=EXAMPLES),
    "very skewed, large losses": lambda random: -np.exp(random.normal(size=EXAMPLES)),
    "90 % ties": lambda random: random.normal(size=EXAMPLES) * (random.random(EXAMPLES) < 0.1),
    "99 % ties, equal gains and losses": lambda random: random.permutation(
        np.r_[np.zeros(EXAMPLES - 10), np.ones(5), -np.ones(5)]
    ),
    "constant, but for some gains": lambda random: random.permutation(
        np.r_[-np.ones(EXAMPLES - 10), np.full(10, (EXAMPLES - 10) / 10)]
    ),
}


def at_the_boundary(kind: str, random: np.random.Generator) -> np.ndarray:
    """Differences in random order whose mean is a hair above 0: the candidate would be kept."""
    drawn = POPULATIONS[kind](random)
    drawn = drawn - drawn.mean()
    return drawn + 1e-9 * np.abs(drawn).max()


# How often it is wrong


@pytest.mark.parametrize("kind", POPULATIONS)
def test_losses_are_discarded_wrongly_no_more_often_than_asked(kind):
    """2,500 decisions, each looked at after every example."""
    random = np.random.default_rng(1)
    wrong = dict.fromkeys((0.01, 0.001), 0)
    for _ in range(2500):
        differences = at_the_boundary(kind, random)[:-1]
        for error in wrong:
            if excluded_after(differences, UNKNOWN, error, sample=True, grain=1e-6) is None:
                break  # so it is with less error
            wrong[error] += 1
    assert wrong[0.01] <= 25
    assert wrong[0.001] <= binom.ppf(0.95, 2500, 0.001)  # scripts/confidence_table.py decides more often


def answers(random: np.random.Generator, right: float, broken: float) -> tuple[np.ndarray, np.ndarray]:
    """Of an incumbent, 0 or 1 by example, and of a candidate that fixes as many as it breaks."""
    incumbent = (np.arange(EXAMPLES) < right * EXAMPLES).astype(float)
    candidate, number = incumbent.copy(), int(broken * EXAMPLES)
    candidate[random.choice(int(right * EXAMPLES), number, replace=False)] = 0
    fixed = int(right * EXAMPLES) + random.choice(EXAMPLES - int(right * EXAMPLES), number + 1, replace=False)
    candidate[fixed] = 1
    order = random.permutation(EXAMPLES)
    return incumbent[order], candidate[order]


@pytest.mark.parametrize("error", [0.05, 0.01])
@pytest.mark.parametrize(("right", "broken"), [(0.8, 0.1), (0.6, 0.3), (0.95, 0.02)])
def test_right_and_wrong_answers_are_discarded_wrongly_no_more_often_than_asked(right, broken, error):
    random, wrong = np.random.default_rng(2), 0
    for _ in range(2000):
        incumbent, candidate = answers(random, right, broken)
        differences, bounds = (candidate - incumbent)[:-1], 1 - incumbent
        wrong += excluded_after(differences, bounds, error, sample=False) is not None
    assert 0 < wrong <= 2000 * error  # bets are cautious, and not so cautious that nothing is ever discarded


def test_proven_bounds_hold_for_what_no_sample_shows():
    """One gain of 990 among 10,000 losses of 0.099: most samples have none."""
    random, n = np.random.default_rng(3), 10_000
    bounds, wrong = np.full(n, 1000.0), 0
    for _ in range(300):
        differences = random.permutation(np.r_[np.full(n - 1, -0.099), 0.099 * (n - 1) + 1e-6])
        wrong += excluded_after(differences[:-1], bounds, 0.05, sample=False) is not None
    assert wrong <= 15


# How soon it is right


@pytest.mark.parametrize(
    ("kind", "most"),
    [
        ("normal", 190),
        ("student t with 3 degrees of freedom", 205),
        ("laplace", 195),
        ("skewed, large losses", 180),
        ("very skewed, large losses", 180),
        ("skewed, large gains", 250),  # the price of not being fooled by them
    ],
)
def test_a_worse_candidate_is_discarded_soon(kind, most):
    """Worse by 0.35 of the differences' standard deviation, at 0.999: half of all within a fifth of 1,000."""
    random, after = np.random.default_rng(4), []
    for _ in range(400):
        differences = at_the_boundary(kind, random)
        differences -= 0.35 * differences.std()
        found = excluded_after(differences, UNKNOWN, 0.001, sample=True)
        after.append(found or EXAMPLES)
        assert found is None or found >= LEAST_EXAMPLES
    assert np.median(after) <= most


def test_a_candidate_that_has_diverged_is_discarded_after_a_handful():
    random = np.random.default_rng(5)
    losses, diverged = random.exponential(size=EXAMPLES), 10 + random.exponential(size=EXAMPLES)
    found = excluded_after(losses - diverged, losses, 0.001, sample=True)
    assert found is not None
    assert found <= 30


def test_samples_say_nothing_of_fewer_than_thirty_examples():
    differences = np.random.default_rng(10).normal(-10, 1, size=EXAMPLES)
    bets = sampled(differences[:500], EXAMPLES, 0.2)
    assert bets.log_capital(0.0)[28] > -math.log(0.2)  # it would have been enough
    assert bets.excluded_after(0.0) == LEAST_EXAMPLES


def test_samples_say_nothing_once_nine_tenths_are_known():
    """A gain among the last few would weigh the more, the fewer they are."""
    random = np.random.default_rng(6)
    differences = random.normal(size=EXAMPLES)
    differences[9 * EXAMPLES // 10 :] -= 50
    assert excluded_after(differences, UNKNOWN, 0.05, sample=True) is None
    assert excluded_after(differences, np.full(EXAMPLES, 5.0), 0.05, sample=True) is not None


# Constants


@pytest.mark.parametrize("constant", [-0.2, -3.0])
def test_constants_say_nothing_of_what_is_to_come_but_within_proven_bounds(constant):
    """Each loss could fall to 0, of 1 before: that is certain, and no spread is."""
    differences = np.full(EXAMPLES - 1, constant)
    assert excluded_after(differences, UNKNOWN, 0.001, sample=True) is None
    found = excluded_after(differences, np.ones(EXAMPLES), 0.001, sample=True)
    assert found is not None
    # sooner than certainty comes: that all to come gain 1 and still do not make it good
    assert found < 0.5 * EXAMPLES / (1 - constant)


def test_equal_models_are_scored_to_the_end():
    for sample in (True, False):
        for constant in (0.0, 0.1):
            differences = np.full(EXAMPLES - 1, constant)
            assert excluded_after(differences, np.ones(EXAMPLES), 0.2, sample, 1e-6) is None
    rounding = 1e-9 * np.random.default_rng(0).normal(size=EXAMPLES - 1) - 1e-9
    assert excluded_after(rounding, UNKNOWN, 0.2, sample=True, grain=1e-6) is None


@pytest.mark.parametrize("broken", [math.nan, -math.inf])
def test_what_is_no_number_excludes_nothing(broken):
    differences = np.full(300, -1.0)
    differences[200] = broken
    for sample in (True, False):
        assert upper_limit(differences, np.ones(EXAMPLES), 0.05, sample) == math.inf
    assert upper_limit(np.array([]), np.ones(EXAMPLES), 0.05, True) == math.inf


# Formulas, written out


def naive_proven(x: list[float], bounds: list[float], mean: float) -> list[float]:
    """log K_t by the docstring's formula, example by example."""
    n, capital, told = len(bounds), 0.0, []
    for i in range(len(x)):
        before, most = x[:i], max(bounds[i:])
        rest = n - i
        expected = (n * mean - math.fsum(before)) / rest
        average = math.fsum(before) / (i + 1)
        variance = (math.fsum(v * v for v in before) + (max(bounds) / 2) ** 2) / (i + 1) - average**2
        drift = max(-math.fsum(before) / rest - average, 0)
        share = drift / (variance + drift**2)
        if most > expected:
            share = min(share, 0.8 / (most - expected))
        capital += math.log(1 - share * (x[i] - expected))
        told.append(capital)
    return told


def naive_sampled(x: list[float], n: int, mean: float) -> list[float]:
    capital, told = 0.0, []
    for i in range(len(x)):
        before, rest = x[:i], n - i
        counts = {v: before.count(v) for v in before}
        others = i - max(counts.values(), default=0)
        if others >= 10:
            average = float(np.mean(before))
            deviation = float(np.std(before, ddof=1))
            size = math.sqrt(np.mean(np.square(before)))
            cut = max(4 * (1 + 5 / others) * size, 1.5 * max(before), -min(before))
            lowered = cut / i
            drift = -sum(before) / rest - lowered - average + deviation / math.sqrt(i)
            share = max(0, drift) / (deviation**2 + max(0, drift) ** 2)
            expected = (n * mean - sum(before)) / rest - lowered
            capital += math.log(1 - min(share, 0.95 / cut) * min(x[i] - expected, cut))
        told.append(capital)
    return told


@given(st.integers(0, 2**20), st.integers(1, 60), st.floats(-1, 1))
@settings(max_examples=60)
def test_the_capital_is_that_of_the_formulas(seed, t, mean):
    random = np.random.default_rng(seed)
    x = np.round(random.standard_t(3, size=60), int(random.integers(0, 8)))
    bounds = np.maximum(x, 0) + random.random(60)
    if mean < (bounds.sum() / 60):
        capital = proven(x[:t], bounds, 0.05).log_capital(mean)
        np.testing.assert_allclose(
            capital, naive_proven(list(x[:t]), list(bounds), mean), rtol=1e-9, atol=1e-9
        )
    capital = sampled(x[:t], 100, 0.05).log_capital(mean)
    np.testing.assert_allclose(capital, naive_sampled(list(x[:t]), 100, mean), rtol=1e-7, atol=1e-7)


@given(st.integers(0, 2**20), st.booleans(), st.floats(0.001, 0.2))
@settings(max_examples=25)
@example(583, False, 0.125)
def test_limits_fall_with_examples_and_rise_with_confidence(seed, sample, error):
    random = np.random.default_rng(seed)
    x = random.normal(-0.3, 1, size=200)
    bounds = np.maximum(x, 0) + 0.1
    limits = [upper_limit(x[:t], bounds, error, sample) for t in range(5, 200, 15)]
    resolution = 0.002 * np.sqrt(np.mean(x**2)) * 8
    # a limit far off, when next to nothing is known, is found to a thousandth of itself
    steps = pairwise(limits)
    assert all(later <= earlier + max(resolution, abs(earlier) / 1000) for earlier, later in steps)
    assert upper_limit(x[:140], bounds, error / 2, sample) >= upper_limit(x[:140], bounds, error, sample)
    for t in (50, 150):  # a mean is excluded if and only if the limit is no higher
        for mean in (-0.5, 0.0, 0.5):
            found = excluded_after(x[:t], bounds, error, sample, mean=mean)
            limit = upper_limit(x[:t], bounds, error, sample, aim=mean)
            assert (found is not None) == (limit <= mean) or abs(limit - mean) < resolution


def test_the_two_limits_share_the_error():
    drawn, constant = np.random.default_rng(11).normal(-0.4, 1, size=300), np.full(300, -0.5)
    for x, bound, lowest in ((constant, 0.5, 0), (drawn, 50.0, 1)):  # which of the two is the lower one
        bounds = np.full(EXAMPLES, bound)
        limits = proven(x, bounds, 0.05 * 0.01).limit(), sampled(x, EXAMPLES, 0.95 * 0.01).limit()
        assert np.argmin(limits) == lowest
        assert upper_limit(x, bounds, 0.01, sample=True) == min(limits)


def test_the_limit_covers_the_mean_and_is_not_far_from_it():
    random, covered, above = np.random.default_rng(7), 0, []
    for _ in range(200):
        x = random.normal(-0.2, 1, size=EXAMPLES)
        limit = upper_limit(x[:400], UNKNOWN, 0.05, sample=True)
        covered += x.mean() < limit
        above.append(limit - x.mean())
    assert covered >= 190
    assert np.median(above) < 0.25  # standard deviations; an interval of 400 examples alone has 0.08


def test_bets_are_made_for_the_mean_that_a_limit_should_fall_below():
    """Better than the soup, and not by what is asked: bets against the mean of 0 would say nothing of it."""
    random = np.random.default_rng(12)
    for _ in range(20):
        x = random.normal(size=EXAMPLES)
        x += 0.1 - x.mean()
        plain, aimed = (upper_limit(x[:600], UNKNOWN, 0.01, sample=True, aim=aim) for aim in (0.0, 0.3))
        assert 0.1 < aimed < 0.3 < plain
        assert excluded_after(x[:600], UNKNOWN, 0.01, sample=True, mean=0.3) is not None


@pytest.mark.parametrize("name", ["mse", "perplexity"])
def test_a_margin_that_is_missed_discards_as_soon_as_a_loss(name):
    metric, random = metrics.load(name), np.random.default_rng(13)
    tasks = Several({"": SimpleNamespace(metric=metric, model_class=object)})
    references = {"": np.full((EXAMPLES, 2), 7) if name == "perplexity" else np.zeros(EXAMPLES)}
    before = -random.normal(3, 0.3, size=EXAMPLES)
    after = before + 0.01 + 0.2 * random.normal(size=EXAMPLES)  # a gain
    order = {"": random.permutation(EXAMPLES)}
    incumbent = Evaluation("heldout", metric.of_values(before), {"": losses(before)})
    shuffled: Any = SimpleNamespace(shuffled={"heldout": {}}, references=lambda split: references)
    part = part_of(metric, after, order[""], 600)
    so_far = Evaluation("heldout", part.score, {"": part}, complete=False)
    for margin, above, expected in (
        (0.1, None, "confidence"), (0.5, None, "confidence"), (0.0, 0.1, "confidence"), (0.0, None, None),
    ):  # fmt: skip
        scale = -metric.of_values(before) if name == "perplexity" else 1.0
        rule = AcceptRule("margin", margin * scale) if margin else AcceptRule("better")
        reached = None if above is None else incumbent.score + above * scale
        threshold = ConfidentStopping(0.99).threshold(rule, incumbent, tasks, shuffled, reached)
        ended = threshold.ended(so_far, tasks, references, order)
        assert (ended and ended.stopped_by) == expected


# Weights, links, several tasks


def part_of(metric: Any, values: np.ndarray, order: np.ndarray, scored: int) -> Part:
    known = np.full(len(values), metric.best)
    known[order[:scored]] = values[order[:scored]]
    return Part.so_far(metric, known, None, scored, len(values))


def test_perplexity_counts_texts_by_their_tokens():
    metric, random = metrics.load("perplexity"), np.random.default_rng(8)
    tokens = random.integers(5, 60, size=EXAMPLES)
    before = -random.normal(3, 0.3, size=EXAMPLES)
    after = before - 0.2 + 0.2 * random.normal(size=EXAMPLES)
    order, weights = random.permutation(EXAMPLES), tokens.astype(float)
    part = part_of(metric, after, order, 300)
    found = score_at_most(metric, part, before, weights, order, 0.001)
    differences = [tokens[i] * EXAMPLES / tokens.sum() * (after[i] - before[i]) for i in order[:300]]
    bounds = np.array([tokens[i] * EXAMPLES / tokens.sum() * -before[i] for i in order])
    limit = upper_limit(np.array(differences), bounds, 0.001, sample=True)
    mean = sum(tokens * before) / sum(tokens)
    assert found == pytest.approx(-math.exp(-(mean + limit)), rel=1e-9)
    incumbent, true = (-math.exp(-sum(tokens * values) / sum(tokens)) for values in (before, after))
    assert true < found < incumbent


def test_what_is_bounded_above_rests_on_proof_and_losses_on_samples_too(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "soupkitchen.evaluation.confidence.upper_limit",
        lambda differences, bounds, error, sample, grain, features, chances, aim: (
            asked.append((sample, bounds.tolist())) or math.inf
        ),
    )
    before, order = np.array([0.0, 1.0, 1.0, 0.0]), np.array([2, 0, 3, 1])
    for name in ("accuracy", "mse"):
        metric = metrics.load(name)
        score_at_most(metric, part_of(metric, before, order, 2), before, None, order, 0.1)
    assert asked == [(False, [0.0, 1.0, 1.0, 0.0]), (True, [-1.0, 0.0, 0.0, -1.0])]


def losses(values: np.ndarray) -> Part:
    return Part(float(values.mean()), values, values, len(values), len(values))


@pytest.mark.parametrize("aggregate", ["mean", "min"])
def test_each_task_has_its_share_of_the_error(aggregate):
    random, metric = np.random.default_rng(9), metrics.load("mse")
    tasks = Several({n: SimpleNamespace(metric=metric, model_class=object) for n in "abc"}, aggregate)
    before = {name: -random.exponential(size=EXAMPLES) for name in "abc"}
    after = {name: values - 0.3 + 0.3 * random.normal(size=EXAMPLES) for name, values in before.items()}
    order = {name: random.permutation(EXAMPLES) for name in "abc"}
    incumbent = Evaluation("heldout", -1.0, {name: losses(values) for name, values in before.items()})
    references = {name: np.zeros(EXAMPLES) for name in "abc"}
    shuffled: Any = SimpleNamespace(shuffled={"heldout": {}}, references=lambda split: references)
    threshold = ConfidentStopping(0.99).threshold(AcceptRule("better"), incumbent, tasks, shuffled)
    again: Any = pickle.loads(pickle.dumps(threshold))
    parts = {"a": losses(after["a"]), "b": part_of(metric, after["b"], order["b"], 200)}
    parts["c"] = part_of(metric, after["c"], order["c"], 0)
    score = tasks.score({name: part.score for name, part in parts.items()})
    so_far = Evaluation("heldout", score, parts, complete=False)
    ended = again.at_most(so_far, tasks, references, order)
    limit = score_at_most(metric, parts["b"], before["b"], None, order["b"], 0.01 / 3, again.features["b"])
    assert ended.scores == {"a": pytest.approx(after["a"].mean()), "b": pytest.approx(limit), "c": 0.0}
    assert ended.score == tasks.score(ended.scores)
    assert ended.stopped_by == "confidence"
    assert ended.examples_scored == 1200


def test_what_is_certain_is_told_from_what_is_as_good_as_certain():
    metric, order = metrics.load("accuracy"), {"": np.arange(EXAMPLES)}
    tasks = Several({"": SimpleNamespace(metric=metric, model_class=object)})
    incumbent = Evaluation("heldout", 0.9, {"": losses(np.r_[np.ones(900), np.zeros(100)])})
    wrong = np.zeros(EXAMPLES)
    asked = {}
    for confidence in (None, 0.999):
        stopping = EarlyStopping() if confidence is None else ConfidentStopping(confidence)
        shuffled: Any = SimpleNamespace(shuffled={"heldout": {}}, references=lambda split: {"": wrong})
        threshold = stopping.threshold(AcceptRule("better"), incumbent, tasks, shuffled)
        for scored in (10, 90, 100):
            part = part_of(metric, wrong, order[""], scored)
            so_far = Evaluation("heldout", part.score, {"": part}, complete=False)
            ended = threshold.ended(so_far, tasks, {"": wrong}, order)
            asked[confidence, scored] = ended and ended.stopped_by
    assert asked == {
        (None, 10): None, (None, 90): None, (None, 100): "exact",
        (0.999, 10): None, (0.999, 90): "confidence", (0.999, 100): "exact",
    }  # fmt: skip


# The search


def cook(
    seed: int, confidence: float | None, workers: int = 1, metric: str = "mse", early: bool = True
) -> Any:
    """The real search over a table of errors: what it found, and the rows of its candidates."""
    random = np.random.default_rng(seed)
    n, runs = 400, 12
    shared, right = random.normal(size=n), np.zeros(n)

    def answer(recipe: Recipe, split: str) -> dict[str, np.ndarray]:
        own_luck = np.random.default_rng([seed, *map(ord, "".join(sorted(recipe.ingredients)))])
        if metric == "accuracy":
            wrong = 0.7 * shared + 0.7 * own_luck.normal(size=n) > 1 - own_luck.uniform(0, 1.2)
            return {"": wrong.astype(int)}
        return {"": 2 + 0.3 * shared + 0.15 * own_luck.normal(size=n) + own_luck.uniform(0, 0.1)}

    tables = {"": Table(metric, right.astype(int) if metric == "accuracy" else right)}
    scores = scores_over(answer, tables, batch_size=16, lengths=random.integers(1, 9, n), workers=workers)
    stopping = EarlyStopping() if confidence is None else ConfidentStopping(confidence)
    names = [f"run{i}" for i in range(runs)]
    best, ranking = searched(Greedy(), scores, names, stopping=stopping if early else None)
    assert best.evaluation.complete
    assert best.evaluation.score >= ranking.best
    rows = trajectory([event for event in scores.ledger.events if event["event"] == "step"])
    return best, rows[rows["stage"] == "merge"][1:], scores.examples


@pytest.mark.slow
@pytest.mark.usefixtures("_few_resamples")
def test_only_discarding_is_sped_up():
    """Over ten searches: hardly any ends otherwise than with full evaluation, and at half of the cost."""
    scored, wholly, same = 0, 0, 0
    for seed in range(10):
        best, rows, _ = cook(seed, 0.99)
        whole, in_full, _ = cook(seed, None, early=False)
        kept = rows[rows["decision"] == "keep"]
        assert (kept["stopped_by"] == "").all()
        assert not kept["stopped_early"].any()
        assert (rows["stopped_early"] == (rows["stopped_by"] != "")).all()
        stopped = rows[rows["stopped_by"] == "confidence"]
        assert (stopped["decision"] == "discard").all()
        assert (stopped["score_at_most"] >= stopped["best_before"]).all()  # a loss is at least that
        assert stopped["score"].isna().all()
        scored, wholly = scored + rows["examples_scored"].sum(), wholly + in_full["examples_scored"].sum()
        same += best.recipe == whole.recipe
    assert same >= 9
    assert scored < 0.6 * wholly


@pytest.mark.usefixtures("_few_resamples")
def test_the_order_is_drawn_once_and_stays():
    orders = []
    for _ in range(2):
        _, rows, examples = cook(3, 0.9)
        assert (rows["decision"] == "keep").any()
        orders.append(examples.order("heldout")[""].tolist())
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == list(range(400))
    assert abs(np.corrcoef(orders[0], range(400))[0, 1]) < 0.15


@pytest.mark.slow
@pytest.mark.usefixtures("_few_resamples")
@pytest.mark.parametrize("metric", ["mse", "accuracy"])
def test_several_workers_decide_the_same(metric):
    for seed in range(6):
        alone, together = (cook(seed, 0.95, workers, metric)[1] for workers in (1, 3))
        pd.testing.assert_frame_equal(alone, together)


@pytest.mark.usefixtures("_few_resamples")
def test_right_and_wrong_answers_are_stopped_by_certainty_which_comes_sooner():
    reasons = set()
    for seed in range(6):
        exact, confident = (cook(seed, confidence, metric="accuracy")[1] for confidence in (None, 0.95))
        pd.testing.assert_frame_equal(exact, confident)
        reasons |= set(exact["stopped_by"])
    assert reasons == {"", "exact"}


@pytest.mark.usefixtures("_few_resamples")
def test_predictions_are_made_of_the_last_three_soups_and_the_two_best_runs(monkeypatch):
    asked: list[tuple[float, list[float]]] = []
    real = ConfidentStopping.threshold

    def threshold(self, rule, incumbent, tasks, examples, above=None, known=(), others=()):
        asked.append((incumbent.score, [one.score for one in others]))
        return real(self, rule, incumbent, tasks, examples, above, known, others)

    monkeypatch.setattr(ConfidentStopping, "threshold", threshold)
    _, rows, _ = cook(37, 0.99)
    assert (rows["decision"] == "keep").sum() >= 4
    soups = list(dict.fromkeys(score for score, _ in asked))
    assert len(soups) >= 4
    for incumbent, others in asked:
        *earlier, best, second = others
        assert earlier == soups[: soups.index(incumbent)][-3:]
        assert soups[0] == pytest.approx(best)
        assert second <= best


# A real run


@pytest.fixture(scope="module")
def many_texts(tmp_path_factory: pytest.TempPathFactory, texts: Path) -> Path:
    """As `texts`, with 400 held-out examples."""
    folder = tmp_path_factory.mktemp("many")
    shutil.copy(texts / "train.csv", folder)
    make_texts(400, seed=5).to_csv(folder / "validation.csv", index=False)
    return folder


@pytest.mark.slow
def test_a_real_run_says_what_stopped_it_and_is_continued(text_runs, many_texts, tmp_path):
    words = (
        *own(text_runs, many_texts),
        "task.metric.name=cross_entropy",
        "task.data.test=null",
        "evaluation.early_stopping={confidence: 0.99}",
        "name=x",
    )
    soupkitchen(*words, cwd=tmp_path)
    folder = tmp_path / "results" / "x"
    first = (folder / "trajectory.csv").read_text()
    rows = pd.read_csv(folder / "trajectory.csv", keep_default_na=False)
    merges = rows[rows["stage"] == "merge"]
    by_confidence = merges[merges["stopped_by"] == "confidence"]
    assert len(by_confidence)
    assert by_confidence["examples_scored"].min() < 200
    assert by_confidence["explained"].astype(float).between(0, 1).all()
    assert by_confidence["explained"].astype(float).max() > 0.3
    assert set(rows.loc[rows["stopped_by"] != "confidence", "explained"]) == {""}
    assert set(rows.loc[~rows["stopped_early"], "stopped_by"]) == {""}
    # the tables follow from the journal
    (folder / "trajectory.csv").unlink()
    assert forked(as_module("soupkitchen.tables"), str(folder), cwd=tmp_path).returncode == 0
    assert (folder / "trajectory.csv").read_text() == first
    # and a run that was cut off after a candidate was stopped ends as it did
    journal = folder / "journal.jsonl"
    stops = [i for i, event in enumerate(read(journal)) if event.get("stopped_by") == "confidence"]
    assert stops
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[: stops[0] + 1]))
    (folder / "leaderboard.csv").unlink()
    shutil.rmtree(folder / "soup")
    assert "continuing" in soupkitchen(*words, cwd=tmp_path).stderr
    again = pd.read_csv(folder / "trajectory.csv", keep_default_na=False)
    seconds = ["merge_seconds", "eval_seconds"]
    pd.testing.assert_frame_equal(again.drop(columns=seconds), rows.drop(columns=seconds))
    other = "evaluation.early_stopping={confidence: 0.9}"
    assert "confidence: 0.99 before, 0.9 now" in soupkitchen(*words, other, cwd=tmp_path, fails=True).stderr


# Options


@pytest.mark.parametrize(
    "option",
    [
        "off", "confident", 0.999, 1, None, ["confidence"], {"confidence": 0.5}, {"confidence": 1},
        {"confidence": "x"}, {"confidence": True}, {"confidence": None}, {}, {"surety": 0.9},
        {"confidence": 0.9, "examples": 3},
    ],
    ids=str,
)  # fmt: skip
def test_other_early_stopping_is_refused(option):
    told = r"evaluation\.early_stopping=.* should be true or false, exact, or \{confidence: p\}"
    with pytest.raises(ConfigError, match=told):
        EvaluationOptions(early_stopping=option)
    tree = {"_target_": "soupkitchen.evaluation.EvaluationOptions", "early_stopping": option}
    with pytest.raises(ConfigError, match=told):
        check_tree({"evaluation": tree})


def test_early_stopping_means_what_it_says():
    options = [True, "exact", False, {"confidence": 0.999}]
    told = [EvaluationOptions(early_stopping=option).stopping for option in options]
    assert [type(one) for one in told] == [EarlyStopping, EarlyStopping, type(None), ConfidentStopping]
    assert told[-1] == ConfidentStopping(0.999)
