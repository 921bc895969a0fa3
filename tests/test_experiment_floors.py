"""Floors: a candidate that loses too much on a task is not kept, whatever it gains, and the tables say so."""

from __future__ import annotations

import logging
from collections import Counter
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from made_up import Table, merges_of, predictions, scores_over, searched

from soupkitchen.errors import GuaranteeError
from soupkitchen.evaluation import EarlyStopping, Evaluation, Part
from soupkitchen.evaluation.confidence import ConfidentStopping
from soupkitchen.experiment.algorithm import final_table
from soupkitchen.experiment.finishing import _check_floors
from soupkitchen.experiment.judge import Judge
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.experiment.steps import Steps
from soupkitchen.merging import Linear
from soupkitchen.records import trajectory
from soupkitchen.search import (
    Choice,
    Evolve,
    Exhaustive,
    Greedy,
    Mixture,
    Proposal,
    Pruned,
    Ranked,
    Search,
    Trial,
    rank,
)
from soupkitchen.store.settings import what_is_run

METRICS = {"gains": "accuracy", "safety": "accuracy", "loss": "mse"}
FLOORS = ["0", "-0.05", "-0.1", "-0.3"]


class Pool:
    """A random pool with three tasks, of which one or two have floors, and one of these may not count."""

    def __init__(self, seed: int) -> None:
        random = np.random.default_rng(seed)
        n, self.seed = int(random.choice([10, 20, 40])), seed
        self.names = [f"run{i}" for i in range(int(random.integers(2, 7)))]
        self.skill = random.uniform(0.3, 0.9)
        self.tables = {
            name: Table(metric, random.normal(size=n) if metric == "mse" else random.integers(0, 2, n))
            for name, metric in METRICS.items()
        }
        chosen = random.choice(["safety", "loss"], size=random.integers(1, 3), replace=False)
        self.floors = {str(name): str(random.choice(FLOORS)) for name in chosen}
        free = str(chosen[0]) if seed % 2 else ""
        self.weights = {name: 0.0 if name == free else 1.0 for name in METRICS}
        self.lengths = random.integers(1, 9, n) if seed % 3 else None
        self.batch_size = int(random.integers(2, 9))

    def predicted(self, ingredients: tuple[str, ...], coefficients: Any) -> dict[str, np.ndarray]:
        key, pairs = str([float(c) for c in coefficients]), enumerate(self.tables.items())
        return {
            name: predictions(self.seed + number, ingredients, key, table, self.skill)
            for number, (name, table) in pairs
        }

    def searched(self, search: Search, stopping: EarlyStopping | None, workers: int = 1) -> Any:
        """The soup, and the rows of its search."""
        scores = scores_over(
            lambda recipe, split: self.predicted(recipe.ingredients, recipe.coefficients),
            self.tables,
            batch_size=self.batch_size,
            lengths=self.lengths,
            workers=workers,
            floors={name: float(floor) for name, floor in self.floors.items()},
            weights=self.weights,
        )
        best, _ = searched(search, scores, self.names, stopping=stopping)
        return best.recipe.ingredients, [SimpleNamespace(**row) for row in merges_of(scores)]


