"""Ranking by a part of the held-out data: the best run is that of a full ranking, for fewer passes."""

from __future__ import annotations

import json
import logging
import pickle
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command import own, soupkitchen
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import Names, Table

from soupkitchen.errors import CheckpointError, ConfigError, DataError
from soupkitchen.evaluation import EarlyStopping, Threshold
from soupkitchen.evaluation.scoring import Examples, Listed, Piece
from soupkitchen.executors import Fake, Request
from soupkitchen.experiment.algorithm import final_table, find_soup
from soupkitchen.experiment.judge import Judge
from soupkitchen.experiment.ledger import Ledger
from soupkitchen.experiment.ranking import Ranking
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.experiment.scores import Scores, Unscorable
from soupkitchen.experiment.steps import Steps
from soupkitchen.merging import Linear
from soupkitchen.records import leaderboard, read_csv, trajectory
from soupkitchen.search import AcceptRule, Greedy, Ranked, rank
from soupkitchen.soup import Recipe
from soupkitchen.store.evaluations import EvaluationCache
from soupkitchen.tables import make
from soupkitchen.tasks import Several

TIMES = ["merge_seconds", "eval_seconds"]


class Pool:
    """A pool of made-up runs: a table says what each run, and each mixture, predicts for each example."""

    def __init__(
        self, seed: int, metric: str = "accuracy", tasks: int = 1, batch_size: int = 4, broken: Any = ()
    ) -> None:
        random = np.random.default_rng(seed)
        self.seed, self.metric, self.batch_size, self.broken = seed, metric, batch_size, broken
        self.n, runs = int(random.integers(4, 70)), int(random.integers(2, 9))
        self.names = [f"run{number}" for number in range(runs)]
        self.skill = random.uniform(0.3, 0.95)
        labels = [f"task{number}" for number in range(tasks)] if tasks > 1 else [""]
        self.tables = {
            name: Table(
                metric, random.normal(size=self.n) if metric == "mse" else random.integers(0, 2, self.n)
            )
            for name in labels
        }
        self.lengths = random.integers(1, 9, self.n) if seed % 3 else None
        self.tasks = Several(self.tables, "min" if seed % 2 and tasks > 1 else "mean")
        self.runs: Any = [SimpleNamespace(name=name, path=name) for name in self.names]

    def answers(self, recipe: Recipe, split: str) -> dict[str, np.ndarray]:
        if recipe.ingredients[0] in self.broken:
            raise RuntimeError("its tensors are odd")
        shared = np.random.default_rng(self.seed).random(self.n)
        luck = np.random.default_rng(zlib.crc32(repr((self.seed, recipe.ingredients)).encode()))
        told = {}
        for name, table in self.tables.items():
            own_luck, level = luck.random(self.n), luck.normal() * 0.05
            if self.metric == "mse":
                told[name] = table.right + (own_luck + shared + level) * 2
            else:
                right = 0.7 * shared + 0.3 * own_luck < self.skill + level
                told[name] = np.where(right, table.right, 1 - table.right)
        return told

    def values(self, name: str) -> dict[str, np.ndarray]:
        """How a run does on each example of each task, higher better."""
        predicted = self.answers(Recipe.single(name), "heldout")
        return {
            task: table.metric.per_example(predicted[task], table.right)
            for task, table in self.tables.items()
        }

    def score(self, name: str, chosen: Mapping[str, np.ndarray] | None = None) -> float:
        """On all examples, or on those chosen."""
        values = self.values(name)
        return self.tasks.score(
            {
                task: float(np.mean(one if chosen is None else one[chosen[task]]))
                for task, one in values.items()
            }
        )

    @property
    def best(self) -> str:
        return max(self.names, key=self.score)  # the first among equals

    def scores(
        self, folder: Path | None = None, workers: int = 1, shared: Path | None = None, on_error: Any = "skip"
    ) -> Scores:
        listed = {name: Listed(table.right, self.lengths) for name, table in self.tables.items()}
        examples = Examples({"heldout": listed}, self.batch_size)
        executor = Fake(self.answers, self.tasks, examples, workers)
        ledger = Ledger(folder)
        ledger.begin(
            {},
            {},
            metric=self.tasks.name,
            greater_is_better=self.tasks.greater_is_better,
            columns=[name for name in self.tables if name],
        )
        return Scores(
            executor,
            examples,
            self.tasks,
            ledger,
            Names(),
            own=folder and EvaluationCache(folder / "evaluations"),
            shared=shared and EvaluationCache(shared),
            on_error=on_error,
        )

    def ranked(self, scores: Scores, share: float | None) -> Ranking:
        return by_part(self.runs, scores, Recipes(Linear()), Steps(scores, ""), share)

    def cook(self, scores: Scores, share: float | None, early: bool = True) -> tuple[Any, Ranking]:
        """A whole run, with its tables."""
        search, recipes = Greedy(), Recipes(Linear())
        steps = Steps(scores, search.rule.text)
        ranking = by_part(self.runs, scores, recipes, steps, share)
        judge = Judge(search.rule, scores, recipes, EarlyStopping() if early else None)
        soup, ranking = find_soup(search, ranking, judge, steps)
        final_table(soup, ranking, judge, steps)
        scores.ledger.finish(scores.tasks.greater_is_better)
        return soup, ranking


