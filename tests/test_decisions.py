"""Early stopping changes no decision, statistics say what they should, evaluations are found again."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from command import own, soupkitchen
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from tiny import LABELS
from transformers import AutoModelForCausalLM

from soupkitchen import metrics
from soupkitchen.cache import main
from soupkitchen.errors import CandidateError, ConfigError, DataError
from soupkitchen.evaluation import (
    EarlyStopping,
    Evaluation,
    Evaluator,
    Identity,
    Part,
    Runtime,
    compare,
    statistics,
)
from soupkitchen.evaluation.examples import Examples, Listed
from soupkitchen.evaluation.identity import PREDICTING, own_code
from soupkitchen.evaluation.statistics import mcnemar
from soupkitchen.executors import Fake
from soupkitchen.experiment.algorithm import find_soup
from soupkitchen.experiment.judge import Judge
from soupkitchen.experiment.ledger import Ledger
from soupkitchen.experiment.ranking import by_scoring
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.experiment.scores import Scored, Scores
from soupkitchen.experiment.steps import Steps
from soupkitchen.merging import Linear, TaskVectors
from soupkitchen.search import Evolve, Exhaustive, Greedy, Pruned, Search
from soupkitchen.search.rules import AcceptRule
from soupkitchen.soup import Recipe
from soupkitchen.store.evaluations import EvaluationCache
from soupkitchen.tasks import Data, Several
from soupkitchen.tasks.base import DataSource, Task

# A pool without models: a table says what each soup predicts for each example


class Table(Task):
    """A task whose model's predictions are read from a table."""

    data = DataSource()
    model_class = torch.nn.Module

    def __init__(self, metric: str, references: np.ndarray) -> None:
        self.metric = metrics.load(metric)
        self.right = references
        self.current: np.ndarray = references

    def prepare(self, split: datasets.Dataset, processor: Any, model: Any) -> datasets.Dataset:
        return split

    def references(self, prepared: datasets.Dataset) -> np.ndarray:
        return self.right

    def collator(self, processor: Any) -> Any:
        return lambda examples: {"index": torch.tensor([e["index"] for e in examples])}

    def step(self, model: Any, batch: Any, processor: Any) -> torch.Tensor:
        return torch.tensor(self.current[batch["index"].numpy()])


@functools.cache
def accelerator() -> Any:
    return Runtime(device="cpu").accelerator()


def evaluator_of(tasks: dict[str, Table], batch_size: int, aggregate: str = "mean") -> Evaluator:
    tasks = tasks if len(tasks) > 1 else {"": next(iter(tasks.values()))}
    several = Several(tasks, aggregate)
    live: Any = SimpleNamespace(
        spread=False,
        model=torch.nn.Identity(),
        fill=lambda weights: list(weights),
        maker=SimpleNamespace(identity=list),
    )
    splits = {
        name: datasets.Dataset.from_dict({"index": list(range(len(tasks[name].right)))}) for name in tasks
    }
    return Evaluator(several, live, None, {"heldout": splits}, accelerator(), batch_size)


def predictions(
    seed: int, ingredients: tuple[str, ...], variant: str, task: Table, skill: float
) -> np.ndarray:
    """What a soup predicts: errors of all soups are alike, and each has its own besides."""
    shared = np.random.default_rng(seed).random(len(task.right))
    key = zlib.crc32(repr((seed, ingredients, variant)).encode())  # hash() of texts is another each time
    own_luck = np.random.default_rng(key).random(len(task.right))
    if task.metric.inputs == "values":
        return task.right + (own_luck + shared - skill) * 2
    right = 0.7 * shared + 0.3 * own_luck < skill + 0.02 * len(ingredients)
    return np.where(right, task.right, 1 - task.right)


