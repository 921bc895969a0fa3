"""Sweeps by Hydra's launchers: jobs side by side, jobs that are killed, and one table of them all."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pandas as pd
import psutil
from command import events, own, soupkitchen, started, wait_for

LIMIT = 300


def test_jobs_side_by_side_make_one_table(text_runs, texts, tmp_path):
    words = [*own(text_runs, texts), f"pool.base={text_runs / 'd'}", "hydra/launcher=joblib"]
    words += ["method=linear,ties", "search.accept=better,not_worse", "hydra.launcher.n_jobs=2"]
    sweep = started("-m", *words, cwd=tmp_path)
    _, err = sweep.communicate(timeout=LIMIT)
    assert sweep.returncode == 0, err
    table = pd.read_csv(tmp_path / "results" / "leaderboard.csv")
    assert table.groupby("method").size().to_dict() == {"linear": 2, "ties": 2}
    for run in table["run"]:
        assert (tmp_path / "results" / run / "soup" / "model.safetensors").is_file()


def test_jobs_on_ray_make_one_table_and_one_that_loses_its_worker_goes_on(text_runs, texts, tmp_path):
    words = [*own(text_runs, texts), f"pool.base={text_runs / 'd'}", "hydra/launcher=ray"]
    sweep = started("-m", *words, "method=linear,ties", "hydra.launcher.cpus_per_job=0.5", cwd=tmp_path)
    results = tmp_path / "results"

    def amid() -> list[Path]:
        return [folder for folder in results.glob("*ties*") if len(events(folder)) > 3]

    wait_for(lambda: bool(amid()), sweep)
    (folder,) = amid()
    os.kill(json.loads((results / f".{folder.name}.holder").read_text())["process"], signal.SIGKILL)
    done = events(folder)
    _, err = sweep.communicate(timeout=LIMIT)
    assert sweep.returncode == 0, err
    table = pd.read_csv(results / "leaderboard.csv")
    assert sorted(table["method"]) == ["linear", "ties"]
    assert events(folder)[: len(done)] == done  # nothing was done twice


def test_a_cluster_that_is_not_there_is_named(text_runs, texts, tmp_path):
    words = [*own(text_runs, texts), "hydra/launcher=ray", "hydra.launcher.address=nowhere:6379"]
    told = soupkitchen("-m", *words, "method=linear,slerp", cwd=tmp_path, fails=True)
    assert "hydra.launcher.address=nowhere:6379 cannot be reached" in told.stderr
    told = soupkitchen("-m", *words, "hydra.launcher.cpus_per_job=0", cwd=tmp_path, fails=True)
    assert "hydra.launcher.cpus_per_job=0 should be a number above 0" in told.stderr


AT_ONCE = "from submitit.core.core import Job; Job._results_timeout_s = 1"
"""It has 15 seconds for a result to appear of a job that has ended, as on slow file systems."""


def test_a_killed_job_of_a_queue_goes_on_when_it_is_queued_again(text_runs, texts, tmp_path):
    words = [*own(text_runs, texts), "hydra/launcher=submitit_local"]
    sweep = started("-m", *words, "method=slerp", cwd=tmp_path, before=AT_ONCE)
    results = tmp_path / "results"

    def amid() -> list[Path]:
        return [folder for folder in results.glob("*slerp*") if len(events(folder)) > 3]

    wait_for(lambda: bool(amid()), sweep)
    (folder,) = amid()
    job = json.loads((results / f".{folder.name}.holder").read_text())["process"]
    assert job in {process.pid for process in psutil.Process(sweep.pid).children(recursive=True)}
    os.kill(job, signal.SIGKILL)
    _, err = sweep.communicate(timeout=LIMIT)
    assert sweep.returncode != 0
    done = events(folder)
    again = started("-m", *words, "method=linear,slerp", cwd=tmp_path)
    _, err = again.communicate(timeout=LIMIT)
    assert again.returncode == 0, err
    table = pd.read_csv(results / "leaderboard.csv")
    assert sorted(table["method"]) == ["linear", "slerp"]
    assert events(folder)[: len(done)] == done  # nothing was done twice
