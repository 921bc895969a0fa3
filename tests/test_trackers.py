"""Trackers: told of each step once, of the same run when it goes on, and never the end of a run."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import re
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import pytest
import reading_trackers
from command import events, own, same, soupkitchen, started_anew, wait_for
from reading_trackers import Tracked

import soupkitchen as api
from soupkitchen.checkpoints import find_pool
from soupkitchen.errors import ConfigError
from soupkitchen.experiment.ledger import Ledger
from soupkitchen.options.kinds import Tracker
from soupkitchen.records import Entry, Step
from soupkitchen.records.trackers import CLIENTS, Trackers, options_of
from soupkitchen.store.settings import what_is_run

# MLflow's, with SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

CONFIG = {"method": {"weights": None, "scale": [1, 2], "t": 0.5}, "task": {"tasks": {"a b?": {"x": "y"}}}}
LOSS = {"metric": "cross_entropy", "greater_is_better": False, "columns": []}
STEPS = [
    Step("rank", "a", score=0.5, examples_scored=10, merge_seconds=0.25, eval_seconds=0.5),
    Step("rank", "b", score=0.25, examples_scored=10),
    Step("rank", "wild", score=float("nan"), decision="error", reason="its score is NaN"),
    Step("merge", "b", score=0.25, decision="start", soup_size=1, cached=True),
    Step("merge", "a", score=0.125, decision="keep", gain=0.125, soup_size=2, tasks={"x/y?": 0.75}),
    Step("final", "soup", score=0.125, cached=True),
    Step("final", "soup", split="test", score=0.375, examples_scored=7),
]
ENTRIES = [
    Entry("soup", "soup", ("b", "a"), -0.125, -0.375),
    Entry("b", "single", ("b",), -0.25, -0.5),
    Entry("a", "single", ("a",), -0.5),
]
POINTS = {
    "score": [(0, 0.5), (1, 0.25), (3, 0.25), (4, 0.125), (5, 0.125)],
    "score_x/y_": [(4, 0.75)],
    "test_score": [(6, 0.375)],
    "gain": [(4, 0.125)],
    "best_score": [(0, 0.5), (1, 0.25), (2, 0.25), (3, 0.25), (4, 0.125), (5, 0.125), (6, 0.125)],
    "soup_size": [(3, 1), (4, 2)],
    "examples_scored": [(0, 10), (1, 10), (2, 0), (3, 0), (4, 0), (5, 0), (6, 7)],
    "seconds": [(0, 0.75), *((n, 0) for n in range(1, 7))],
    "soup_score": [(7, 0.125)],
    "soup_test_score": [(7, 0.375)],
    "soup_gain": [(7, 0.125)],
}
"""What each tracker should have of `STEPS` and `ENTRIES`: by figure, step numbers and values."""


class InterruptedError(BaseException):
    """As Ctrl-C."""


@pytest.fixture(params=get_args(Tracker))
def name(request: pytest.FixtureRequest) -> str:
    """Each tracker; trackio, which our constraints leave out, where somebody has installed it."""
    if request.param == "trackio":
        pytest.importorskip("trackio")
    return request.param


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """All stores are in `tmp_path`, which one works in."""
    monkeypatch.chdir(tmp_path)
    for variable in [one for one in os.environ if one.startswith(("MLFLOW_", "WANDB_", "TRACKIO_"))]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    with contextlib.suppress(ImportError):
        importlib.import_module("trackio")
        reading_trackers.trackio_in(tmp_path / "trackio", monkeypatch)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.yaml").write_text("a: 1\n")
    yield
    reading_trackers.close_wandb()


def cooked(
    names: str | list[str] | None, folder: Path, steps: int | None = None, told: Mapping[str, Any] = LOSS
) -> None:
    """A run's events; interrupted after so many steps, if that is given."""
    try:
        with Trackers(names, folder, CONFIG) as trackers:
            ledger = Ledger(folder, [trackers])
            ledger.begin({}, {"runs": {"a": "1"}}, **told)
            for step in STEPS[:steps]:
                ledger.step(step)
            if steps is not None:
                raise InterruptedError
            for entry in ENTRIES:
                ledger.entry(entry)
            ledger.finish(greater_is_better=False)
    except InterruptedError:
        pass


def tracked(name: str, folder: Path) -> Tracked:
    """What the tracker has, of the one run that it should have."""
    (one,) = getattr(reading_trackers, name)(folder)
    return one


def figures(one: Tracked) -> dict[str, list[tuple[int, float]]]:
    """Without those that trackers make of their own accord."""
    return {name: points for name, points in one.points.items() if not name.startswith("leaderboard.")}


def test_each_name_has_a_class():
    assert set(get_args(Tracker)) == set(CLIENTS)


