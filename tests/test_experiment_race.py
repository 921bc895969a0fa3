"""Ranking as a race: the best run is that of a full ranking but for the error asked for, for fewer passes."""

from __future__ import annotations

import json
import logging
import math
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
from soupkitchen.experiment.race import LAPS, Track, by_race
from soupkitchen.experiment.ranking import Ranking, by_scoring
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
        self.n, runs = int(random.integers(4, 300)), int(random.integers(2, 9))
        self.names = [f"run{number}" for number in range(runs)]
        self.skill, self.spread = random.uniform(0.3, 0.95), random.uniform(0.0, 0.3)
        labels = [f"task{number}" for number in range(tasks)] if tasks > 1 else [""]
        self.tables = {
            name: Table(
                metric, random.normal(size=self.n) if metric == "mse" else random.integers(0, 2, self.n)
            )
            for name in labels
        }
        self.lengths = random.integers(1, 9, self.n) if seed % 3 else None
        self.tasks = Several(self.tables)
        self.runs: Any = [SimpleNamespace(name=name, path=name) for name in self.names]

    def answers(self, recipe: Recipe, split: str) -> dict[str, np.ndarray]:
        if recipe.ingredients[0] in self.broken:
            raise RuntimeError("its tensors are odd")
        shared = np.random.default_rng(self.seed).random(self.n)
        luck = np.random.default_rng(zlib.crc32(repr((self.seed, recipe.ingredients)).encode()))
        told = {}
        for name, table in self.tables.items():
            own_luck, level = luck.random(self.n), luck.normal() * self.spread
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

    def ranked(self, scores: Scores, confidence: float | None, margin: float = 0.0) -> Ranking:
        return self._ranked(scores, Recipes(Linear()), Steps(scores, ""), confidence, margin)

    def _ranked(self, scores: Scores, recipes: Recipes, steps: Steps, confidence: Any, margin: float = 0.0):
        if confidence is None:
            return by_scoring(self.runs, scores, recipes, steps)
        return by_race(self.runs, scores, recipes, steps, confidence, margin)

    def cook(self, scores: Scores, confidence: float | None, early: bool = True) -> tuple[Any, Ranking]:
        """A whole run, with its tables."""
        search, recipes = Greedy(), Recipes(Linear())
        steps = Steps(scores, search.rule.text)
        ranking = self._ranked(scores, recipes, steps, confidence)
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
confidences = st.sampled_from([0.6, 0.9, 0.99])


# What a ranking says


@pytest.mark.slow
def test_the_best_run_is_that_of_a_full_ranking_but_for_the_error_asked_for():
    for confidence in (0.7, 0.95):
        wrong = 0
        for seed in range(300):
            pool = Pool(seed, ["accuracy", "mse"][seed % 2], 1 + seed % 3 // 2)
            pool.spread *= 0.1  # runs are near each other
            ranking = pool.ranked(pool.scores(), confidence)
            best = ranking.best_first[0]
            assert not best.partial
            assert ranking.best == best.score == pytest.approx(pool.score(best.name), abs=1e-12)
            wrong += best.name != pool.best
            assert ranking.names == pool.names
        assert wrong <= 300 * (1 - confidence)


def test_within_a_margin_runs_need_not_be_told_apart():
    shares = {0.0: 0, 0.05: 0}
    for seed in range(40):
        for margin in shares:
            pool = Pool(seed, "mse", batch_size=2)
            scores = pool.scores()
            ranking = pool.ranked(scores, 0.99, margin)
            assert pool.score(pool.best) - ranking.best <= margin + 1e-12
            shares[margin] += sum(number for _, number in scores.executor.scored)
    assert shares[0.05] < shares[0.0]


@settings(max_examples=60)
@given(pools, confidences)
def test_the_order_of_the_others_is_that_of_their_difference_to_the_best(pool, confidence):
    scores = pool.scores()
    ranking = pool.ranked(scores, confidence)
    best = ranking.best_first[0]
    for run in ranking.runs:
        expected = pool.score(run.name)
        if run.partial:
            parts = ranking.singles[run.name].parts
            drawn = {name: part.order for name, part in parts.items()}
            sizes = {name: len(order) for name, order in drawn.items()}
            values, others = pool.values(run.name), pool.values(best.name)
            differences = [
                (values[name][drawn[name]] - others[name][drawn[name]]).sum() / pool.n for name in sizes
            ]
            scored = sum(sizes.values()) / (pool.n * len(sizes))  # examples of all tasks count alike
            expected = best.score + sum(differences) / len(sizes) / scored
        assert run.score == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60)