class Names:
    """Evaluations are known by their recipes."""

    def asked(self, recipe: Recipe, split: str) -> str:
        return f"{recipe.digest} {split}"

    predictions = asked

    def check(self, recipe: Recipe) -> None:
        pass


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
    several = Several(tables, "min" if seed % 2 else "mean")

    def answers(recipe: Recipe, split: str) -> dict[str, np.ndarray]:
        return {
            name: predictions(
                seed + number, recipe.ingredients, f"{recipe.variant}{recipe.coefficients}", table, skill
            )
            for number, (name, table) in enumerate(tables.items())
        }

    lengths = random.integers(1, 9, n) if seed % 3 else None
    listed = {name: Listed(table.right, lengths) for name, table in tables.items()}
    examples = Examples({"heldout": listed}, batch_size)
    executor = Fake(answers, several, examples, workers)
    scores = Scores(executor, examples, several, Ledger(None), Names(), on_error="skip")
    search = search or Greedy(accept)
    steps = Steps(scores, search.rule.text)
    recipes = Recipes(TaskVectors(scale=[0.5 + i for i in range(variants)]) if variants > 1 else Linear())
    pool: Any = [SimpleNamespace(name=f"run{i}") for i in range(runs)]
    ranking = by_scoring(pool, scores, recipes, steps)
    best, ranking = find_soup(
        search, ranking, Judge(search.rule, scores, recipes, EarlyStopping() if early else None), steps
    )
    merges = [SimpleNamespace(**event) for event in scores.ledger.events if event.get("stage") == "merge"]
    scored = sum(row.examples_scored for row in merges)
    decisions = [(row.candidate, row.variant, row.decision) for row in merges]
    assert best.evaluation.score >= ranking.best
    return decisions, best.recipe.ingredients, best.evaluation.score, scored, merges


RULES = ["better", "not_worse", {"margin": 0.05}, {"significant": 0.2}]


@pytest.fixture
def _few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 19)


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
    assert len(partly) > 60
    assert np.mean(partly) < 0.9


def test_of_equal_recipes_the_first_is_the_best():
    """Controls and starts of a search take it: alternatives are in the order of the options."""
    right = np.ones(6, int)
    several = Several({"": Table("accuracy", right)})
    examples = Examples({"heldout": {"": Listed(right)}}, 2)
    executor = Fake(lambda recipe, split: {"": right}, several, examples)
    scores = Scores(executor, examples, several, Ledger(None), Names())
    judge = Judge(Greedy().rule, scores, Recipes(Linear()))
    best = judge.best("equals", [Recipe.single(name) for name in "cab"])
    assert best.recipe.ingredients == ("c",)


def pruned(answers: Any, metric: str, right: np.ndarray) -> tuple[Scored, list[dict[str, Any]]]:
    """The soup that pruning three runs ends with, and the rows of the merge stage."""
    several = Several({"": Table(metric, right)})
    examples = Examples({"heldout": {"": Listed(right)}}, 2)
    executor = Fake(answers, several, examples)
    scores = Scores(executor, examples, several, Ledger(None), Names(), on_error="skip")
    recipes, steps = Recipes(Linear()), Steps(scores, "")
    pool: Any = [SimpleNamespace(name=name) for name in "abc"]
    judge = Judge(Pruned().rule, scores, recipes, EarlyStopping())
    best, _ = find_soup(Pruned(), by_scoring(pool, scores, recipes, steps), judge, steps)
    return best, [event for event in scores.ledger.events if event.get("stage") == "merge"]


