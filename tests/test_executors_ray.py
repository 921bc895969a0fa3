"""Workers on a Ray cluster: the trajectory, the tables and the weights of one process, whoever dies."""

from __future__ import annotations

import os
import pickle
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command import SECONDS, events, own, same, soupkitchen, started, wait_for

import soupkitchen as api
from soupkitchen.errors import CheckpointError, ConfigError, MachineError
from soupkitchen.evaluation import EvaluationOptions, Runtime
from soupkitchen.executors import Executor, Ray
from soupkitchen.executors.ray import connect
from soupkitchen.search import Evolve, Greedy

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wish(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster of this machine; how a worker is to die is written to the file."""
    import ray

    wish = tmp_path_factory.mktemp("wish") / "how"
    # not by runtime_env, with which Ray starts no Python whose path has a space
    passed = {"PYTHONPATH": str(Path(__file__).parent), "DYING": str(wish), "DRIVER": str(os.getpid())}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in passed.items():
            environment.setenv(name, value)
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
        yield wish
        ray.shutdown()


def cooked(
    runs: Path, task: Any, folder: Path, executor: Executor | None, **more: Any
) -> tuple[pd.DataFrame, api.Result]:
    result = api.cook(
        f"{runs}/*",
        task,
        executor=executor,
        runtime=Runtime(batch_size=16, threads=1),
        evaluation=EvaluationOptions(cache=None),
        results_dir=folder,
        **more,
    )
    return result.trajectory.drop(columns=SECONDS), result


SEARCHES = {
    "greedy": (api.methods.ties, Greedy(passes=2), 2),
    "evolve": (api.methods.linear, Evolve(evaluations=18), 2),
}


@pytest.mark.parametrize("name", SEARCHES)
def test_workers_decide_as_one_process_does(name, wish, text_runs, texts, tmp_path):
    method, search, workers = SEARCHES[name]
    task = api.tasks.text_classification(str(texts))
    options = {"method": method(), "search": search, "base": str(text_runs / "d")}
    expected, one = cooked(text_runs, task, tmp_path / "one", None, name="x", **options)
    trajectory, several = cooked(text_runs, task, tmp_path / "ray", Ray(workers=workers), name="x", **options)
    pd.testing.assert_frame_equal(trajectory, expected)
    same(one.folder, several.folder)


@pytest.fixture(scope="module")
def function(texts: Path) -> Any:
    """A task whose scoring dies once, if that is wished for."""
    model = "AutoModelForSequenceClassification"
    return api.tasks.function(str(texts), function="dying.score", model=model, best=1)


@pytest.fixture(scope="module")
def undying(text_runs: Path, function: Any, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return cooked(text_runs, function, tmp_path_factory.mktemp("undying"), None, name="x")[0]


@pytest.mark.parametrize(("how", "workers"), [("killed", 2), ("out of memory", 1)])
def test_what_a_lost_worker_was_doing_is_done_again(
    how, workers, wish, text_runs, function, undying, tmp_path, caplog
):
    wish.write_text(how)
    trajectory, _ = cooked(text_runs, function, tmp_path, Ray(workers=workers), name="x")
    assert not wish.exists()
    assert "its worker was lost" in caplog.text
    pd.testing.assert_frame_equal(trajectory, undying)


def test_a_driver_that_is_killed_and_started_again_continues(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "name=x")
    soupkitchen(*words, "results_dir=one", cwd=tmp_path)
    words = (*words, "results_dir=ray", "executor=ray")
    driver = started(*words, cwd=tmp_path)
    wait_for(lambda: len(events(tmp_path / "ray" / "x")) >= 3, driver)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    assert not (tmp_path / "ray" / "x" / "leaderboard.csv").exists()
    soupkitchen(*words, "executor.workers=1", cwd=tmp_path)  # however many are left
    same(tmp_path / "one" / "x", tmp_path / "ray" / "x")


def test_a_worker_that_cannot_see_the_pool_says_so(wish, text_runs, texts, tmp_path, monkeypatch):
    monkeypatch.setattr("soupkitchen.experiment.experiment.Experiment.bench", _cannot_see)
    task = api.tasks.text_classification(str(texts))
    with pytest.raises(MachineError, match=r"worker on .* cannot begin: /pool/a is not there"):
        cooked(text_runs, task, tmp_path, Ray(workers=1))


def _cannot_see(self: Any) -> Any:
    raise CheckpointError("/pool/a is not there")


def test_a_cluster_without_room_is_refused(wish, text_runs, texts, tmp_path):
    task = api.tasks.text_classification(str(texts))
    with pytest.raises(ConfigError, match=r"workers=99 need 99 CPUs, and the cluster has 2"):
        cooked(text_runs, task, tmp_path, Ray(workers=99))


@pytest.mark.parametrize("options", [{"workers": 0}, {"gpus_per_worker": -1}, {"address": 3}])
def test_options_are_checked(options):
    with pytest.raises(ConfigError, match=f"executor.{next(iter(options))}"):
        Ray(**options)


def test_a_cluster_of_ones_own_needs_no_home(monkeypatch, tmp_path):
    tokens = []
    monkeypatch.setenv("RAY_AUTH_TOKEN", "tests")  # so that it is afterwards as it is now
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    monkeypatch.setattr("ray.init", lambda *_, **__: tokens.append(os.environ.get("RAY_AUTH_TOKEN")))
    for home in (tmp_path, tmp_path / "none"):
        monkeypatch.setenv("HOME", str(home))
        connect(None, "executor.address")
    assert tokens[0] is None
    assert len(tokens[1]) == 32


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"soupkitchen\[ray\]"):
        Ray()


def test_an_experiment_travels_with_open_files(text_runs):
    from soupkitchen.checkpoints import find_pool

    pool = find_pool(str(text_runs))
    before = dict(pool["a"].tensors())
    again = pickle.loads(pickle.dumps(pool))
    for name, tensor in again["a"].tensors():
        assert tensor.equal(before[name])
