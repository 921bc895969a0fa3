"""Shipped metrics against scikit-learn; others by path; a clear word where the hub is needed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st

from soupkitchen import metrics
from soupkitchen.errors import MetricError

labels = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60)


def columns(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    predictions, references = np.array(pairs).T
    return predictions, references


def test_the_shipped_metrics_are_these() -> None:
    assert metrics.shipped() == ["accuracy", "cross_entropy", "exact_match", "f1_macro"]


@given(labels)
def test_accuracy(pairs: list[tuple[int, int]]) -> None:
    predictions, references = columns(pairs)
    metric = metrics.load("accuracy")
    expected = sklearn.metrics.accuracy_score(references, predictions)
    assert metric.score(predictions, references) == pytest.approx(expected, abs=1e-12)
    assert metric.per_example(predictions, references).mean() == pytest.approx(expected, abs=1e-12)


@given(labels)
def test_macro_f1(pairs: list[tuple[int, int]]) -> None:
    predictions, references = columns(pairs)
    metric = metrics.load("f1_macro")
    expected = sklearn.metrics.f1_score(references, predictions, average="macro", zero_division=0)
    assert metric.score(predictions, references) == pytest.approx(expected, abs=1e-12)
    assert metric.quick(predictions, references) == pytest.approx(expected, abs=1e-12)
    assert metric.per_example(predictions, references) is None


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_cross_entropy_is_a_loss_in_nats(references: list[int], seed: int) -> None:
    logits = np.random.default_rng(seed).normal(scale=5, size=(len(references), 5)).astype(np.float32)
    exponentials = np.exp(logits.astype(np.float64))
    expected = sklearn.metrics.log_loss(
        references, exponentials / exponentials.sum(1, keepdims=True), labels=range(5)
    )
    metric = metrics.load("cross_entropy")
    score = metric.score(logits, np.array(references))
    assert score == pytest.approx(-expected, rel=1e-6)
    assert metric.shown(score) == pytest.approx(expected, rel=1e-6)
    assert metric.per_example(logits, np.array(references)).mean() == pytest.approx(score, rel=1e-6)


def test_cross_entropy_of_extreme_logits_is_finite() -> None:
    metric = metrics.load("cross_entropy")
    assert metric.score(np.array([[1e4, 0.0]]), np.array([1])) == pytest.approx(-1e4)


@pytest.mark.parametrize("predictions", [["a", "b c", ""], [1, 2, 3]])
def test_exact_match(predictions: list) -> None:
    references = [predictions[0], predictions[2], predictions[2]]
    metric = metrics.load("exact_match")
    assert metric.score(np.array(predictions), np.array(references)) == pytest.approx(2 / 3)


SCRIPT = """
import datasets
import evaluate


class Closeness(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="", citation="",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, scale=1.0):
        distance = sum(abs(p - r) for p, r in zip(predictions, references)) / len(predictions)
        return {"closeness": -scale * distance, "distance": distance}
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "closeness").mkdir()
    (tmp_path / "closeness" / "closeness.py").write_text(SCRIPT)
    return str(tmp_path / "closeness")


def test_a_metric_of_ones_own_is_found_by_path(script: str) -> None:
    predictions, references = np.array([1, 2, 3]), np.array([1, 3, 5])
    assert metrics.load(script).score(predictions, references) == -1.0
    scaled = metrics.load(script, options={"scale": 2.0})
    assert scaled.score(predictions, references) == -2.0
    loss = metrics.load(script, key="distance", greater_is_better=False)
    assert loss.score(predictions, references) == -1.0
    assert loss.shown(loss.score(predictions, references)) == 1.0
    assert loss.per_example(predictions, references) is None
    assert loss.quick(predictions, references) is None


def test_a_wrong_key_lists_the_right_ones(script: str) -> None:
    with pytest.raises(MetricError, match="gives closeness, distance, not 'f1'"):
        metrics.load(script, key="f1").score(np.array([1]), np.array([1]))


@pytest.mark.parametrize("name", ["rouge", "hub:accuracy", "no/such/metric"])
def test_out_of_reach_of_the_hub_the_error_lists_what_works_offline(name: str) -> None:
    with pytest.raises(MetricError, match=r"hub could not be reached.*accuracy, cross_entropy"):
        metrics.load(name)


def test_input_that_a_metric_refuses_is_an_error_in_plain_words() -> None:
    with pytest.raises(MetricError, match="accuracy"):
        metrics.load("accuracy").score(np.array(["a"]), np.array([1]))