class Plain:
    """The same search as a plain loop: all is scored in full, and floors are held to exact fractions."""

    def __init__(self, pool: Pool) -> None:
        self.pool = pool
        self.scores = {name: self.of(Mixture((name,))) for name in pool.names}
        self.runs = [Ranked(name, self.total(scores)) for name, scores in self.scores.items()]
        self.best = self.scores[rank(self.runs)[0].name]

    def of(self, mixture: Mixture) -> dict[str, Any]:
        """By task: the exact share of right answers, or minus the mean of squares."""
        shares = (1.0,) if len(mixture.ingredients) == 1 else mixture.shares
        predicted = self.pool.predicted(mixture.ingredients, shares)
        scores = {}
        for name, table in self.pool.tables.items():
            if METRICS[name] == "mse":
                scores[name] = (-((predicted[name] - table.right) ** 2)).mean()
            else:
                scores[name] = Fraction(int((predicted[name] == table.right).sum()), len(table.right))
        return scores

    def total(self, scores: dict[str, Any]) -> float:
        weights = self.pool.weights
        return sum(weights[name] * float(score) for name, score in scores.items()) / sum(weights.values())

    def missed(self, scores: dict[str, Any]) -> set[str]:
        return {
            name
            for name, floor in self.pool.floors.items()
            if (Fraction(floor) if METRICS[name] == "accuracy" else float(floor) - 1e-9)
            > scores[name] - self.best[name]
        }

    def searched(self, search: Search) -> tuple[tuple[str, ...], list[tuple[str, str]], int]:
        """The soup, the decisions, and how many better candidates a floor discarded."""
        single, lost = rank(self.runs)[0], 0
        soup = search.start(self.runs)
        scores, decisions = self.of(soup), []
        trials: list[Trial] = []
        while proposed := search.propose(self.runs, soup, trials):
            for entry in proposed:
                group = entry.proposals if isinstance(entry, Choice) else (entry,)
                found = [self.of(one.mixture) for one in group]
                gains = [self.total(one) - self.total(scores) for one in found]
                feasible = [not self.missed(one) for one in found]
                lost += sum(gain > 0 and not fits for gain, fits in zip(gains, feasible, strict=True))
                accepted = [n for n, gain in enumerate(gains) if gain > 0 and feasible[n]]
                kept = max(accepted, key=lambda n: self.total(found[n]), default=None)
                for n, one in enumerate(group):
                    trials.append(Trial(one, self.total(found[n]) if feasible[n] else None, n == kept))
                    decisions.append((one.candidate, "keep" if n == kept else "discard"))
                if kept is not None:
                    soup, scores = group[kept].mixture, found[kept]
                    break
        if self.missed(scores) or self.total(scores) < single.score:
            return (single.name,), [*decisions, (single.name, "keep")], lost
        return soup.ingredients, decisions, lost


SEARCHES = {
    "greedy": (Greedy(passes=2), 100),
    "replacement": (Greedy(replacement=True, candidates=3, prune=True), 25),
    "scales": (Greedy(candidate_scale=[0.25, 1]), 25),
    "pruned": (Pruned(), 40),
    "exhaustive": (Exhaustive(candidates=4), 25),
    "evolve": (Evolve(evaluations=14, population=6, initial="uniform"), 10),
}


@pytest.mark.usefixtures("_few_resamples")
@pytest.mark.parametrize("name", SEARCHES)
def test_searches_decide_as_a_plain_loop_does_that_scores_everything_in_full(name):
    search, pools = SEARCHES[name]
    lost, scored = 0, Counter()
    for seed in range(pools):
        pool = Pool(seed)
        plain = Plain(pool)
        expected, decisions, discarded = plain.searched(search)
        lost += discarded
        for stopping in (None, EarlyStopping()):
            soup, rows = pool.searched(search, stopping, workers=1 + seed % 3 if stopping else 1)
            assert soup == expected, (seed, stopping)
            assert [(row.candidate, row.decision) for row in rows[1:]] == decisions, (seed, stopping)
            scored[stopping is None] += sum(row.examples_scored for row in rows)
            for row in rows:
                if "misses" in row.reason:
                    assert row.decision in ("discard", "start")
                if row.decision == "keep":
                    assert not row.stopped_early
                if row.decision == "discard" and not row.stopped_early:
                    mixture = Mixture(tuple(row.ingredients), tuple(row.coefficients))
                    floors = plain.missed(plain.of(mixture))
                    assert floors == {words.split()[0] for words in row.reason.split("; ") if words}
    assert lost > pools / 10  # floors decided
    assert scored[False] < scored[True]


