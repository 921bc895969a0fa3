"""Searches over tables: early stopping and workers change no decision, and what fails is told."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command import own, soupkitchen
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from made_up import Table, merges_of, predictions, scores_over, searched
from safetensors.torch import load_file

from soupkitchen.errors import CandidateError
from soupkitchen.evaluation import EarlyStopping, Evaluation, Part
from soupkitchen.evaluation.scoring import Examples, Listed
from soupkitchen.experiment.judge import Judge
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.experiment.scores import Scored, Scores
from soupkitchen.merging import Linear, TaskVectors
from soupkitchen.search import AcceptRule, Evolve, Exhaustive, Greedy, Pruned, Search
from soupkitchen.soup import Recipe


def cook(
    seed: int,
    accept: Any,
    early: bool,
    batch_size: int,
    metric: str,
    variants: int,
    tasks: int,
    workers: int = 1,
    search: Search | None = None,
):
    """The real search over tables: its trajectory, soup and score, and how many examples it scored."""
    random = np.random.default_rng(seed)
    n, runs = int(random.integers(8, 60)), int(random.integers(2, 7))
    skill = random.uniform(0.3, 0.9)
    names = [f"task{i}" for i in range(tasks)]
    tables = {
        name: Table(metric, random.normal(size=n) if metric == "mse" else random.integers(0, 2, n))
        for name in names
    }
    tables = tables if tasks > 1 else {"": tables["task0"]}

    def answers(recipe: Recipe, split: str) -> dict[str, np.ndarray]:
        return {
            name: predictions(
                seed + number, recipe.ingredients, f"{recipe.variant}{recipe.coefficients}", table, skill
            )
            for number, (name, table) in enumerate(tables.items())
        }

    lengths = random.integers(1, 9, n) if seed % 3 else None
    aggregate = "min" if seed % 2 else "mean"
    scores = scores_over(
        answers, tables, aggregate=aggregate, batch_size=batch_size, lengths=lengths, workers=workers
    )
    method = TaskVectors(scale=[0.5 + i for i in range(variants)]) if variants > 1 else Linear()
    stopping = EarlyStopping() if early else None
    pool = [f"run{i}" for i in range(runs)]
    best, ranking = searched(search or Greedy(accept), scores, pool, method, stopping)
    merges = [SimpleNamespace(**event) for event in merges_of(scores)]
    scored = sum(row.examples_scored for row in merges)
    decisions = [(row.candidate, row.variant, row.decision) for row in merges]
    assert best.evaluation.score >= ranking.best
    return decisions, best.recipe.ingredients, best.evaluation.score, scored, merges


def scores_of(answers: Any, right: np.ndarray, metric: str = "accuracy") -> Scores:
    return scores_over(answers, {"": Table(metric, right)})


RULES = ["better", "not_worse", {"margin": 0.05}, {"significant": 0.2}]


@pytest.mark.slow
@pytest.mark.usefixtures("_few_resamples")
@pytest.mark.parametrize("accept", RULES, ids=str)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 2**20),
    st.integers(2, 14),
    st.sampled_from(["accuracy", "mse"]),
    st.integers(1, 3),
    st.integers(1, 2),
)
def test_early_stopping_changes_no_decision_no_soup_and_no_score(
    accept, seed, batch_size, metric, variants, tasks
):
    early = cook(seed, accept, True, batch_size, metric, variants, tasks)
    full = cook(seed, accept, False, batch_size, metric, variants, tasks)
    assert early[:3] == full[:3]
    assert early[3] <= full[3]
    for stopped, whole in zip(early[4], full[4], strict=True):
        if stopped.stopped_early:
            assert stopped.score is None
            at_most = stopped.score_at_most if metric != "mse" or tasks > 1 else -stopped.score_at_most
            actual = whole.score if metric != "mse" or tasks > 1 else -whole.score
            assert actual <= at_most + 1e-12
        else:
            assert stopped.score == whole.score
            assert (stopped.fixed, stopped.broken, stopped.p_value) == (
                whole.fixed,
                whole.broken,
                whole.p_value,
            )


@pytest.mark.slow
@pytest.mark.usefixtures("_few_resamples")
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**20), st.integers(2, 14), st.sampled_from(RULES), st.integers(2, 9))
def test_several_workers_change_no_row_of_the_trajectory(seed, batch_size, accept, workers):
    alone = cook(seed, accept, True, batch_size, "accuracy", 1, 1)
    together = cook(seed, accept, True, batch_size, "accuracy", 1, 1, workers)
    assert repr(together) == repr(alone)


SEARCHES = [
    Greedy(passes=2, prune=True, candidates=4),
    Greedy(replacement=True, candidates=3),
    Greedy(candidate_scale=[0.25, 1], accept={"margin": 0.01}),
    Pruned(),
    Exhaustive(candidates=4),
    Evolve(evaluations=20, population=6, initial="uniform"),
    Evolve(evaluations=14, population=6, layers=2, accept={"significant": 0.2}),
]


@pytest.mark.slow
@pytest.mark.usefixtures("_few_resamples")
@pytest.mark.parametrize("search", SEARCHES, ids=repr)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**20), st.integers(2, 14), st.sampled_from(["accuracy", "mse"]), st.integers(2, 5))
@example(506, 7, "accuracy", 2)
def test_every_search_decides_as_with_full_evaluation_and_as_several_workers_do(
    search, seed, batch_size, metric, workers
):
    options = ("", True, batch_size, metric, 1, 1)
    early = cook(seed, *options, search=search)
    full = cook(seed, "", False, *options[2:], search=search)
    together = cook(seed, *options, workers, search)
    assert repr(together) == repr(early)
    assert early[:3] == full[:3]
    known = sum(row.examples_total for row in full[4] if row.cached)  # what was scored in full before
    assert early[3] <= full[3] + known
    for stopped, whole in zip(early[4], full[4], strict=True):
        assert stopped.score in (None, whole.score)
        assert stopped.coefficients == whole.coefficients


@pytest.mark.slow
def test_of_a_generation_only_the_parents_have_to_be_scored_in_full():
    """With members of the same skill, a third of the examples of those that are no parents is saved."""
    search = Evolve(evaluations=60, population=12, initial="best")
    partly = []
    for seed in range(12):
        _, _, _, _, merges = cook(seed, "", True, 2, "accuracy", 1, 1, search=search)
        members = [row for row in merges if row.candidate.startswith("generation")]
        for start in range(0, len(members), 12):
            generation = members[start : start + 12]
            known = sorted(row.score for row in generation if row.score is not None)
            assert len(known) >= 6
            for row in generation:  # whoever was stopped could not have been among the first six
                assert row.score is not None or row.score_at_most <= known[-6]
            partly += [row.examples_scored / row.examples_total for row in generation if row.stopped_early]
    assert len(partly) > 150  # of 720; 112 where the least of the scores so far is the one to reach
    assert np.mean(partly) < 0.9


def test_of_equal_recipes_the_first_is_the_best():
    """Controls and starts of a search take it: alternatives are in the order of the options."""
    right = np.ones(6, int)
    judge = Judge(Greedy().rule, scores_of(lambda recipe, split: {"": right}, right), Recipes(Linear()))
    best = judge.best("equals", [Recipe.single(name) for name in "cab"])
    assert best.recipe.ingredients == ("c",)


def test_a_search_that_ends_below_the_best_single_run_returns_to_it():
    right = np.ones(10, int)
    wrong = {("a",): 1, ("b",): 5, ("c",): 6, ("a", "b", "c"): 8, ("a", "b"): 7, ("a", "c"): 9, ("b", "c"): 9}

    def answers(recipe: Recipe, split: str) -> dict[str, np.ndarray]:
        return {"": np.where(np.arange(10) < wrong[recipe.ingredients], 0, right)}

    scores = scores_of(answers, right)
    best, _ = searched(Pruned(), scores, "abc", stopping=EarlyStopping())
    assert best.recipe.ingredients == ("a",)
    assert [(row["candidate"], row["decision"]) for row in merges_of(scores)] == [
        ("all 3", "start"),
        ("without c", "keep"),
        ("without b", "keep"),
    ]


@pytest.mark.parametrize("broken", ["raises", "nan"])
def test_a_search_whose_start_cannot_be_scored_starts_as_the_best_single_run(broken):
    right = np.ones(10)

    def answers(recipe: Recipe, split: str) -> dict[str, np.ndarray]:
        if len(recipe.ingredients) == 3:
            if broken == "raises":
                raise ValueError("it cannot be done")
            return {"": np.full(10, np.nan)}
        return {"": right - 0.1 * "cba".index(recipe.ingredients[-1]) - 0.1}

    scores = scores_of(answers, right, "mse")
    best, _ = searched(Pruned(), scores, "abc", stopping=EarlyStopping())
    assert best.recipe.ingredients == ("c",)
    told = [(row["candidate"], row["decision"]) for row in merges_of(scores)]
    assert told[:2] == [("all 3", "error"), ("c", "start")]
    assert not any(decision == "keep" for _, decision in told)


def test_after_a_keep_the_batches_come_first_that_the_new_soup_does_worst_on():
    right = np.ones(8, int)
    wrong = {("a",): range(4), ("b",): range(5), ("c",): range(6), ("a", "b"): (6, 7)}

    def answers(recipe: Recipe, split: str) -> dict[str, np.ndarray]:
        predicted = right.copy()
        predicted[list(wrong.get(recipe.ingredients, ()))] = 0
        return {"": predicted}

    scores, orders = scores_of(answers, right), {}
    score = scores.executor.score
    scores.executor.score = lambda requests: (  # type: ignore[method-assign]
        orders.update({one.recipe.ingredients: one.order[""] for one in requests}),
        score(requests),
    )[1]
    searched(Greedy(), scores, "abc", stopping=EarlyStopping())
    assert set(orders["a", "b"][:4]) == set(wrong["a",])  # the best run's errors
    assert set(orders["a", "b", "c"][:2]) == set(wrong["a", "b"])  # the soup's


@pytest.mark.parametrize(
    ("search", "variants", "alternatives"),
    [(Greedy(), 1, 1), (Greedy(), 3, 3), (Greedy(candidate_scale=(0.5, 1.0)), 1, 2), (Exhaustive(), 1, None)],
    ids=str,
)
def test_steps_say_of_which_candidates_one_at_most_was_taken(search, variants, alternatives):
    merges = cook(5, "better", False, 8, "accuracy", variants, 1, search=search)[-1]
    choices = Counter(row.choice for row in merges if row.decision in ("keep", "discard"))
    assert len(merges) > 3
    if alternatives is None:
        assert set(choices) == {"subsets"}
    else:
        assert set(choices.values()) == {alternatives}


@pytest.mark.parametrize("fails", [("b", "c"), ("b",)])
def test_where_all_candidates_fail_the_run_does_and_says_why(fails):
    right = np.ones(8, int)

    def answers(recipe: Recipe, split: str) -> dict[str, np.ndarray]:
        if recipe.size > 1 and recipe.ingredients[-1] in fails:
            raise ValueError("a fault in common")
        return {"": right}

    scores = scores_of(answers, right)
    if len(fails) == 1:
        assert searched(Greedy(), scores, "abc")[0].recipe.ingredients == ("a",)
        return
    with pytest.raises(CandidateError, match=r"all 2 candidates failed, the first with: .*a fault in common"):
        searched(Greedy(), scores, "abc")


def test_early_stopping_saves_forward_passes():
    scored = {
        early: sum(cook(seed, "better", early, 4, "accuracy", 1, 1)[3] for seed in range(30))
        for early in (True, False)
    }
    assert scored[True] < 0.75 * scored[False]


def test_the_hardest_examples_come_first_in_buckets_of_like_length():
    table = Table("accuracy", np.zeros(20, int))
    examples = Examples({"heldout": {"": Listed(table.right, np.arange(20) % 7)}}, 2)
    values = {"soup": np.ones(20), "one": np.ones(20), "two": np.ones(20)}
    values["soup"][[3, 5, 11]] = 0
    values["one"][[3, 8]] = 0
    evaluations = {
        name: Evaluation("heldout", 0.5, {"": Part(0.5, v, v, 20, 20)}) for name, v in values.items()
    }
    examples.arrange("heldout", evaluations["soup"], [evaluations["one"], evaluations["two"]])
    order = examples.order("heldout")[""]
    assert sorted(order) == list(range(20))
    assert set(order[:8]) >= {3, 5, 11, 8}
    assert (np.diff(order[:8] % 7) <= 0).all()


def test_any_number_is_better_than_nan():
    scores = {"first": float("nan"), "second": 0.2, "third": float("nan")}

    def each(requests: Any, *options: Any) -> Any:
        for request in requests:
            evaluation = SimpleNamespace(score=scores[request.recipe], complete=True, parts={})
            yield Scored(request.recipe, evaluation, 0.0, False, {})  # type: ignore[arg-type]

    judge = Judge(AcceptRule(), SimpleNamespace(each=each), None)  # type: ignore[arg-type]
    assert judge.best("", ["first", "second", "third"]).recipe == "second"  # type: ignore[list-item]


@pytest.mark.parametrize("metric", ["accuracy", "cross_entropy"])
def test_with_real_models_early_stopping_changes_nothing_but_the_forward_passes(
    metric, text_runs, texts, tmp_path
):
    words = (*own(text_runs, texts), f"task.metric.name={metric}", "search.passes=2", "runtime.batch_size=4")
    runs = {"true": tmp_path / "results" / "early", "false": tmp_path / "results" / "whole"}
    for early, folder in runs.items():
        soupkitchen(*words, f"evaluation.early_stopping={early}", f"name={folder.name}", cwd=tmp_path)
    pd.testing.assert_frame_equal(*(pd.read_csv(folder / "leaderboard.csv") for folder in runs.values()))
    early, whole = (pd.read_csv(folder / "trajectory.csv") for folder in runs.values())
    early, whole = (table[table["stage"] == "merge"] for table in (early, whole))
    for column in ("candidate", "decision", "ingredients"):
        assert early[column].tolist() == whole[column].tolist()
    assert early["stopped_early"].any()
    assert not whole["stopped_early"].any()
    assert early["examples_scored"].sum() < whole["examples_scored"].sum()
    one, other = (load_file(folder / "soup" / "model.safetensors") for folder in runs.values())
    assert all(torch.equal(one[name], other[name]) for name in one)
