"""Sweeps by Hydra's launchers: jobs side by side, jobs that are killed, and one table of them all."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import psutil
from command import own

LIMIT = 300


def started(words: list[str], folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "soupkitchen", "-m", *words, "runtime.threads=1"]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_jobs_side_by_side_make_one_table(text_runs: Path, texts: Path, tmp_path: Path) -> None:
    words = [*own(text_runs, texts), f"pool.base={text_runs / 'd'}", "hydra/launcher=joblib"]
    words += ["method=linear,slerp,ties", "search.accept=better,not_worse", "hydra.launcher.n_jobs=6"]
    sweep = started(words, tmp_path)
    _, err = sweep.communicate(timeout=LIMIT)
    assert sweep.returncode == 0, err
    table = pd.read_csv(tmp_path / "results" / "leaderboard.csv")
    assert table.groupby("method").size().to_dict() == {"linear": 2, "slerp": 2, "ties": 2}
    for run in table["run"]:
        assert (tmp_path / "results" / run / "soup" / "model.safetensors").is_file()


def test_a_killed_job_of_a_queue_goes_on_when_it_is_queued_again(
    text_runs: Path, texts: Path, tmp_path: Path
) -> None:
    words = [*own(text_runs, texts), "hydra/launcher=submitit_local", "method=linear,slerp"]
    sweep = started(words, tmp_path)
    results = tmp_path / "results"
    deadline = time.monotonic() + LIMIT
    while True:  # until the first job is amid its work
        journals = [
            file for file in results.glob("*slerp*/journal.jsonl") if file.read_text().count("\n") > 3
        ]
        if journals:
            break
        assert time.monotonic() < deadline
        assert sweep.poll() is None, sweep.communicate()[1]
        time.sleep(0.01)
    jobs = [p for p in psutil.Process(sweep.pid).children(recursive=True) if "submitit" in str(p.cmdline())]
    holder = (results / f".{journals[0].parent.name}.holder").read_text()
    killed = [job for job in jobs if f'"process": {job.pid},' in holder]
    assert killed
    killed[0].kill()
    _, err = sweep.communicate(timeout=LIMIT)
    assert sweep.returncode != 0
    done = journals[0].read_text().splitlines()
    again = started(words, tmp_path)
    _, err = again.communicate(timeout=LIMIT)
    assert again.returncode == 0, err
    table = pd.read_csv(results / "leaderboard.csv")
    assert sorted(table["method"]) == ["linear", "slerp"]
    assert journals[0].read_text().splitlines()[: len(done)] == done  # nothing was done twice
