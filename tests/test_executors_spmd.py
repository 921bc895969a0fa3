"""Several processes of one launch: the trajectory, the tables and the weights of one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from command import events, same, soupkitchen, started, started_anew, wait_for

LIMIT = 240
"""Seconds, after which every process says where it stands."""

Words = list[str]


@pytest.fixture
def words(text_runs: Path, texts: Path) -> Words:
    return [
        f"pool.path={text_runs}/*",
        "task=text_classification",
        f"task.data.path={texts}",
        "runtime.batch_size=8",
        "evaluation.cache=null",
    ]


def launched(number: int, words: Words, folder: Path) -> subprocess.Popen:
    by = ["-m", "torch.distributed.run", "--nproc_per_node", str(number), "--rdzv_backend", "c10d"]
    by += ["--rdzv_endpoint", "localhost:0", "-m", "soupkitchen"]
    return started_anew(*words, cwd=folder, by=by, env={"OMP_NUM_THREADS": "1", "PYTHONFAULTHANDLER": "1"})


def unlaunched(number: int, words: Words, folder: Path) -> tuple[int, str, str]:
    """The same without the launcher, in half the time: forks that are told what it tells its processes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        told = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free.getsockname()[1])}
    told |= {"WORLD_SIZE": str(number), "LOCAL_WORLD_SIZE": str(number)}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(number)]
    processes = [started(*words, cwd=folder, env={**told, **rank}) for rank in ranks]
    said = [process.communicate(timeout=LIMIT) for process in processes]
    out, err = ("".join(texts) for texts in zip(*said, strict=True))
    return max(abs(process.poll() or 0) for process in processes), out, err


def ended(process: subprocess.Popen) -> tuple[int, str, str]:
    """Its exit status, and what it said. A launch that hangs is a failure that says who stood where."""
    try:
        said = process.communicate(timeout=LIMIT)
    except subprocess.TimeoutExpired:
        for child in psutil.Process(process.pid).children(recursive=True):
            child.send_signal(signal.SIGABRT)
        time.sleep(2)
        os.killpg(process.pid, signal.SIGKILL)
        pytest.fail(f"the launch hung:\n{process.communicate()[1]}")
    return process.returncode, *said


@pytest.mark.parametrize(
    ("number", "more", "by_torchrun"),
    [
        (2, ["method=ties", "pool.base={base}"], False),
        (3, ["task.metric.name=f1_macro"], False),  # no mean: every example is scored
        (2, ["task.metric.name=cross_entropy", "search.ranking={{confidence: 0.9}}"], False),
        (2, ["evaluation.early_stopping=false", "search=uniform"], True),
    ],
    ids=["ties", "macro_f1", "in parts", "in full"],
)
def test_decisions_tables_and_weights_are_those_of_one_process(
    number, more, by_torchrun, words, text_runs, tmp_path
):
    words = [*words, *(word.format(base=text_runs / "d") for word in more), "name=x"]
    soupkitchen(*words, "results_dir=one", cwd=tmp_path)

    theirs = [*words, "results_dir=several"]
    if by_torchrun:
        status, out, err = ended(launched(number, theirs, tmp_path))
    else:
        status, out, err = unlaunched(number, theirs, tmp_path)
    assert status == 0, err
    same(tmp_path / "one" / "x", tmp_path / "several" / "x")
    assert out.count("several/x/leaderboard.csv") == 1  # one process speaks
    assert err.count("saved ") == 1
    status, told, err = unlaunched(number, theirs, tmp_path)
    assert (status, told) == (0, out), err  # finished: reported, and not repeated


def workers_of(launcher: subprocess.Popen) -> list[psutil.Process]:
    processes = psutil.Process(launcher.pid).children()
    return sorted(processes, key=lambda one: int(one.environ()["RANK"]))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_killed_ends_all_and_the_same_command_continues(rank, words, tmp_path):
    words = [*words, "name=x"]
    soupkitchen(*words, "results_dir=one", cwd=tmp_path)
    launcher = launched(2, [*words, "results_dir=several"], tmp_path)
    wait_for(lambda: len(events(tmp_path / "several" / "x")) >= 4, launcher)
    workers = workers_of(launcher)
    workers[rank].kill()
    at = time.monotonic()
    _, alive = psutil.wait_procs(workers, timeout=60)
    assert not alive
    assert time.monotonic() - at < 30
    status, _, err = ended(launcher)
    assert status != 0
    if rank:
        assert "the same command continues" in err or "To continue" in err
    status, _, err = unlaunched(2, [*words, "results_dir=several"], tmp_path)
    assert status == 0, err
    same(tmp_path / "one" / "x", tmp_path / "several" / "x")


def test_what_is_wrong_is_said_once(words, tmp_path):
    status, _, err = ended(launched(2, [*words, "task.metric=bleu"], tmp_path))
    assert status != 0
    assert err.count("error: ") == 1
    assert not (tmp_path / "results").exists()


def test_a_launcher_that_started_one_process_instead_of_several_is_named(words, tmp_path):
    command = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "-m", "soupkitchen"]
    told = subprocess.run(
        [sys.executable, *command, *words], cwd=tmp_path, capture_output=True, text=True, timeout=LIMIT
    )
    assert told.returncode != 0
    assert "torchrun --nproc_per_node" in told.stderr
    assert (
        "executor=spmd is for several"
        in soupkitchen(*words, "executor=spmd", cwd=tmp_path, fails=True).stderr
    )