def rows(scores: Scores, stage: str = "rank") -> list[Any]:
    events = scores.ledger.events
    return [SimpleNamespace(**event) for event in events if event.get("stage") == stage]


pools = st.builds(
    Pool,
    st.integers(0, 2**20),
    st.sampled_from(["accuracy", "accuracy", "mse"]),
    st.integers(1, 2),
    st.integers(1, 14),
)
shares = st.sampled_from([0.05, 0.1, 0.25, 0.5, 0.9])


# What a ranking says


@pytest.mark.slow
@settings(max_examples=120)
@given(pools, shares)
def test_the_best_run_is_that_of_a_full_ranking(pool, share):
    ranking = pool.ranked(pool.scores(), share)
    best = ranking.best_first[0]
    assert (best.name, best.partial) == (pool.best, False)
    assert ranking.best == best.score == pytest.approx(pool.score(pool.best), abs=1e-12)
    full = pool.ranked(pool.scores(), None)
    assert full.best_first[0].name == best.name
    assert full.best == ranking.best
    assert ranking.names == pool.names


@settings(max_examples=60)
@given(pools, shares)
def test_the_order_of_the_others_is_that_of_what_is_known_of_them(pool, share):
    scores = pool.scores()
    ranking = pool.ranked(scores, share)
    part = RankingSample.of(scores.examples, "heldout", share).part
    known = {run.name for run in ranking.runs if not run.partial}
    for run in ranking.runs:
        expected = pool.score(run.name, None if run.name in known else part)
        assert run.score == pytest.approx(expected, abs=1e-12)
    place = {name: number for number, name in enumerate(pool.names)}
    score = {run.name: run.score for run in ranking.runs}
    queue = sorted(pool.names, key=lambda name: (name not in known, -score[name], place[name]))
    assert [run.name for run in ranking.best_first] == queue


@settings(max_examples=60)
@given(pools, shares)
def test_rows_say_what_was_scored_and_it_is_never_more_than_all(pool, share):
    scores = pool.scores()
    pool.ranked(scores, share)
    part = RankingSample.of(scores.examples, "heldout", share).part
    size, total = sum(map(len, part.values())), pool.n * len(pool.tables)
    shown = scores.tasks.shown
    by_run: dict[str, list[Any]] = {name: [] for name in pool.names}
    for row in rows(scores):
        by_run[row.candidate].append(row)
    executed = dict.fromkeys(pool.names, 0)
    for recipe, number in scores.executor.scored:
        executed[recipe.ingredients[0]] += number
    for name, told in by_run.items():
        first, *rest = told
        assert shown(first.score_on_part) == pytest.approx(pool.score(name, part))
        assert first.examples_scored == size
        assert (first.score is None) == (size < total)
        assert not first.stopped_early
        assert len(rest) <= 1
        assert executed[name] == sum(row.examples_scored for row in told) <= total
        for row in rest:
            assert row.score_on_part is None
            assert row.stopped_early == (first.examples_scored + row.examples_scored < total)
            assert row.stopped_by == ("exact" if row.stopped_early else "")
            at_most = shown(row.score_at_most if row.stopped_early else row.score)
            assert pool.score(name) <= at_most + 1e-12
            assert row.stopped_early or at_most == pytest.approx(pool.score(name))


