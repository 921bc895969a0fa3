"""The seam between decisions and scoring: requests, bars and results are data, and may travel."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, cast

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from soupkitchen import metrics
from soupkitchen.errors import CandidateError, CheckpointError
from soupkitchen.evaluation import Evaluation, Part, Threshold, compare
from soupkitchen.evaluation.evaluator import Batches
from soupkitchen.evaluation.scoring import Examples, Listed
from soupkitchen.executors import Bench, Fake, Local, Request, Scoring
from soupkitchen.executors.spmd import SharedBench, _Follower
from soupkitchen.experiment.ledger import Ledger
from soupkitchen.experiment.scores import Scores, Unscorable
from soupkitchen.merging import Linear
from soupkitchen.search import AcceptRule
from soupkitchen.soup import Recipe
from soupkitchen.soup.memory import StateMemory
from soupkitchen.tasks import Several

RULES = [AcceptRule.of(option) for option in ("better", "not_worse", {"margin": 0.1}, {"significant": 0.2})]


def accuracy() -> Several:
    return Several({"": SimpleNamespace(metric=metrics.load("accuracy"), model_class=object)})


def evaluation(values: np.ndarray, complete: bool = True, scored: int | None = None) -> Evaluation:
    size = len(values)
    part = Part(float(values.mean()), values, values if complete else (), scored or size, size)
    return Evaluation("heldout", part.score, {"": part}, complete)


# Thresholds


@given(
    st.lists(st.tuples(st.booleans(), st.booleans()), min_size=2, max_size=25),
    st.sampled_from(RULES),
    st.integers(0, 25) | st.none(),
)
def test_a_threshold_never_stops_what_would_be_kept(answers, rule, right):
    """At no moment, in whatever order the examples come: here in their own."""
    candidate, incumbent = (np.array(column, float) for column in zip(*answers, strict=True))
    above = None if right is None else right / len(answers)  # a score that there can be
    tasks, before = accuracy(), evaluation(incumbent)
    threshold = Threshold.of(rule, before, tasks, above)
    full = compare(evaluation(candidate), before, tasks, {"": np.ones(len(answers))})
    kept = rule.accepts(full.gain, lambda: full.p_value) and (above is None or candidate.mean() > above)
    for done in range(1, len(answers)):
        so_far = np.where(np.arange(len(answers)) < done, candidate, 1.0)
        stopped = threshold.out_of_reach(evaluation(so_far, complete=False, scored=done))
        assert not (stopped and kept)
    assert threshold.out_of_reach(evaluation(candidate)) == (not kept)  # with all known, it knows all


def test_a_threshold_and_what_it_is_asked_travel():
    threshold = Threshold.of(
        AcceptRule("significant", 0.05), evaluation(np.array([1.0, 0.0, 1.0])), accuracy(), 0.3
    )
    request = Request(
        "x", Recipe.of("ab", Linear()), threshold=threshold, order={"": np.array([2, 0, 1])}, growing=True
    )
    again = pickle.loads(pickle.dumps(request))
    assert again.recipe == request.recipe
    assert again.threshold.rule == threshold.rule
    assert again.threshold.paired.tolist() == [1.0, 0.0, 1.0]
    assert again.order[""].tolist() == [2, 0, 1]
    result = Scoring(evaluation(np.array([1.0, 0.0])), 0.5, 8)
    assert pickle.loads(pickle.dumps(result)).evaluation.parts[""].values.tolist() == [1.0, 0.0]


def test_only_rules_that_ask_for_p_values_carry_the_incumbents_examples():
    before = evaluation(np.array([1.0, 0.0]))
    assert Threshold.of(AcceptRule("better"), before, accuracy()).paired is None
    assert Threshold.of(AcceptRule("significant", 0.1), before, accuracy()).paired is not None


# The local one


def test_results_of_real_models_hold_numbers_and_arrays_only(bench):
    executor = Local()
    executor.start(bench)
    requests = [Request(name, Recipe.single(name)) for name in "ab"]
    for scoring in executor.score(requests):
        again = pickle.loads(pickle.dumps(scoring))
        assert again.evaluation.score == scoring.evaluation.score
        assert b"soupkitchen.metrics" not in pickle.dumps(scoring)
        assert b"transformers" not in pickle.dumps(scoring)


def test_what_is_not_asked_for_is_not_scored(bench, monkeypatch):
    scored = []
    score = bench.score
    monkeypatch.setattr(bench, "score", lambda request: (scored.append(request.what), score(request))[1])
    executor = Local()
    executor.start(bench)
    results = executor.score([Request(name, Recipe.single(name)) for name in "abcd"])
    next(results)
    assert scored == ["a"]


def test_the_order_of_a_request_is_that_of_scoring_and_changes_no_score(bench):
    usual = bench.score(Request("", Recipe.single("a"))).evaluation
    order = {"": bench.evaluator.examples.order("heldout")[""][::-1].copy()}
    threshold = Threshold(AcceptRule("better"), incumbent=0.95)
    stopped = bench.score(Request("", Recipe.single("a"), threshold=threshold, order=order)).evaluation
    assert not stopped.complete
    known = order[""][: stopped.examples_scored]
    np.testing.assert_array_equal(stopped.parts[""].values[known], usual.parts[""].values[known])
    assert bench.score(Request("", Recipe.single("a"), order=order)).evaluation.score == usual.score


def test_a_recipe_that_cannot_be_merged_is_an_error_and_not_the_end(bench, monkeypatch):
    def odd(*asked: Any) -> Iterator[Any]:
        raise RuntimeError("its tensors are odd")

    with monkeypatch.context() as broken:
        broken.setattr(bench.mixer, "tensors", odd)
        assert bench.score(Request("", Recipe.single("a"))).error == "RuntimeError: its tensors are odd"
    assert bench.score(Request("", Recipe.single("a"))).evaluation is not None


# What stands before it


def scores_of(answers: dict[str, list[int]], workers: int = 1, on_error: Any = "skip") -> Scores:
    tasks, size = accuracy(), len(next(iter(answers.values())))
    examples = Examples({"heldout": {"": Listed(np.ones(size, int))}}, 2)

    def predicted(recipe: Recipe, split: str) -> dict[str, np.ndarray]:
        return {"": np.array(answers[recipe.ingredients[-1]])}

    executor = Fake(predicted, tasks, examples, workers)
    known: Any = SimpleNamespace(
        asked=lambda recipe, split: recipe.digest,
        predictions=lambda recipe, split: recipe.digest,
        check=lambda recipe: None,
    )
    return Scores(executor, examples, tasks, Ledger(None), known, on_error=on_error)


def test_nothing_is_scored_twice_by_one_process():
    scores = scores_of({"a": [1, 0, 1], "b": [1, 1, 1]})
    first = scores.score(Request("", Recipe.single("a")))
    again = scores.score(Request("", Recipe.single("a")))
    assert (first.cached, again.cached) == (False, True)
    assert again.evaluation is first.evaluation
    assert len(scores.executor.scored) == 1
    assert not scores.score(Request("", Recipe.single("a")), anew=True).cached


def test_what_fails_is_told_once_and_the_others_follow():
    scores = scores_of({"a": [1, 0, 1], "b": [1, 1, 1]})
    requests = [Request("", Recipe.single(name)) for name in ("a", "missing", "b")]
    first, failed, last = scores.each(requests)
    assert isinstance(failed, Unscorable)
    assert "KeyError: 'missing'" in failed.reason
    assert (first.evaluation.score, last.evaluation.score) == (pytest.approx(2 / 3), 1.0)
    assert [event["event"] for event in scores.ledger.events] == ["score", "error", "score"]
    with pytest.raises(CandidateError, match="KeyError: 'missing'"):  # the next run may try it again
        scores.score(requests[1])
    assert len(scores.ledger.events) == 3
    with pytest.raises(CheckpointError, match=r"search\.on_error=skip goes on without it"):
        scores_of({"a": [1]}, on_error="stop").score(Request("", Recipe.single("missing")))


@given(st.integers(1, 7), st.integers(0, 6))
def test_of_several_workers_only_what_was_asked_for_is_told(workers, taken):
    names = "abcdefg"
    scores = scores_of({name: [1, 0] for name in names}, workers)
    results = scores.each([Request(name, Recipe.single(name)) for name in names])
    for _ in range(taken):
        next(results)
    assert [event["what"] for event in scores.ledger.events] == list(names[:taken])


def test_what_is_known_already_does_not_shift_what_several_workers_found():
    answers = {"a": [1, 0, 0], "b": [1, 1, 0], "c": [1, 1, 1]}
    scores = scores_of(answers, workers=3)
    scores.score(Request("", Recipe.single("b")))
    found = scores.each([Request("", Recipe.single(name)) for name in "abc"])
    assert [one.evaluation.score for one in found] == [pytest.approx(n / 3) for n in (1, 2, 3)]


def test_a_fake_stops_at_the_threshold_as_a_real_one_does():
    scores = scores_of({"a": [0, 0, 0, 0, 1, 1]})
    threshold = Threshold(AcceptRule("better"), incumbent=0.7)
    scored = scores.score(Request("", Recipe.single("a"), threshold=threshold))
    assert not scored.evaluation.complete
    assert scored.evaluation.examples_scored == 2  # of two wrong ones four may still be right: 0.67
    assert scored.evaluation.score == pytest.approx(4 / 6)


def test_what_is_scored_to_the_end_is_complete_however_bad(bench, monkeypatch):
    threshold = Threshold(AcceptRule("better"), incumbent=1.0)
    scores = scores_of({"a": [0, 1, 0]})
    scores.examples.batch_size = 3
    monkeypatch.setattr(bench.evaluator.examples, "batch_size", 1000)
    for evaluation in (
        scores.score(Request("", Recipe.single("a"), threshold=threshold)).evaluation,
        bench.score(Request("", Recipe.single("wild"), threshold=threshold)).evaluation,
    ):
        assert evaluation.complete
        assert len(evaluation.parts[""].predictions) == evaluation.examples_total


# Several processes


def test_each_process_of_a_launch_makes_its_batches_once():
    cpu, made = torch.device("cpu"), Counter[int]()
    data = datasets.Dataset.from_dict({"x": list(range(22))})
    asked = [np.arange(start, min(start + 4, 22)) for start in range(0, 22, 4)]

    def bench(number: int) -> Bench:
        def collate(examples: list[dict[str, int]]) -> dict[str, torch.Tensor]:
            made[number] += 1
            return {"x": torch.tensor([example["x"] for example in examples])}

        batches = Batches(data, collate, cpu, StateMemory(cpu, 0, 1 << 20))
        evaluator = SimpleNamespace(
            predictions=lambda split, name, some: (batch["x"].numpy() for batch in batches.of(some))
        )
        return Bench(cast("Any", evaluator), cast("Any", None))

    followers = [_Follower(cast("Any", SimpleNamespace(number=n, size=4)), bench(n)) for n in (1, 2, 3)]
    group = SimpleNamespace(
        size=4, do=lambda message, own: [own(), *(one.answer(message) for one in followers)]
    )
    shared = SharedBench(bench(0), cast("Any", group))
    for _ in range(3):
        rows = list(shared.predictions("heldout", "", asked))
        assert np.concatenate(rows).tolist() == list(range(22))
        next(shared.predictions("heldout", "", asked))  # a candidate that falls at once
    assert made == {0: 2, 1: 2, 2: 1, 3: 1}