def test_a_search_that_ends_below_the_best_single_run_returns_to_it():
    right = np.ones(10, int)
    wrong = {("a",): 1, ("b",): 5, ("c",): 6, ("a", "b", "c"): 8, ("a", "b"): 7, ("a", "c"): 9, ("b", "c"): 9}

    def answers(recipe: Recipe, split: str) -> dict[str, np.ndarray]:
        return {"": np.where(np.arange(10) < wrong[recipe.ingredients], 0, right)}

    best, rows = pruned(answers, "accuracy", right)
    assert best.recipe.ingredients == ("a",)
    assert [(row["candidate"], row["decision"]) for row in rows] == [
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

    best, rows = pruned(answers, "mse", right)
    assert best.recipe.ingredients == ("c",)
    told = [(row["candidate"], row["decision"]) for row in rows]
    assert told[:2] == [("all 3", "error"), ("c", "start")]
    assert not any(decision == "keep" for _, decision in told)


def test_after_a_keep_the_batches_come_first_that_the_new_soup_does_worst_on():
    right = np.ones(8, int)
    wrong = {("a",): range(4), ("b",): range(5), ("c",): range(6), ("a", "b"): (6, 7)}

    def answers(recipe: Recipe, split: str) -> dict[str, np.ndarray]:
        predicted = right.copy()
        predicted[list(wrong.get(recipe.ingredients, ()))] = 0
        return {"": predicted}

    several = Several({"": Table("accuracy", right)})
    examples = Examples({"heldout": {"": Listed(right)}}, 2)
    executor = Fake(answers, several, examples)
    scores = Scores(executor, examples, several, Ledger(None), Names(), on_error="skip")
    recipes, steps, orders = Recipes(Linear()), Steps(scores, ""), {}
    score = executor.score
    executor.score = lambda requests: (  # type: ignore[method-assign]
        orders.update({one.recipe.ingredients: one.order[""] for one in requests}),
        score(requests),
    )[1]
    pool: Any = [SimpleNamespace(name=name) for name in "abc"]
    judge = Judge(Greedy().rule, scores, recipes, EarlyStopping())
    find_soup(Greedy(), by_scoring(pool, scores, recipes, steps), judge, steps)
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

    several = Several({"": Table("accuracy", right)})
    examples = Examples({"heldout": {"": Listed(right)}}, 2)
    executor = Fake(answers, several, examples)
    scores = Scores(executor, examples, several, Ledger(None), Names(), on_error="skip")
    recipes, steps = Recipes(Linear()), Steps(scores, "")
    pool: Any = [SimpleNamespace(name=name) for name in "abc"]
    told = Greedy(), by_scoring(pool, scores, recipes, steps), Judge(Greedy().rule, scores, recipes), steps
    if len(fails) == 1:
        assert find_soup(*told)[0].recipe.ingredients == ("a",)
        return
    with pytest.raises(CandidateError, match=r"all 2 candidates failed, the first with: .*a fault in common"):
        find_soup(*told)


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


# Statistics


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


# Several tasks


def test_tasks_are_aggregated_as_asked():
    tasks = {name: Table("accuracy", np.zeros(1)) for name in "ab"}
    scores = {"a": 0.4, "b": 0.8}
    assert Several(tasks).score(scores) == pytest.approx(0.6)
    assert Several(tasks, weights={"a": 3, "b": 1}).score(scores) == pytest.approx(0.5)
    assert Several(tasks, "min").score(scores) == 0.4
    normalized = Several(tasks, "normalized")
    assert np.isnan(normalized.score(scores))
    ranked = normalized.ranked(
        {"x": {"a": 0.5, "b": 0.1}, "y": {"a": 0.2, "b": 1.0}, "z": {"a": np.nan, "b": 0.0}}
    )
    assert ranked.score(scores) == pytest.approx((0.4 / 0.5 + 0.8 / 1.0) / 2)
    of_losses = Several({name: Table("mse", np.zeros(1)) for name in "ab"}, "normalized")
    losses = of_losses.ranked({"x": {"a": -2.0, "b": -1.0}, "y": {"a": -4.0, "b": -0.5}})
    assert losses.score({"a": -4.0, "b": -0.5}) == pytest.approx((0.5 + 1) / 2)
    with pytest.raises(DataError, match="scores 0 on a"):
        normalized.ranked({"x": {"a": 0.0, "b": 1.0}})


def write_two_tasks(texts: Path, folder: Path) -> Several:
    """The texts' labels, and whether texts are long: two tasks for models with one head."""
    for name in ("validation", "test"):
        frame = pd.read_csv(texts / f"{name}.csv")
        long = frame["text"].str.count(" ") > 6
        (folder / "length").mkdir(parents=True, exist_ok=True)
        frame.assign(label=np.where(long, LABELS[0], LABELS[1])).to_csv(
            folder / "length" / f"{name}.csv", index=False
        )


@pytest.mark.slow
@pytest.mark.parametrize("aggregate", ["mean", "min", "normalized"])
def test_several_tasks_decide_together_and_have_columns_of_their_own(text_runs, texts, tmp_path, aggregate):
    write_two_tasks(texts, tmp_path)
    words = [w for w in own(text_runs, texts) if not w.startswith("task")]
    words += ["task=several", f"task.aggregate={aggregate}", "name=x"]
    for name, path in {"kind": texts, "length": tmp_path / "length"}.items():
        words += [f"+task@task.tasks.{name}=text_classification", f"task.tasks.{name}.data.path={path}"]
    soupkitchen(*words, cwd=tmp_path)
    table = pd.read_csv(tmp_path / "results/x/leaderboard.csv")
    pair = table[["heldout_kind", "heldout_length"]]
    singles = table["kind"] == "single"
    expected = {
        "mean": pair.mean(axis=1),
        "min": pair.min(axis=1),
        "normalized": (pair / pair[singles].max()).mean(axis=1),
    }[aggregate]
    np.testing.assert_allclose(table[f"heldout_{aggregate}"], expected, rtol=1e-9)
    assert table.loc[table["kind"] == "soup", f"heldout_{aggregate}"].iloc[0] >= expected[singles].max()
    trajectory = pd.read_csv(tmp_path / "results/x/trajectory.csv")
    rank_rows = trajectory[trajectory["stage"] == "rank"].set_index("candidate")
    by_model = table.set_index("model")
    assert rank_rows["score_kind"].to_dict() == by_model.loc[rank_rows.index, "heldout_kind"].to_dict()
    alone = soupkitchen(*own(text_runs, texts), "search=uniform", "name=alone", cwd=tmp_path)
    assert alone.returncode == 0
    kind = pd.read_csv(tmp_path / "results/alone/leaderboard.csv").set_index("model")["heldout_accuracy"]
    assert kind["a"] == by_model.loc["a", "heldout_kind"]


# Where data is split


def test_held_out_is_drawn_from_train_with_a_seed_and_labels_in_proportion(tmp_path, caplog):
    frame = pd.DataFrame({"text": [f"t{i}" for i in range(100)], "label": ["a"] * 80 + ["b"] * 20})
    frame.sample(frac=1, random_state=0).to_csv(tmp_path / "train.csv", index=False)
    data = Data(str(tmp_path), heldout_share=0.25)
    one, again = (data.load_splits("label") for _ in range(2))
    assert one.keys() == {"heldout"}
    drawn = one["heldout"].to_pandas()
    assert drawn["label"].value_counts().to_dict() == {"a": 20, "b": 5}
    assert drawn.equals(again["heldout"].to_pandas())
    other = Data(str(tmp_path), heldout_share=0.25, seed=1).load_splits("label")["heldout"]
    assert set(other["text"]) != set(drawn["text"])
    rest = data.load_training("label")
    assert set(rest["text"]) | set(drawn["text"]) == set(frame["text"])
    assert len(rest) == 75
    assert (
        "no validation split: 25 examples of train decide, drawn with seed 0, each label in its proportion"
        in (caplog.text)
    )


def test_a_rare_label_does_not_stop_the_draw(tmp_path):
    pd.DataFrame({"text": list("abcdefghij"), "label": list("xxxxxxxxxy")}).to_csv(
        tmp_path / "train.csv", index=False
    )
    assert len(Data(str(tmp_path)).load_splits("label")["heldout"]) == 2


# The cache

OUTPUTS = {"": np.arange(6).reshape(3, 2), "texts": ["a", "b ü", ""], "rows": [[1, 2], [3]]}


KEY = "0123456789abcdef" * 2


def test_what_is_put_into_the_cache_comes_out_again(tmp_path):
    cache = EvaluationCache(tmp_path / "new")
    assert cache.get(KEY) is None
    cache.put(KEY, OUTPUTS, "soup on heldout")
    found = cache.get(KEY)
    np.testing.assert_array_equal(found[""], OUTPUTS[""])
    assert found["texts"] == OUTPUTS["texts"]
    assert found["rows"] == OUTPUTS["rows"]
    assert [entry.label for entry in cache.entries()] == ["soup on heldout"]


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_damaged_entry_is_as_good_as_none(tmp_path_factory, at, flip):
    cache = EvaluationCache(tmp_path_factory.mktemp("cache"))
    cache.put("key", OUTPUTS, "x" * 10)
    file = cache.folder / "key.safetensors"
    content = bytearray(file.read_bytes())
    at %= len(content)
    content[at] ^= flip
    file.write_bytes(content)
    found = cache.get("key")
    if found is not None:  # a flip in the label or in padding harms nothing
        assert np.array_equal(found[""], OUTPUTS[""])
        assert found["texts"] == OUTPUTS["texts"]
    file.write_bytes(bytes(content[: len(content) // 2]))
    assert cache.get("key") is None


def test_several_processes_may_share_a_cache(tmp_path):
    script = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from soupkitchen.store.evaluations import EvaluationCache\n"
        "cache = EvaluationCache(Path(sys.argv[1]))\n"
        "for i in range(200):\n"
        "    cache.put(f'key{i % 5}', {'': np.full(500, i % 5)}, 'x')\n"
        "    found = cache.get(f'key{(i * 3) % 5}')\n"
        "    assert found is None or (found[''] == (i * 3) % 5).all()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    assert not any("damaged" in text for text in said)
    assert len(list(tmp_path.iterdir())) == 5


def test_the_cache_is_listed_and_cleared_from_the_command_line(tmp_path, capsys):
    EvaluationCache(tmp_path).put("0" * 32, OUTPUTS, "soup on \x1b[31mheldout")
    (tmp_path / f"{'1' * 32}.safetensors").write_text("x")
    main(["list", "--folder", str(tmp_path)])
    listed = capsys.readouterr().out
    assert "soup on \\x1b[31mheldout" in listed
    assert "(damaged)" in listed
    assert "2 evaluations" in listed
    main(["clear", "--yes", "--folder", str(tmp_path)])
    said = capsys.readouterr().out
    assert "1 evaluations deleted" in said
    assert "1 cannot be read, and may not be ours" in said
    assert [file.name for file in tmp_path.iterdir()] == [f"{'1' * 32}.safetensors"]


def test_pruning_takes_what_was_not_used_for_long_and_the_longest_unused_beyond_a_size(tmp_path, capsys):
    cache, now = EvaluationCache(tmp_path), time.time()
    keys = [str(number) * 32 for number in range(5)]
    for days, key in enumerate(reversed(keys)):  # 4 is of today, 0 four days old
        cache.put(key, {"": np.full(1000, days)}, "soup")
        os.utime(tmp_path / f"{key}.safetensors", (now, now - 86400 * days))
    half, damaged = tmp_path / f".{keys[0]}.safetensors.abcdefgh", tmp_path / f"{'f' * 32}.safetensors"
    for file in (half, damaged):
        file.write_text("x")
        os.utime(file, (now, now - 86400 * 9))
    assert cache.get(keys[0]) is not None  # which is a use

    def left() -> list[str]:
        return [entry.key[0] for entry in cache.entries() if entry.label is not None]

    main(["prune", "--older", "2.5d", "--folder", str(tmp_path)])
    assert left() == ["2", "3", "4", "0"]
    assert "1 of 6 evaluations" in capsys.readouterr().out
    assert (half.exists(), damaged.exists()) == (False, True)
    size = (tmp_path / f"{keys[2]}.safetensors").stat().st_size
    main(["prune", "--size", f"{2 * size / 1000 + 0.01:.3f}KB", "--older", "8w", "--folder", str(tmp_path)])
    assert left() == ["4", "0"]
    for wrong in (
        ["prune"],
        ["list", "--size", "1GB"],
        ["prune", "--older", "30"],
        ["prune", "--size", "ten"],
    ):
        with pytest.raises(SystemExit) as ended:
            main([*wrong, "--folder", str(tmp_path)])
        assert ended.value.code == 2
    assert left() == ["4", "0"]


def test_clearing_touches_nothing_but_evaluations_and_asks_first(text_runs, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(text_runs / "a", run)
    shutil.copy(run / "model.safetensors", run / f"{'a' * 32}.safetensors")  # a name like ours
    (run / f"{'b' * 32}.safetensors").symlink_to(run / "model.safetensors")
    before = sorted(file.name for file in run.iterdir())
    main(["clear", "--yes", "--folder", str(run)])
    assert sorted(file.name for file in run.iterdir()) == before

    EvaluationCache(run).put("0" * 32, OUTPUTS, "soup")
    with pytest.raises(SystemExit) as left:  # nobody is there to ask
        main(["clear", "--folder", str(run)])
    assert left.value.code == 1
    assert "--yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer in ("n", "", "what"):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        main(["clear", "--folder", str(run)])
        assert "nothing was deleted" in capsys.readouterr().out
        assert (run / f"{'0' * 32}.safetensors").exists()
    monkeypatch.setattr("builtins.input", lambda question: "y")
    main(["clear", "--folder", str(run)])
    assert "1 evaluations, 0.0 MiB, in" in capsys.readouterr().out
    assert sorted(file.name for file in run.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_said_and_harms_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    EvaluationCache(tmp_path / "file" / "cache").put("key", OUTPUTS, "x")
    assert "cannot be written" in caplog.text


@pytest.mark.slow
def test_single_runs_are_scored_once_for_all_methods(text_runs, texts, tmp_path):
    words = [w for w in own(text_runs, texts) if "cache" not in w]
    words += [f"evaluation.cache={tmp_path}/cache", "search=uniform", f"pool.base={text_runs}/d"]
    trajectories = []
    for name, more in {
        "one": [],
        "two": ["method=ties"],
        "again": [],
        "loss": ["task.metric.name=cross_entropy"],
    }.items():
        soupkitchen(*words, f"name={name}", *more, cwd=tmp_path)
        trajectories.append(pd.read_csv(tmp_path / "results" / name / "trajectory.csv"))
    singles = [t[(t["stage"] == "rank")] for t in trajectories]
    assert [s["cached"].all() for s in singles] == [False, True, True, False]  # a loss needs the logits
    assert singles[0]["score"].tolist() == singles[1]["score"].tolist()
    soups = [t[t["candidate"] == "soup"]["score"].tolist() for t in trajectories]
    assert soups[0] == soups[2]
    assert trajectories[2]["examples_scored"].sum() == 0
    frame = pd.read_csv(texts / "validation.csv")
    frame.loc[0, "text"] = "w1 w2 w3"
    (tmp_path / "changed").mkdir()
    frame.to_csv(tmp_path / "changed" / "validation.csv", index=False)
    soupkitchen(*words, "name=changed", f"task.data.path={tmp_path}/changed", cwd=tmp_path)
    changed = pd.read_csv(tmp_path / "results/changed/trajectory.csv")
    assert not changed[changed["stage"] == "rank"]["cached"].any()


# Memory


def test_where_memory_runs_out_batches_are_halved(caplog):
    table = Table("accuracy", np.zeros(40, int))
    evaluator = evaluator_of({"": table}, batch_size=16)
    seen = []
    step = table.step

    def narrow(model: Any, batch: Any, processor: Any) -> torch.Tensor:
        seen.append(len(batch["index"]))
        if seen[-1] > 5:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 TB")
        return step(model, batch, processor)

    table.step = narrow  # type: ignore[method-assign]
    evaluation = evaluator.score("heldout")
    assert evaluation.score == 1.0
    assert evaluation.examples_scored == 40
    assert seen[:3] == [16, 8, 4]
    assert set(seen[3:]) == {4}
    assert "batches of 4 instead of 8" in caplog.text
    assert evaluator.score("heldout").score == 1.0


def test_out_of_memory_with_one_example_is_an_error_in_plain_words():
    table = Table("accuracy", np.zeros(4, int))

    def fails(model: Any, batch: Any, processor: Any) -> torch.Tensor:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    table.step = fails  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="batch of one"):
        evaluator_of({"": table}, batch_size=4).score("heldout")


def test_other_errors_of_a_forward_pass_are_not_hidden():
    table = Table("accuracy", np.zeros(4, int))

    def fails(model: Any, batch: Any, processor: Any) -> torch.Tensor:
        raise RuntimeError("something else")

    table.step = fails  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="something else"):
        evaluator_of({"": table}, batch_size=4).score("heldout")


def test_evaluations_of_other_code_are_not_taken(monkeypatch):
    evaluator = evaluator_of({"": Table("accuracy", np.zeros(20, int))}, batch_size=2)
    pool: Any = {"a": SimpleNamespace(fingerprint="x")}
    known, recipe = Identity(evaluator, pool), Recipe.single("a")
    before = known.predictions(recipe, "heldout")
    assert known.predictions(recipe, "heldout") == before
    monkeypatch.setattr("soupkitchen.evaluation.identity.own_code", lambda: "other")
    assert known.predictions(recipe, "heldout") != before


def test_only_code_that_predictions_depend_on_tells_evaluations_apart(tmp_path):
    package = Path(metrics.__file__).parents[1]
    before = own_code(package)
    for name, old, new, same in (
        ("records/report.py", "import math", "import math, csv", True),
        ("search/greedy.py", "class Greedy", "# greedy\nclass Greedy", True),
        ("soup/fold.py", "values = values + base", "values = base + values", False),
        ("metrics/numbers.py", "** 2", "** 3", False),
        ("store/evaluations.py", "np.uint8", "np.int8", False),
    ):
        folder = tmp_path / name.replace("/", "-")
        shutil.copytree(package, folder)
        text = (folder / name).read_text()
        assert old in text
        (folder / name).write_text(text.replace(old, new, 1))
        assert (own_code(folder) == before) == same, name


def test_what_predicts_imports_nothing_that_is_not_looked_at():
    package = Path(metrics.__file__).parents[1]
    said = r"^\s*(?:from|import) soupkitchen\.(\w+)"
    files = [file for part in PREDICTING for file in (package / part).rglob("*.py")]
    used = {name for file in files for name in re.findall(said, file.read_text(), re.MULTILINE)}
    others = {"console", "errors", "search", "stopwatch", "store"}  # messages, types and digests
    assert used <= {*PREDICTING, *others}


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