def test_a_floor_stops_the_scoring_of_a_candidate_that_gains():
    """Task by task: after the second batch on safety, what is gained cannot help any more."""
    right = np.ones(20, int)
    tables = {name: Table("accuracy", right) for name in ("safety", "gains")}

    def answers(recipe: Any, split: str) -> dict[str, np.ndarray]:
        wrong = {"a": (2, 12), "b": (4, 14)}.get("".join(recipe.ingredients), (6, 0))
        return {
            name: np.where(np.arange(20) < number, 0, 1) for name, number in zip(tables, wrong, strict=True)
        }

    def rows(**options: Any) -> Any:
        scores = scores_over(answers, tables, batch_size=4, **options)
        searched(Greedy(), scores, "ab", stopping=EarlyStopping())
        return merges_of(scores)[-1]

    assert rows()["decision"] == "keep"
    assert rows(floors={"safety": -0.2})["decision"] == "keep"  # 0.9 - 0.2 is 0.7, up to rounding
    row = rows(floors={"safety": -0.1})
    assert (row["decision"], row["stopped_by"], row["examples_scored"]) == ("discard", "exact", 8)
    assert row["reason"] == "safety at most 0.7 misses its floor 0.8"


def losses_over(**options: Any) -> Any:
    """Runs a and b, whose soup gains much on accuracy and loses on a loss."""
    tables = {"accuracy": Table("accuracy", np.ones(10, int)), "loss": Table("mse", np.zeros(10))}
    answers = {
        ("a",): (5, 1.0), ("b",): (4, 1.0), ("c",): (3, 1.0),
        ("a", "b"): (9, 1.1), ("a", "c"): (6, 1.0), ("a", "b", "c"): (10, 2.0),
    }  # fmt: skip

    def predicted(recipe: Any, split: str) -> dict[str, np.ndarray]:
        number, loss = answers[recipe.ingredients]
        return {"accuracy": (np.arange(10) < number).astype(int), "loss": np.full(10, loss)}

    options = {"weights": {"accuracy": 1, "loss": 0}} | options
    return scores_over(predicted, tables, batch_size=5, **options)


def test_a_loss_may_rise_by_as_much_as_its_floor_says_in_its_own_sign(caplog):
    caplog.set_level(logging.INFO)
    kept = {}
    for floor in (-0.3, -0.1):
        scores = losses_over(floors={"loss": floor})
        best, _ = searched(Greedy(), scores, "abc")
        kept[floor] = "".join(best.recipe.ingredients), [row["reason"] for row in merges_of(scores)]
    assert kept[-0.3] == ("ab", ["", "", "loss 4 misses its floor 1.3"])
    assert kept[-0.1] == ("ac", ["", "loss 1.21 misses its floor 1.1", ""])
    assert "floors   a                        loss 1.3" in caplog.messages
    line = "discard  b                        mean 0.9000 (soup: 0.5000); loss 1.21 misses its floor 1.1"
    assert line in caplog.messages


def test_the_final_table_says_which_soups_are_below_a_floor():
    scores, search = losses_over(floors={"loss": -0.1}), Greedy()
    best, ranking = searched(search, scores, "abc")
    recipes = Recipes(Linear())
    judge = Judge(search.rule, scores, recipes, EarlyStopping())
    final_table(best, ranking, judge, Steps(scores, search.rule.text))
    rows = trajectory([event for event in scores.ledger.events if event["event"] == "step"])
    final = rows[rows["stage"] == "final"].set_index("candidate")
    assert final["reason"].to_dict() == {
        "soup": "",
        "uniform": "loss 4 misses its floor 1.1",
        "uniform_top_2": "loss 1.21 misses its floor 1.1",
    }
    assert final.loc["uniform", "score"] == 1.0  # in full, whatever its floors