@pytest.mark.slow
@settings(max_examples=40)
@given(pools, shares, st.booleans())
def test_soups_are_never_below_the_best_single_run(pool, share, early):
    soup, ranking = pool.cook(pool.scores(), share, early)
    best = pool.score(pool.best)
    assert soup.evaluation.score >= ranking.best - 1e-12
    assert ranking.best == pytest.approx(best, abs=1e-12)


@pytest.mark.slow
@settings(max_examples=60)
@given(pools, shares, st.integers(2, 9))
def test_several_workers_change_no_row(pool, share, workers):
    alone, together = pool.scores(), pool.scores(workers=workers)
    pool.cook(alone, share)
    pool.cook(together, share)
    assert repr(together.ledger.events) == repr(alone.ledger.events)


def test_what_is_far_from_the_best_is_scored_no_further_than_the_part():
    pool = Pool(1)
    pool.n, pool.names = 40, ["a", "b"]
    pool.tables = {"": Table("accuracy", np.ones(40, int))}
    pool.tasks, pool.lengths = Several(pool.tables), None
    pool.runs = [SimpleNamespace(name=name) for name in pool.names]
    right = {"a": np.zeros(40, int), "b": np.ones(40, int)}
    right["b"][:5] = 0
    pool.answers = lambda recipe, split: {"": right[recipe.ingredients[-1]]}  # type: ignore[method-assign]
    scores = pool.scores()
    ranking = pool.ranked(scores, 0.25)
    assert [(one.ingredients[0], number) for one, number in scores.executor.scored] == [
        ("a", 10), ("b", 10), ("b", 30),
    ]  # fmt: skip
    assert ranking.runs == [Ranked("a", 0.0, partial=True), Ranked("b", 0.875)]


def test_most_of_the_passes_of_a_full_ranking_are_saved_where_runs_differ():
    taken = {}
    for share in (None, 0.1):
        taken[share] = 0
        for seed in range(20):
            pool = Pool(seed, batch_size=2)
            scores = pool.scores()
            pool.ranked(scores, share)
            taken[share] += sum(number for _, number in scores.executor.scored)
    assert taken[0.1] < 0.8 * taken[None]


@given(st.integers(0, 2**20), shares)
def test_among_equals_the_first_of_the_pool_is_the_best(seed, share):
    """Runs that differ in which examples they get right, and in no score."""
    pool = Pool(seed)
    random = np.random.default_rng(seed)
    wrong = int(random.integers(0, pool.n))
    drawn = {name: random.permutation(pool.n) < wrong for name in pool.names}

    def answers(recipe: Recipe, split: str) -> dict[str, np.ndarray]:
        right = pool.tables[""].right
        return {"": np.where(drawn[recipe.ingredients[-1]], 1 - right, right)}

    pool.answers = answers  # type: ignore[method-assign]
    assert pool.ranked(pool.scores(), share).best_first[0].name == pool.names[0]


def test_a_run_that_is_partial_comes_after_those_that_are_not_and_before_nan():
    pool = [Ranked("a", 0.9, partial=True), Ranked("b", float("nan")), Ranked("c", 0.5), Ranked("d", 0.6)]
    assert [run.name for run in rank(pool)] == ["d", "c", "a", "b"]


# What cannot be scored


def test_runs_that_cannot_be_scored_are_left_out(caplog):
    pool = Pool(5, broken={"run1"})
    scores = pool.scores()
    ranking = pool.ranked(scores, 0.3)
    assert ranking.names == [name for name in pool.names if name != "run1"]
    assert [row.decision for row in rows(scores) if row.candidate == "run1"] == ["error"]
    none = Pool(5, broken={f"run{i}" for i in range(9)})
    scores = none.scores()
    with pytest.raises(CheckpointError, match="no run of the pool can be scored"):
        none.ranked(scores, 0.3)
    with pytest.raises(CheckpointError, match=r"search\.on_error=skip"):
        pool.ranked(pool.scores(on_error="stop"), 0.3)