@given(pools, confidences)
def test_a_run_has_one_row_which_says_how_far_it_came(pool, confidence):
    scores = pool.scores()
    ranking = pool.ranked(scores, confidence)
    total, shown = pool.n * len(pool.tables), scores.tasks.shown
    told = {row.candidate: row for row in rows(scores)}
    assert len(told) == len(rows(scores)) == len(pool.names)
    executed = dict.fromkeys(pool.names, 0)
    for recipe, number in scores.executor.scored:
        executed[recipe.ingredients[0]] += number
    partial = {run.name for run in ranking.runs if run.partial}
    for name, row in told.items():
        assert executed[name] == row.examples_scored <= row.examples_total == total
        assert row.stopped_early == (name in partial) == (row.examples_scored < total)
        assert row.stopped_by == ("confidence" if name in partial else "")
        assert row.examples_scored in {math.ceil(lap * total) for lap in LAPS}
        assert (row.score is None) == (row.score_on_part is not None) == (name in partial)
        if name not in partial:
            assert row.score == pytest.approx(shown(pool.score(name)))


@settings(max_examples=40)
@given(pools)
def test_a_track_counts_each_example_as_the_score_does(pool):
    scores = pool.scores()
    track = Track.of(scores.examples, scores.tasks)
    assert sorted(track.sequence) == list(range(pool.n * len(pool.tables)))
    assert track.share.mean() == pytest.approx(1)
    values = np.concatenate(list(pool.values(pool.names[0]).values()))
    assert (track.share * values).mean() == pytest.approx(pool.score(pool.names[0]))
    for lap, end in zip(LAPS, track.ends, strict=True):
        drawn = track.sequence[: math.ceil(lap * len(track.sequence))]
        for number, (name, order) in enumerate(track.order.items()):
            own = [one - number * pool.n for one in drawn if number * pool.n <= one < (number + 1) * pool.n]
            assert sorted(order[: end[name]]) == sorted(own)


@pytest.mark.slow
@settings(max_examples=40)
@given(pools, confidences, st.booleans())
def test_soups_are_never_below_the_winner(pool, confidence, early):
    soup, ranking = pool.cook(pool.scores(), confidence, early)
    assert soup.evaluation.score >= ranking.best - 1e-12


@pytest.mark.slow
@settings(max_examples=60)
@given(pools, confidences, st.integers(2, 9))
def test_several_workers_change_no_row(pool, confidence, workers):
    alone, together = pool.scores(), pool.scores(workers=workers)
    pool.cook(alone, confidence)
    pool.cook(together, confidence)
    assert repr(together.ledger.events) == repr(alone.ledger.events)


def test_most_of_the_passes_of_a_full_ranking_are_saved_where_runs_differ():
    taken = {None: 0, 0.999: 0}
    for seed in range(20):
        for confidence in taken:
            pool = Pool(seed, "mse", batch_size=2)
            pool.n, pool.spread, pool.lengths = 300, 1.0, None
            pool.tables = {"": Table("mse", np.random.default_rng(seed).normal(size=300))}
            pool.tasks = Several(pool.tables)
            scores = pool.scores()
            pool.ranked(scores, confidence)
            taken[confidence] += sum(number for _, number in scores.executor.scored)
    assert taken[0.999] < 0.6 * taken[None]


def test_runs_that_answer_alike_all_finish_and_the_first_is_the_best():
    pool = Pool(1)
    pool.answers = lambda recipe, split: {"": pool.tables[""].right}  # type: ignore[method-assign]
    ranking = pool.ranked(pool.scores(), 0.6)
    assert not any(run.partial for run in ranking.runs)
    assert ranking.best_first[0].name == pool.names[0]