def test_a_search_that_starts_below_a_floor_and_finds_nothing_above_returns_to_the_best_single_run():
    scores = losses_over(floors={"loss": -0.1})
    best, _ = searched(Pruned(), scores, "ab", stopping=EarlyStopping())
    assert best.recipe.ingredients == ("a",)
    start, *_, last = merges_of(scores)
    assert (start["decision"], start["reason"]) == ("start", "loss 1.21 misses its floor 1.1")
    assert (last["decision"], last["reason"]) == ("keep", "the search ended below the floor of loss")


def test_the_members_of_a_generation_that_are_below_a_floor_are_no_parents():
    """An exact contest wants the best scores in full of those that could be kept; others end at a floor."""

    class Contest(Search):
        on_error = "skip"
        trials: tuple[Trial, ...] = ()

        @property
        def rule(self) -> Any:
            return Greedy().rule

        def propose(self, pool: Any, soup: Any, trials: Any) -> Any:
            self.trials = tuple(trials)
            pairs = [("a", "b", "c"), ("a", "b"), ("a", "c")]
            members = tuple(Proposal("".join(one), Mixture(one)) for one in pairs)
            return [] if trials else [Choice(members, exact=1)]

    search = Contest()
    scores = losses_over(floors={"loss": -0.1})
    best, _ = searched(search, scores, "abc", stopping=EarlyStopping())
    assert best.recipe.ingredients == ("a", "c")
    assert [row["examples_scored"] for row in merges_of(scores)[1:]] == [15, 20, 20]
    assert [(trial.score, trial.kept) for trial in search.trials] == [
        (None, False),
        (None, False),
        (0.6, True),
    ]


def test_confidence_ends_a_candidate_that_is_as_good_as_surely_below_a_floor():
    """The limit of the task in progress serves its floor, too: one limit, one share of the error."""
    n, random = 800, np.random.default_rng(0)
    tables = {"loss": Table("mse", np.zeros(n)), "accuracy": Table("accuracy", np.ones(n, int))}
    hard, luck = random.normal(size=n), random.normal(size=n)

    def answers(recipe: Any, split: str) -> dict[str, np.ndarray]:
        pair = len(recipe.ingredients) == 2
        loss = 2 + 0.3 * hard + (0.3 + 0.1 * luck) * pair
        return {"loss": loss, "accuracy": (np.arange(n) < 400 + 300 * pair).astype(int)}

    def last(stopping: EarlyStopping) -> Any:
        weights, floors = {"loss": 0, "accuracy": 1}, {"loss": -0.2}
        scores = scores_over(answers, tables, batch_size=16, weights=weights, floors=floors)
        searched(Greedy(), scores, "ab", stopping=stopping)
        return merges_of(scores)[-1]

    exact, confident = last(EarlyStopping()), last(ConfidentStopping(0.999))
    assert (exact["decision"], confident["decision"]) == ("discard", "discard")
    assert (exact["stopped_by"], confident["stopped_by"]) == ("exact", "confidence")
    assert confident["examples_scored"] < exact["examples_scored"] / 4
    assert confident["reason"].startswith("loss at least ")


def test_an_adapter_that_was_cut_below_a_floor_is_refused_and_rounding_is_not():
    def scored(loss: float) -> Evaluation:
        return Evaluation("heldout", 0.9, {"loss": Part(loss, None, (), 10, 10)})

    floors = {"loss": -1.2}
    _check_floors(scored(-1.1999), scored(-1.1), floors, Path("soup"))
    _check_floors(scored(-1.2000001), scored(-1.2), floors, Path("soup"))
    with pytest.raises(GuaranteeError, match=r"soup is below the floor of loss: raise output\.rank"):
        _check_floors(scored(-1.21), scored(-1.1), floors, Path("soup"))


def test_a_run_without_floors_is_the_run_that_it_was_before_there_were_any():
    assert what_is_run({"task": {"aggregate": "mean", "floors": None}}) == {"task.aggregate": "mean"}
    assert what_is_run({"task": {"floors": {"a": -0.1}}}) == {"task.floors.a": -0.1}