@pytest.mark.parametrize("where", ["part", "rest"])
def test_a_run_that_scores_nan_is_last(where):
    pool = Pool(3, "mse")
    scores = pool.scores()
    drawn = RankingSample.of(scores.examples, "heldout", 0.3)
    chosen = (drawn.part if where == "part" else drawn.rest)[""][:1]
    lost, answers = pool.best, pool.answers

    def with_nan(recipe: Recipe, split: str) -> dict[str, np.ndarray]:
        told = answers(recipe, split)
        if recipe.ingredients == (lost,):
            told[""] = told[""].copy()
            told[""][chosen] = np.nan
        return told

    scores.executor.answers = with_nan  # type: ignore[attr-defined]
    ranking = pool.ranked(scores, 0.3)
    assert ranking.best_first[-1].name == lost
    assert np.isnan(ranking.best_first[-1].score)
    assert [row.reason for row in rows(scores) if row.candidate == lost][-1] == "its score is NaN"
    others = [name for name in pool.names if name != lost]
    assert ranking.best_first[0].name == max(others, key=pool.score)


def test_a_pool_that_scores_nothing_but_nan_is_refused():
    pool = Pool(3, "mse")
    scores = pool.scores()
    scores.executor.answers = lambda recipe, split: {"": np.full(pool.n, np.nan)}  # type: ignore[attr-defined]
    with pytest.raises(DataError, match="every run of the pool scores NaN"):
        pool.ranked(scores, 0.3)


def test_metrics_that_say_nothing_of_a_whole_are_scored_in_full_with_a_warning(caplog):
    pool = Pool(8, "f1_macro")
    scores = pool.scores()
    with caplog.at_level(logging.WARNING):
        ranking = pool.ranked(scores, 0.3)
    assert "every run is scored in full" in caplog.text
    assert not any(run.partial for run in ranking.runs)
    assert all(row.score is not None for row in rows(scores))


@pytest.mark.parametrize("option", ["part", 0.3, {"examples": 0}, {"examples": 1}, {"share": 0.3}, None])
def test_other_rankings_are_refused(option):
    with pytest.raises(ConfigError, match=r"search\.ranking=.*: choose full, or \{examples: …\}"):
        Greedy(ranking=option)


# Pieces of an evaluation


def test_a_run_that_is_continued_scores_what_it_would_have_at_once(bench):
    order = {"": np.random.default_rng(0).permutation(80)}
    (first, rest, whole) = (
        lambda piece, order=order: bench.score(Request("", Recipe.single("a"), order=order, piece=piece))
        for _ in range(3)
    )
    part = first(Piece(limit={"": 32})).evaluation
    assert (part.complete, part.examples_scored, len(part.parts[""].predictions)) == (False, 32, 32)
    assert part.parts[""].order.tolist() == order[""][:32].tolist()
    again = pickle.loads(pickle.dumps(part))
    known = Piece({name: one.predictions for name, one in again.parts.items()})
    both, once = rest(known).evaluation, whole(None).evaluation
    assert both.complete
    np.testing.assert_array_equal(both.parts[""].values, once.parts[""].values)
    np.testing.assert_array_equal(both.parts[""].predictions, once.parts[""].predictions)
    threshold = Threshold(AcceptRule("better"), incumbent=0.99)
    request = Request("", Recipe.single("wild"), order=order, piece=Piece(limit={"": 32}))
    known = Piece({"": bench.score(request).evaluation.parts[""].predictions})
    request = Request("", Recipe.single("wild"), order=order, piece=known, threshold=threshold)
    stopped = bench.score(request).evaluation
    assert stopped.examples_scored == 48  # one batch more than was known
    assert len(stopped.parts[""].predictions) == len(stopped.parts[""].order) == 48
    assert bench.evaluator.examples.order("heldout")[""].tolist() != order[""].tolist()


# Continued, and known from before


@pytest.fixture(scope="module", params=["accuracy", "mse", "two tasks"])
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Pool, Path]:
    metric = "mse" if request.param == "mse" else "accuracy"
    pool = Pool(41, metric, 2 if request.param == "two tasks" else 1)
    folder = tmp_path_factory.mktemp("finished")
    pool.cook(pool.scores(folder), 0.25)
    assert any(row.stopped_early for row in rows(pool.scores(folder)))
    return pool, folder