def test_a_margin_follows_from_the_best_runs_at_the_first_lap_and_after_the_race(monkeypatch):
    """A run that fell out early could still score anything: that says nothing of how good it is."""
    asked: list[list[Any]] = []

    def noise(evaluations, tasks, references):
        asked.append(list(evaluations))
        return 0.0

    for module in ("race", "ranking"):
        monkeypatch.setattr(f"soupkitchen.experiment.{module}.noise", noise)
    pool = Pool(41, metric="mse")
    scores = pool.scores()
    ranking = pool.ranked(scores, 0.6, margin=math.nan)
    assert any(run.partial for run in ranking.runs)
    ranking.noise(scores)
    first, last = asked
    means = [one.parts[""].values[one.parts[""].scored].mean() for one in first]
    assert len(means) == len(pool.names)
    assert means == sorted(means, reverse=True) != sorted(means)
    assert last == [ranking.singles[run.name] for run in ranking.best_first]
    assert last != list(ranking.singles.values())


def test_a_run_that_is_partial_comes_after_those_that_are_not_and_before_nan():
    pool = [Ranked("a", 0.9, partial=True), Ranked("b", float("nan")), Ranked("c", 0.5), Ranked("d", 0.6)]
    assert [run.name for run in rank(pool)] == ["d", "c", "a", "b"]


# What cannot be scored


def test_runs_that_cannot_be_scored_are_left_out(caplog):
    pool = Pool(5, broken={"run1"})
    scores = pool.scores()
    ranking = pool.ranked(scores, 0.9)
    assert ranking.names == [name for name in pool.names if name != "run1"]
    assert [row.decision for row in rows(scores) if row.candidate == "run1"] == ["error"]
    none = Pool(5, broken={f"run{i}" for i in range(9)})
    scores = none.scores()
    with pytest.raises(CheckpointError, match="no run of the pool can be scored"):
        none.ranked(scores, 0.9)
    with pytest.raises(CheckpointError, match=r"search\.on_error=skip"):
        pool.ranked(pool.scores(on_error="stop"), 0.9)


@pytest.mark.parametrize("lap", [0, 2, 4])
def test_a_run_that_scores_nan_is_last(lap):
    pool = Pool(3, "mse")
    scores = pool.scores()
    track = Track.of(scores.examples, scores.tasks)
    chosen = track.order[""][track.ends[lap][""] - 1]
    lost, answers = pool.best, pool.answers

    def with_nan(recipe: Recipe, split: str) -> dict[str, np.ndarray]:
        told = answers(recipe, split)
        if recipe.ingredients == (lost,):
            told[""] = told[""].copy()
            told[""][chosen] = np.nan
        return told

    scores.executor.answers = with_nan  # type: ignore[attr-defined]
    ranking = pool.ranked(scores, 0.9)
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
        pool.ranked(scores, 0.9)


def test_metrics_that_say_nothing_of_a_whole_are_scored_in_full_with_a_warning(caplog):
    pool = Pool(8, "f1_macro")
    scores = pool.scores()
    with caplog.at_level(logging.WARNING):
        ranking = pool.ranked(scores, 0.9)
    assert "every run is scored in full" in caplog.text
    assert not any(run.partial for run in ranking.runs)
    assert all(row.score is not None for row in rows(scores))


@pytest.mark.parametrize("option", ["part", 0.3, {"examples": 0.1}, {"confidence": 1}, {"share": 0.3}, None])
def test_other_rankings_are_refused(option):
    with pytest.raises(
        ConfigError, match=r"search\.ranking=.*: choose full, or \{confidence: p\} .*\{examples: …\}"
    ):
        Greedy(ranking=option)


def test_the_least_of_several_tasks_is_no_mean(caplog):
    pool = Pool(9, tasks=2)
    pool.tasks = Several(pool.tables, "min")
    with caplog.at_level(logging.WARNING):
        ranking = pool.ranked(pool.scores(), 0.9)
    assert "every run is scored in full" in caplog.text
    assert not any(run.partial for run in ranking.runs)


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
    pool.cook(pool.scores(folder), 0.6)
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
        pool.cook(scores, 0.6)
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
    pool.cook(pool.scores(tmp_path / "x"), 0.6)
    for name in ("trajectory.csv", "leaderboard.csv"):
        assert (tmp_path / "x" / name).read_bytes() == (whole / name).read_bytes()


