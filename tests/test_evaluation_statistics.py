"""Statistics of two evaluations against scipy and simulations."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up import Table
from scipy.stats import binom, norm
from transformers import AutoModelForCausalLM

from soupkitchen import metrics
from soupkitchen.errors import ConfigError
from soupkitchen.evaluation import Evaluation, Part, compare, confidence_interval, statistics
from soupkitchen.evaluation.statistics import mcnemar, noise
from soupkitchen.search.base import AcceptRule
from soupkitchen.tasks import Data, Several, TextClassification


def evaluation(values: np.ndarray) -> Evaluation:
    part = Part(float(values.mean()), values, values, len(values), len(values))
    return Evaluation("heldout", float(values.mean()), {"": part})


@given(st.integers(0, 30), st.integers(0, 30))
def test_mcnemars_p_value_is_the_binomial_tail(fixed, broken):
    before, after = np.zeros(80), np.zeros(80)
    after[:fixed] = 1
    before[fixed : fixed + broken] = 1
    tasks = Several({"": Table("accuracy", before)})
    comparison = compare(evaluation(after), evaluation(before), tasks, {"": before})
    assert (comparison.fixed, comparison.broken) == (fixed, broken)
    assert comparison.gain == pytest.approx((fixed - broken) / 80)
    expected = binom.sf(fixed - 1, fixed + broken, 0.5) if fixed + broken else 1.0
    assert comparison.p_value == pytest.approx(expected)
    assert comparison.p_value == mcnemar(after - before)


def test_the_paired_interval_covers_the_true_difference_about_as_often_as_it_says():
    covered, random = 0, np.random.default_rng(0)
    for _ in range(200):
        shared = random.normal(size=120)
        before, after = shared + 0.5 * random.normal(size=120), shared + 0.5 * random.normal(size=120) + 0.1
        comparison = compare(
            evaluation(-(after**2)), evaluation(-(before**2)), several_of("mse"), {"": before}
        )
        low, high = comparison.interval
        covered += low <= -(0.1**2) <= high  # E[-after²] - E[-before²]
    assert 0.9 <= covered / 200 <= 0.99


def test_the_bootstraps_p_value_is_small_for_a_clear_gain_and_large_for_none():
    random = np.random.default_rng(1)
    before = -random.random(200)
    clear, none = before + 0.1 + 0.1 * random.random(200), before + 0.2 * (random.random(200) - 0.5)
    tasks, references = several_of("mse"), {"": before}
    assert compare(evaluation(clear), evaluation(before), tasks, references).p_value < 0.01
    assert compare(evaluation(none), evaluation(before), tasks, references).p_value > 0.05


def several_of(metric: str) -> Several:
    return Several({"": Table(metric, np.zeros(1))})


class Opaque:
    """A metric that says nothing of itself."""

    def compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"opaque": float(np.mean(np.equal(predictions, references)))}


def with_metrics(*names: str) -> Several:
    found = [
        metrics.TaskMetric("opaque", Opaque(), "opaque") if name == "opaque" else metrics.load(name)
        for name in names
    ]
    tasks = [SimpleNamespace(metric=metric, model_class=AutoModelForCausalLM) for metric in found]
    return Several(dict(zip(names, tasks, strict=True)))


@pytest.mark.parametrize("names", [("accuracy",), ("f1_macro",), ("mse",), ("accuracy", "mse")])
def test_no_p_value_is_below_the_least_that_is_told(names):
    """The clearest gain that there can be has the least p-value."""
    tasks = with_metrics(*names)
    size = 8
    truth = np.arange(size) % 2
    parts = {}
    for side, predictions in {"good": truth, "bad": 1 - truth}.items():
        parts[side] = {}
        for name, task in tasks.tasks.items():
            values = task.metric.per_example(predictions, truth)
            score = task.metric.score(predictions, truth)
            parts[side][name] = Part(score, values, predictions, size, size)
    good, bad = (
        Evaluation("heldout", tasks.score({n: p.score for n, p in parts[s].items()}), parts[s])
        for s in ("good", "bad")
    )
    assert compare(good, bad, tasks, dict.fromkeys(names, truth)).p_value == pytest.approx(
        statistics.least_p(tasks, size)
    )


def test_a_rule_that_can_accept_nothing_is_refused_before_any_work():
    assert statistics.least_p(with_metrics("opaque"), 100) is None
    for least, amount in ((None, 0.05), (1 / 1001, 0.0005), (0.5**4, 0.05)):
        with pytest.raises(ConfigError, match=r"search\.accept"):
            AcceptRule.of({"significant": amount}).check(least)
    for option in ("better", "not_worse", {"margin": 0.1}):
        AcceptRule.of(option).check(None)
    AcceptRule.of({"significant": 0.001}).check(1 / 1001)


# Intervals


def test_the_interval_of_accuracy_is_the_binomials(text_runs):
    right = np.repeat([1.0, 0.0], [140, 60])
    tasks = Several.of(TextClassification(Data("-"), metrics.load("accuracy")))
    only = Part(0.7, right, right, 200, 200)
    evaluation = Evaluation("heldout", 0.7, {"": only})
    low, high = confidence_interval(evaluation, tasks, {"": right})
    half = norm.ppf(0.975) * np.sqrt(0.7 * 0.3 / 200)
    assert low == pytest.approx(0.7 - half, abs=0.012)
    assert high == pytest.approx(0.7 + half, abs=0.012)
    assert confidence_interval(evaluation, tasks, {"": right}) == (low, high)


def test_the_interval_of_macro_f1_resamples_examples():
    random = np.random.default_rng(0)
    references = random.integers(0, 3, 150)
    predictions = np.where(random.random(150) < 0.7, references, random.integers(0, 3, 150))
    metric = metrics.load("f1_macro")
    score = metric.score(predictions, references)
    only = Part(score, None, predictions, 150, 150)
    tasks = Several.of(TextClassification(Data("-"), metric))
    evaluation = Evaluation("heldout", score, {"": only})
    low, high = confidence_interval(evaluation, tasks, {"": references})
    draws = [random.integers(0, 150, 150) for _ in range(2000)]
    expected = np.quantile([metric.quick(predictions[d], references[d]) for d in draws], [0.025, 0.975])
    np.testing.assert_allclose([low, high], expected, atol=0.02)


# What may be chance


def test_noise_is_the_median_standard_error_beside_the_first_of_the_best_runs():
    random, tasks = np.random.default_rng(0), several_of("mse")
    values = [-random.exponential(size=400) * (1 + number) for number in range(9)]
    errors = [np.std(one - values[0], ddof=1) / np.sqrt(400) for one in values[1:6]]  # five, not eight
    found = noise([evaluation(one) for one in values], tasks, {"": np.zeros(400)})
    assert found == pytest.approx(np.median(errors), rel=1e-9)
    assert noise([evaluation(values[0])], tasks, {"": np.zeros(400)}) is None


def test_of_runs_that_were_scored_in_part_noise_takes_the_examples_that_both_have():
    random, tasks = np.random.default_rng(1), several_of("mse")
    best, other = -random.exponential(size=400), -random.exponential(size=400)
    first = random.permutation(400)[:50]
    known = np.zeros(400)
    known[first] = other[first]
    part = Part(float(known.mean()), known, other[first], 50, 400, first)
    found = noise(
        [evaluation(best), Evaluation("heldout", part.score, {"": part}, False)], tasks, {"": known}
    )
    assert found == pytest.approx(np.std((other - best)[first], ddof=1) / 20, rel=1e-9)


def test_noise_of_a_perplexity_is_that_of_resampling():
    random, tasks = np.random.default_rng(2), several_of("perplexity")
    tokens = np.stack([random.integers(5, 60, size=300)] * 2, axis=1)
    metric = tasks.tasks[""].metric
    nats = [tokens[:, 0] * random.normal(3, 0.3, size=300) for _ in range(2)]
    both = [
        Evaluation("heldout", part.score, {"": part})
        for part in (Part.whole(metric, one, tokens) for one in nats)
    ]
    drawn = random.integers(0, 300, size=(2000, 300))
    gains = [np.exp(one[drawn].sum(1) / tokens[drawn, 0].sum(1)) for one in nats]
    assert noise(both, tasks, {"": tokens}) == pytest.approx(np.std(gains[0] - gains[1]), rel=0.1)


def test_a_margin_that_follows_from_the_ranking_has_one_digit():
    rule = AcceptRule.of({"margin": "auto"})
    assert rule.after_ranking(0.00437) == AcceptRule("margin", 0.004)
    assert rule.after_ranking(None) == AcceptRule("margin", 0.0)
    for other in (AcceptRule("better"), AcceptRule("margin", 0.1), AcceptRule("significant", 0.05)):
        assert other.after_ranking(0.00437) == other