@pytest.mark.slow
def test_a_tracker_has_each_step_the_final_table_the_options_and_the_files(name, tmp_path):
    (tmp_path / "x" / "report.html").write_text("<html>")
    cooked(name, tmp_path / "x")
    one = tracked(name, tmp_path)
    assert figures(one) == POINTS
    assert all(text in one.table for text in ("soup", "b;a", "0.125", "heldout_cross_entropy"))
    said = {key: str(one.options[key]) for key in ("method.weights", "method.scale", "method.t")}
    assert said == {"method.weights": "null", "method.scale": "[1, 2]", "method.t": "0.5"}
    assert one.options["task.tasks.a b_.x"] == "y"
    kept = {"config.yaml", "leaderboard.csv", "report.html", "trajectory.csv"}
    assert set(one.files) - {"leaderboard.table.json"} == (set() if name == "tensorboard" else kept)
    if name in ("mlflow", "wandb"):
        assert one.complete is True
        assert one.files["trajectory.csv"] == (tmp_path / "x" / "trajectory.csv").read_text()
        assert one.files["leaderboard.csv"] == (tmp_path / "x" / "leaderboard.csv").read_text()


@pytest.mark.slow
def test_a_run_that_goes_on_is_the_same_run_and_tells_nothing_twice(name, tmp_path):
    cooked(name, tmp_path / "x", steps=3)
    known = json.loads((tmp_path / "x" / "trackers.json").read_text())[name]
    assert known["steps"] == 3
    time.sleep(name == "wandb")  # whose folders are called after the second
    if name == "mlflow":
        assert tracked(name, tmp_path).complete is False
    cooked(name, tmp_path / "x", steps=3)  # with nothing new
    time.sleep(name == "wandb")
    cooked(name, tmp_path / "x")
    one = tracked(name, tmp_path)
    assert figures(one) == POINTS
    assert str(one.options["method.t"]) == "0.5"
    after = json.loads((tmp_path / "x" / "trackers.json").read_text())[name]
    assert after == {**known, "steps": 7, "done": True}
    cooked(name, tmp_path / "x")  # as where the soup was removed, and is merged again
    assert figures(tracked(name, tmp_path)) == POINTS


def test_two_runs_of_one_name_are_two(name, tmp_path):
    cooked(name, tmp_path / "x")
    (tmp_path / "y" / "x").mkdir(parents=True)
    cooked(name, tmp_path / "y" / "x")
    found = getattr(reading_trackers, name)(tmp_path)
    found += getattr(reading_trackers, name)(tmp_path / "y") if name == "tensorboard" else []
    assert [figures(one) for one in found] == [POINTS, POINTS]


def test_several_trackers_are_told_alike_and_one_that_comes_later_of_all_before(tmp_path):
    cooked("tensorboard", tmp_path / "x", steps=4)
    cooked(["tensorboard", "mlflow"], tmp_path / "x")
    for name in ("tensorboard", "mlflow"):
        assert figures(tracked(name, tmp_path)) == POINTS


def test_more_is_better_where_the_metric_says_so(tmp_path):
    cooked("tensorboard", tmp_path / "x", steps=5, told={**LOSS, "greater_is_better": True})
    assert [value for _, value in tracked("tensorboard", tmp_path).points["best_score"]] == [0.5] * 5


def test_without_a_tracker_nothing_is_written(tmp_path):
    cooked(None, tmp_path / "x")
    files = {file.name for file in (tmp_path / "x").iterdir()}
    assert files == {"config.yaml", "journal.jsonl", "leaderboard.csv", "trajectory.csv"}


def test_a_tracker_that_fails_is_named_once_and_the_others_go_on(tmp_path, monkeypatch, caplog):
    from accelerate.tracking import MLflowTracker

    def fails(*_: Any, **__: Any) -> None:
        raise ConnectionError("no\nnetwork")

    cooked(["mlflow", "tensorboard"], tmp_path / "x", steps=2)
    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING, "soupkitchen"):
        patched.setattr(MLflowTracker, "log", fails)
        cooked(["mlflow", "tensorboard"], tmp_path / "x", steps=5)
    assert [one.getMessage() for one in caplog.records if one.name.startswith("soupkitchen")] == [
        "tracker=mlflow fails (no network): the run goes on without it"
    ]
    assert len(tracked("tensorboard", tmp_path).points["best_score"]) == 5
    cooked(["mlflow", "tensorboard"], tmp_path / "x")  # the network is back
    for name in ("mlflow", "tensorboard"):
        assert figures(tracked(name, tmp_path)) == POINTS