@pytest.mark.slow
def test_a_run_whose_journal_is_cut_anywhere_ends_with_the_same_tables(finished, tmp_path):
    pool, whole = finished
    lines = (whole / "journal.jsonl").read_text().splitlines(keepends=True)
    for number in range(1, len(lines)):
        folder = tmp_path / str(number)
        shutil.copytree(whole / "evaluations", folder / "evaluations")
        (folder / "journal.jsonl").write_text("".join(lines[:number]))
        scores = pool.scores(folder)
        pool.cook(scores, 0.25)
        assert (folder / "journal.jsonl").read_text().splitlines()[:number] == [
            line.rstrip("\n") for line in lines[:number]
        ]
        for name in ("trajectory.csv", "leaderboard.csv"):
            assert (folder / name).read_bytes() == (whole / name).read_bytes(), (number, name)
        before = sum(json.loads(line)["event"] == "score" for line in lines[:number])
        scored = sum(json.loads(line)["event"] == "score" for line in lines)
        assert len(scores.executor.scored) == scored - before  # and nothing twice


def test_damaged_evaluations_are_scored_again(finished, tmp_path):
    pool, whole = finished
    shutil.copytree(whole, tmp_path / "x")
    journal = tmp_path / "x" / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[: len(lines) // 2]))
    for file in (tmp_path / "x" / "evaluations").iterdir():
        file.write_bytes(file.read_bytes()[:-3])
    pool.cook(pool.scores(tmp_path / "x"), 0.25)
    for name in ("trajectory.csv", "leaderboard.csv"):
        assert (tmp_path / "x" / name).read_bytes() == (whole / name).read_bytes()


def test_a_run_that_is_continued_with_other_batches_ends_with_the_same_ranking(finished, tmp_path):
    pool, whole = finished
    expected = pool.ranked(pool.scores(), 0.25)
    for number in range(2, 16, 3):
        folder = tmp_path / str(number)
        shutil.copytree(whole / "evaluations", folder / "evaluations")
        lines = (whole / "journal.jsonl").read_text().splitlines(keepends=True)
        (folder / "journal.jsonl").write_text("".join(lines[:number]))
        other = Pool(pool.seed, pool.metric, len(pool.tables), batch_size=9)
        ranking = other.ranked(other.scores(folder), 0.25)
        assert next(run.name for run in ranking.best_first) == expected.best_first[0].name
        assert ranking.best == expected.best


def table(scores: Scores) -> pd.DataFrame:
    return trajectory(scores.ledger.events).drop(columns=[*TIMES, "cached", "examples_scored"])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_what_the_cache_holds_changes_nothing_but_the_passes(seed, metric, tmp_path):
    pool = Pool(seed, metric)
    alone = pool.scores()
    pool.cook(alone, 0.25)
    pool.ranked(pool.scores(shared=tmp_path / "full"), None)
    full = pool.scores(shared=tmp_path / "full")  # every run was scored in full before
    pool.cook(full, 0.25)
    _check_same_way(full, alone)
    if metric == "accuracy":
        assert sum(row.examples_scored for row in rows(full)) == 0
    first, again = pool.scores(shared=tmp_path / "part"), pool.scores(shared=tmp_path / "part")
    pool.cook(first, 0.25)
    pool.cook(again, 0.25)
    _check_same_way(first, alone)
    _check_same_way(again, alone)
    assert sum(row.examples_scored for row in rows(again)) == 0
    assert leaderboard(again.ledger.events).equals(leaderboard(alone.ledger.events))


def _check_same_way(one: Scores, other: Scores) -> None:
    """The same ranking to the last row, and the same decisions; a candidate's full score may be known."""
    tables = [table(scores) for scores in (one, other)]
    ranked, others = (frame[frame["stage"] == "rank"] for frame in tables)
    assert ranked.to_csv() == others.to_csv()
    told = ["stage", "candidate", "decision", "ingredients", "soup_size"]
    pd.testing.assert_frame_equal(tables[0][told], tables[1][told])


def test_a_scoring_that_fails_once_the_part_is_known_costs_the_run():
    pool = Pool(41)
    scores = pool.scores()
    each, failed = scores.each, pool.best

    def failing(requests: Any) -> Any:
        for request, one in zip(requests, each(requests), strict=True):
            broken = request.piece and request.piece.known and request.recipe.ingredients == (failed,)
            yield Unscorable(request.recipe, "its file is gone") if broken else one

    scores.each = failing  # type: ignore[method-assign]
    ranking = pool.ranked(scores, 0.25)
    others = [name for name in pool.names if name != failed]
    assert ranking.names == others
    assert ranking.best_first[0].name == max(others, key=pool.score)


# Real models


def test_a_pool_of_real_models_is_ranked_by_a_part(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "search.ranking={examples: 0.25}")
    soupkitchen(*words, "name=part", cwd=tmp_path)
    soupkitchen(*own(text_runs, texts), "name=full", cwd=tmp_path)
    part, full = (read_csv(tmp_path / "results" / name / "trajectory.csv") for name in ("part", "full"))
    ranked, whole = part[part["stage"] == "rank"], full[full["stage"] == "rank"].set_index("candidate")
    assert ranked["examples_scored"].sum() < whole["examples_scored"].sum()
    assert (ranked["score_on_part"].notna() == ~ranked["candidate"].duplicated()).all()
    assert (ranked[ranked["score_on_part"].notna()]["examples_scored"] == 20).all()
    for row in ranked[ranked["score"].notna()].itertuples():
        assert row.score == whole.loc[row.candidate, "score"]
    starts = [one[one["decision"] == "start"].iloc[0] for one in (part, full)]
    assert starts[0][["candidate", "score"]].tolist() == starts[1][["candidate", "score"]].tolist()
    told = read_csv(tmp_path / "results/part/leaderboard.csv")
    partial = told[told["kind"] == "partial"]
    assert "wild" in partial["model"].tolist()
    assert not set(partial["model"]) & set(told[told["kind"] == "single"]["model"])
    best = told[told["model"] == starts[0]["candidate"]].iloc[0]
    assert (best["kind"], best["delta_vs_best_single"]) == ("single", 0)
    soup = told[told["kind"] == "soup"].iloc[0]
    assert soup["delta_vs_best_single"] == pytest.approx(soup["heldout_accuracy"] - best["heldout_accuracy"])
    before = {
        name: (tmp_path / "results/part" / name).read_bytes()
        for name in ("trajectory.csv", "leaderboard.csv")
    }
    make(tmp_path / "results" / "part")
    for name, content in before.items():
        assert (tmp_path / "results/part" / name).read_bytes() == content


def test_losses_of_real_models_are_ranked_by_a_part(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "task.metric.name=cross_entropy")
    soupkitchen(*words, "search.ranking={examples: 0.25}", "name=part", cwd=tmp_path)
    soupkitchen(*words, "name=full", cwd=tmp_path)
    tables = [read_csv(tmp_path / "results" / name / "leaderboard.csv") for name in ("part", "full")]
    best = [one[one["kind"] == "single"].iloc[0] for one in tables]
    assert best[0]["model"] == best[1]["model"]
    assert best[0]["heldout_cross_entropy"] == pytest.approx(best[1]["heldout_cross_entropy"], rel=1e-6)
    soup = tables[0][tables[0]["kind"] == "soup"].iloc[0]
    assert soup["delta_vs_best_single"] >= 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("method.weights={by: score, temperature: 0.1}",), "method.weights={by: score"),
        (("pool.trust_scores=true",), "pool.trust_scores=true"),
        (
            ("task=several", "task.aggregate=normalized", "+task@task.tasks.a=text_classification"),
            "task.aggregate=normalized",
        ),
    ],
)
def test_what_needs_the_scores_of_all_runs_is_refused(words, says, text_runs, texts, tmp_path):
    task = ("task=text_classification", f"task.data.path={texts}")
    if "task=several" in words:
        task = (f"task.tasks.a.data.path={texts}",)
    listed = [f"{text_runs / name},0.5" for name in "abcd"]  # trusted scores come in a list
    (tmp_path / "runs.csv").write_text("\n".join(["path,accuracy", *listed]))
    pool = "runs.csv" if "pool.trust_scores=true" in words else f"{text_runs}/*"
    command = (f"pool.path={pool}", "evaluation.cache=null", "search.ranking={examples: 0.25}")
    result = soupkitchen(*command, *words, *task, "name=x", cwd=tmp_path, fails=True)
    assert "search.ranking={examples: …}" in result.stderr
    assert says in result.stderr
    assert not (tmp_path / "results/x/trajectory.csv").exists()