def test_a_run_that_is_continued_with_other_batches_ends_with_the_same_ranking(finished, tmp_path):
    pool, whole = finished
    expected = pool.ranked(pool.scores(), 0.6)
    for number in range(2, 16, 3):
        folder = tmp_path / str(number)
        shutil.copytree(whole / "evaluations", folder / "evaluations")
        lines = (whole / "journal.jsonl").read_text().splitlines(keepends=True)
        (folder / "journal.jsonl").write_text("".join(lines[:number]))
        other = Pool(pool.seed, pool.metric, len(pool.tables), batch_size=9)
        ranking = other.ranked(other.scores(folder), 0.6)
        assert next(run.name for run in ranking.best_first) == expected.best_first[0].name
        assert ranking.best == expected.best


def table(scores: Scores) -> pd.DataFrame:
    return trajectory(scores.ledger.events).drop(columns=[*TIMES, "cached", "examples_scored"])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("metric", ["accuracy", "mse"])
def test_what_the_cache_holds_changes_nothing_but_the_passes(seed, metric, tmp_path):
    pool = Pool(seed, metric)
    alone = pool.scores()
    pool.cook(alone, 0.6)
    pool.ranked(pool.scores(shared=tmp_path / "full"), None)
    full = pool.scores(shared=tmp_path / "full")  # every run was scored in full before
    pool.cook(full, 0.6)
    _check_same_way(full, alone)
    if metric == "accuracy":
        assert sum(row.examples_scored for row in rows(full)) == 0
    first, again = pool.scores(shared=tmp_path / "part"), pool.scores(shared=tmp_path / "part")
    pool.cook(first, 0.6)
    pool.cook(again, 0.6)
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
    ranking = pool.ranked(scores, 0.6)
    others = [name for name in pool.names if name != failed]
    assert ranking.names == others
    assert ranking.best_first[0].name == max(others, key=pool.score)


# Real models


@pytest.mark.parametrize("metric", ["accuracy", "cross_entropy"])
def test_a_pool_of_real_models_is_ranked_as_a_race(metric, text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), f"task.metric.name={metric}")
    soupkitchen(*words, "search.ranking={confidence: 0.9}", "name=race", "report.write=true", cwd=tmp_path)
    soupkitchen(*words, "name=full", cwd=tmp_path)
    race, full = (read_csv(tmp_path / "results" / name / "trajectory.csv") for name in ("race", "full"))
    ranked, whole = race[race["stage"] == "rank"], full[full["stage"] == "rank"].set_index("candidate")
    assert ranked["examples_scored"].sum() < whole["examples_scored"].sum()
    assert ranked["candidate"].is_unique
    for row in ranked[ranked["score"].notna()].itertuples():
        assert row.score == pytest.approx(whole.loc[row.candidate, "score"], rel=1e-6)
    starts = [one[one["decision"] == "start"].iloc[0]["candidate"] for one in (race, full)]
    assert starts[0] == starts[1]
    told = read_csv(tmp_path / "results/race/leaderboard.csv")
    partial = told[told["kind"] == "partial"]
    assert len(partial)
    promise = "the best run falls out with a probability of at most 0.1"
    assert set(ranked[ranked["score"].isna()]["reason"]) == {promise}
    assert promise in (tmp_path / "results/race/report.html").read_text()
    assert not set(partial["model"]) & set(told[told["kind"] == "single"]["model"])
    assert told[told["kind"] == "soup"].iloc[0]["delta_vs_best_single"] >= 0
    before = {
        name: (tmp_path / "results/race" / name).read_bytes()
        for name in ("trajectory.csv", "leaderboard.csv")
    }
    make(tmp_path / "results" / "race")
    for name, content in before.items():
        assert (tmp_path / "results/race" / name).read_bytes() == content


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
    command = (f"pool.path={pool}", "evaluation.cache=null", "search.ranking={confidence: 0.99}")
    result = soupkitchen(*command, *words, *task, "name=x", cwd=tmp_path, fails=True)
    assert "search.ranking={confidence: …}" in result.stderr
    assert says in result.stderr
    assert not (tmp_path / "results/x/trajectory.csv").exists()