def test_a_server_that_nobody_answers_at_ends_no_run(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    cooked("mlflow", tmp_path / "x")
    (warning,) = [one.getMessage() for one in caplog.records if one.name.startswith("soupkitchen")]
    assert re.match(r"tracker=mlflow fails \(.*127\.0\.0\.1.*\): the run goes on without it", warning)
    assert (tmp_path / "x" / "leaderboard.csv").is_file()


def test_what_is_remembered_is_told_anew_where_its_file_was_spoilt(tmp_path, caplog):
    cooked("mlflow", tmp_path / "x", steps=3)
    (tmp_path / "x" / "trackers.json").write_text('{"mlflow": {"run"')
    cooked("mlflow", tmp_path / "x")
    assert "trackers begin anew" in caplog.text
    first, second = sorted(reading_trackers.mlflow(tmp_path), key=lambda one: len(one.points))
    assert len(first.points["best_score"]) == 3
    assert figures(second) == POINTS


@pytest.mark.parametrize("tracker", get_args(Tracker))
def test_an_absent_package_is_said_with_its_extra_before_any_work(
    tracker, text_runs, texts, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, tracker, None)
    task = api.tasks.text_classification(str(texts))
    with pytest.raises(ConfigError, match=rf"tracker={tracker} .*pip install 'soupkitchen\[{tracker}\]'"):
        api.cook(f"{text_runs}/*", task, results_dir=tmp_path, name="new", tracker=["tensorboard", tracker])
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("database", "why"),
    [("folder", "no file"), ("text", "not a database"), ("nowhere/mlflow.db", "folder is not there")],
)
def test_what_cannot_be_mlflows_database_is_refused_at_once(database, why, tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "text").write_text("not a database, for longer than the header of one would be" * 9)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / database}")
    with pytest.raises(ConfigError, match=f"tracker=mlflow: .*{database} cannot be .* {why}.*MLFLOW_TRACK"):
        Trackers("mlflow", tmp_path, {})
    with pytest.raises(ConfigError, match=f"pool.path=mlflow:x: .*{database} cannot be MLflow's database"):
        find_pool("mlflow:x")


@pytest.mark.parametrize("wrong", ["tensorbord", ["mlflow", "aim"], 5, True])
def test_a_tracker_that_there_is_not_is_refused(wrong, texts, tmp_path):
    task = api.tasks.text_classification(str(texts))
    with pytest.raises(ConfigError, match=r"tracker=.*: choose tensorboard, wandb, mlflow, trackio, or a"):
        api.cook(str(tmp_path), task, results_dir=tmp_path, tracker=wrong)


def test_a_tracker_is_no_part_of_what_is_run():
    assert what_is_run({"tracker": ["mlflow"], "top_k": 2}) == {"top_k": 2}


def test_options_are_plain_values_under_keys_that_all_trackers_allow():
    told = options_of({"a": {"b": None, "c": True, "d": [1, {"e": 2}], "f?g": 0.5}, "h": {}})
    assert told == {"a.b": "null", "a.c": True, "a.d": "[1, {'e': 2}]", "a.f_g": 0.5, "h": "{}"}


def of_trajectory(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What trackers should have been told of the steps of a run."""
    table = pd.read_csv(folder / "trajectory.csv")
    heldout, test = table[table["split"] == "heldout"], table[table["split"] == "test"]
    told = {
        "score": heldout["score"],
        "test_score": test["score"],
        "best_score": heldout["score"].cummax().reindex(table.index).ffill(),
        "gain": table["gain"],
        "soup_size": table["soup_size"],
        "examples_scored": table["examples_scored"],
    }
    return {name: [(n, pytest.approx(v)) for n, v in one.dropna().items()] for name, one in told.items()}


@pytest.mark.slow
def test_a_run_that_is_killed_and_continued_is_one_run_in_every_tracker(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "tracker=[tensorboard,mlflow,wandb]")
    folder = tmp_path / "results" / "killed"
    process = started_anew(*words, "name=killed", cwd=tmp_path)
    wait_for(lambda: sum(one["event"] == "step" for one in events(folder)) >= 4, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    process = started_anew(*words, "name=killed", cwd=tmp_path)  # no fork: W&B's own process outlives forks
    process.communicate()
    assert process.returncode == 0
    expected = of_trajectory(folder)
    for name in ("tensorboard", "mlflow", "wandb"):
        place, until = tmp_path / "results" if name == "tensorboard" else tmp_path, time.monotonic() + 60
        one = tracked(name, place)
        while not one.points.keys() >= expected.keys() and time.monotonic() < until:
            time.sleep(1)  # a process of the client's own may still be writing on a busy machine
            one = tracked(name, place)
        # a kill between telling a step and noting that tells this one step again, as the docs say
        once = {key: list(dict(one.points.get(key, ())).items()) for key in expected}
        assert once == expected, name
        assert all(len(one.points[key]) <= len(points) + 1 for key, points in expected.items()), name
        assert one.options["method._target_"] == "soupkitchen.merging.Linear"
        table = pd.read_csv(folder / "leaderboard.csv")
        assert str(table["ingredients"][0]) in one.table
        if name != "tensorboard":
            assert one.files["leaderboard.csv"] == (folder / "leaderboard.csv").read_text()
            assert one.complete is True
    soupkitchen(*own(text_runs, texts), "name=alone", cwd=tmp_path)
    same(folder, tmp_path / "results" / "alone")


@pytest.mark.slow
def test_overwriting_begins_another_run(text_runs, texts, tmp_path):
    task = api.tasks.text_classification(str(texts))
    for overwrite in (False, True):
        result = api.cook(
            f"{text_runs}/*",
            task,
            results_dir=tmp_path,
            name="again",
            tracker="tensorboard",
            overwrite=overwrite,
        )
    assert len(tracked("tensorboard", tmp_path).points["best_score"]) == len(result.trajectory)
    (before,) = result.folder.glob("before-*")
    assert len(reading_trackers.tensorboard(result.folder)) == 1
    assert (before / "trackers.json").is_file()
