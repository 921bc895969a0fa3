"""Nothing lost: runs that are killed, interrupted, started twice, or run out of disk."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from command import (
    SECONDS,
    as_script,
    events,
    forked,
    own,
    same,
    soupkitchen,
    started,
    wait_for,
    with_full_disk,
)
from safetensors.torch import load_file, save_file

from soupkitchen.errors import ConfigError
from soupkitchen.options import files
from soupkitchen.search import Greedy, Uniform


@pytest.mark.slow
def test_runs_killed_at_random_end_as_if_left_alone(text_runs, texts, tmp_path):
    script = files.folder("scripts") / "kill_runs.py"
    words = [f"pool.path={text_runs}/*", f"pool.base={text_runs}/a", "task=text_classification"]
    result = forked(as_script(script), "--kills", "12", *words, f"task.data.path={texts}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert re.match(r"12 kills in \d+ runs \(linear, ties, evolve\): each ended as if", result.stdout)


@pytest.fixture(scope="module")
def alone(text_runs: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing happened to."""
    folder = tmp_path_factory.mktemp("alone")
    soupkitchen(*own(text_runs, texts), "name=x", cwd=folder)
    return folder / "results" / "x"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_soon_and_the_same_command_continues(
    number, code, alone, text_runs, texts, tmp_path
):
    words = (*own(text_runs, texts), "name=x")
    folder = tmp_path / "results" / "x"
    process = started(*words, cwd=tmp_path)
    wait_for(lambda: len(events(folder)) >= 5, process)
    process.send_signal(number)
    sent = time.monotonic()
    _, said = process.communicate(timeout=60)
    assert time.monotonic() - sent < 5  # a second or two, on a busy machine
    assert process.returncode == code
    assert "Traceback" not in said
    assert "To continue:\npython -m soupkitchen 'pool.path=" in said
    before = events(folder)
    assert not (folder / "leaderboard.csv").exists()
    assert len(pd.read_csv(folder / "trajectory.csv")) >= 1
    result = soupkitchen(*words, cwd=tmp_path)
    assert f"continuing: {len(before)} events are in" in result.stderr
    assert events(folder)[: len(before)] == before
    scored = [(event["key"], event["split"]) for event in events(folder) if event["event"] == "score"]
    assert len(scored) == len(set(scored))  # nothing was scored twice
    same(folder, alone)


@pytest.mark.parametrize("size", [3000, 5000])
def test_a_disk_that_fills_up_loses_nothing(size, alone, text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "name=x")

    result = with_full_disk(*words, size=size, cwd=tmp_path)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert re.search(r"error: .*(cannot|could not) be written", result.stderr)
    assert not (tmp_path / "results/x/soup").exists()
    soupkitchen(*words, cwd=tmp_path)
    same(tmp_path / "results" / "x", alone)


# What changed while the run lay still


@pytest.fixture
def interrupted(copy_runs: Callable[..., Path], texts: Path, tmp_path: Path) -> tuple[str, ...]:
    """The words of a run in `tmp_path` whose journal ends in the middle."""
    runs = copy_runs("a", "b", "c", "d")
    shutil.copytree(texts, tmp_path / "texts")
    words = (*own(runs, tmp_path / "texts"), "name=x")
    soupkitchen(*words, cwd=tmp_path)
    folder = tmp_path / "results" / "x"
    journal = folder / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(lines[:6]) + lines[6][:30])  # two runs and half a third; the last line is torn
    (folder / "leaderboard.csv").unlink()
    shutil.rmtree(folder / "soup")
    return words


def test_a_changed_run_is_named(interrupted, tmp_path):
    file = tmp_path / "runs" / "c" / "model.safetensors"
    tensors = load_file(file)
    tensors["classifier.bias"] += 1
    save_file(tensors, file, {"format": "pt"})
    shutil.rmtree(tmp_path / "runs" / "d")
    error = soupkitchen(*interrupted, cwd=tmp_path, fails=True).stderr
    assert "changed since this run began: runs c, runs d." in error
    soupkitchen(*interrupted, "overwrite=true", cwd=tmp_path)
    (aside,) = (tmp_path / "results" / "x").glob("before-*")
    assert {file.name for file in aside.iterdir()} >= {"config.yaml", "journal.jsonl", "trajectory.csv"}


def test_changed_data_is_named(interrupted, tmp_path):
    frame = pd.read_csv(tmp_path / "texts" / "validation.csv")
    frame[1:].to_csv(tmp_path / "texts" / "validation.csv", index=False)
    error = soupkitchen(*interrupted, cwd=tmp_path, fails=True).stderr
    assert "changed since this run began: data heldout." in error


def test_other_options_are_refused_with_the_difference(interrupted, tmp_path):
    error = soupkitchen(*interrupted, "search.accept=not_worse", cwd=tmp_path, fails=True).stderr
    assert "search.accept: better before, not_worse now" in error
    soupkitchen(*interrupted, "runtime.batch_size=5", cwd=tmp_path)  # how it runs may change


def test_damaged_evaluations_are_made_again(interrupted, tmp_path):
    folder = tmp_path / "results" / "x"
    for file in (folder / "evaluations").iterdir():
        file.write_bytes(file.read_bytes()[:-3])
    before = pd.read_csv(folder / "trajectory.csv").drop(columns=SECONDS)
    assert "is damaged" in soupkitchen(*interrupted, cwd=tmp_path).stderr
    after = pd.read_csv(folder / "trajectory.csv").drop(columns=SECONDS)
    pd.testing.assert_frame_equal(after, before)


def test_the_trajectory_never_shrinks_while_a_run_is_continued(interrupted, tmp_path):
    file = tmp_path / "results" / "x" / "trajectory.csv"
    rows = pd.read_csv(file)
    rows[:1].to_csv(file, index=False)  # one less than the journal knows of
    process = started(*interrupted, cwd=tmp_path)
    least = 1
    while process.poll() is None:
        now = len(pd.read_csv(file))
        assert now >= least
        least = now
    assert "continuing" in process.communicate()[1]
    assert process.returncode == 0
    assert least == len(rows)


def test_a_sweep_goes_on_where_it_was_killed(text_runs, texts, tmp_path):
    words = ("-m", *own(text_runs, texts), "method=linear,slerp", "pool.exclude=[c,d,wild]")
    process = started(*words, cwd=tmp_path)

    def folder(method: str) -> Path | None:
        return next((f for f in tmp_path.glob("results/[!.]*") if f"-{method}-" in f.name), None)

    wait_for(lambda: bool((second := folder("slerp")) and len(events(second)) >= 2), process)
    process.kill()
    process.communicate()
    first, second = folder("linear"), folder("slerp")
    assert first
    assert second
    done = (first / "trajectory.csv").stat().st_mtime_ns
    begun = events(second)
    soupkitchen(*words, cwd=tmp_path)
    assert (first / "trajectory.csv").stat().st_mtime_ns == done
    assert events(second)[: len(begun)] == begun
    table = pd.read_csv(tmp_path / "results" / "leaderboard.csv")
    assert len(table) == 2


# One at a time


def test_of_four_processes_in_one_folder_one_works_and_the_others_say_who(alone, text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "name=x")
    processes = [started(*words, cwd=tmp_path) for _ in range(4)]
    said = [process.communicate(timeout=300)[1] for process in processes]
    codes = sorted(process.returncode for process in processes)
    assert codes[0] == 0
    assert set(codes) <= {0, 1}  # one that came late finds a finished run and reports it
    for process, error in zip(processes, said, strict=True):
        if process.returncode:
            assert re.search(r"results/x is in use by process \d+ on \S+, since \d{4}-", error)
            assert "Traceback" not in error
    assert sum(event["event"] == "begin" for event in events(tmp_path / "results" / "x")) == 1
    same(tmp_path / "results" / "x", alone)


REFUSING = """
import errno, fcntl, os
def refuse(*arguments):
    raise OSError(errno.{0}, os.strerror(errno.{0}))
fcntl.flock = os.fsync = refuse
"""


def test_where_locks_and_syncs_are_refused_a_run_is_the_same_and_says_so(alone, text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "name=x")
    error = soupkitchen(*words, cwd=tmp_path, before=REFUSING.format("ENOLCK")).stderr
    assert f"{tmp_path / 'results'}: its file system refuses locks; " in error
    same(tmp_path / "results" / "x", alone)
    assert not list((tmp_path / "results").glob(".*"))


# Candidates that cannot be scored


def failing(name: str) -> str:
    """Code that makes every reading of the run of that name fail."""
    return (
        "import soupkitchen.soup.reader as h\n"
        "tensors = h.TensorReader.tensors\n"
        "def fail(self, run):\n"
        f"    if run.name == {name!r}: raise RuntimeError('its tensors are odd')\n"
        "    return tensors(self, run)\n"
        "h.TensorReader.tensors = fail"
    )


def test_a_run_that_cannot_be_scored_is_an_error_in_the_table_and_not_the_end(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "name=x")
    soupkitchen(*words, cwd=tmp_path, before=failing("c"))
    trajectory = pd.read_csv(tmp_path / "results/x/trajectory.csv")
    (error,) = trajectory[trajectory["decision"] == "error"].to_dict("records")
    assert (error["stage"], error["candidate"]) == ("rank", "c")
    assert "RuntimeError: its tensors are odd" in error["reason"]
    table = pd.read_csv(tmp_path / "results/x/leaderboard.csv")
    assert "c" not in table["model"].tolist()
    soupkitchen(*own(text_runs, texts), "name=y", "pool.exclude=[c]", cwd=tmp_path)
    expected = pd.read_csv(tmp_path / "results/y/leaderboard.csv")
    pd.testing.assert_frame_equal(table, expected)


def test_search_on_error_stop_ends_the_run_there_and_it_can_go_on(alone, text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "name=x")
    stop = "search.on_error=stop"
    error = soupkitchen(*words, stop, cwd=tmp_path, before=failing("c"), fails=True).stderr
    assert "RuntimeError: its tensors are odd" in error
    assert not any(event["event"] == "error" for event in events(tmp_path / "results" / "x"))
    soupkitchen(*words, stop, cwd=tmp_path)  # it can be scored now
    same(tmp_path / "results" / "x", alone)
    for search in (Greedy, Uniform):
        with pytest.raises(ConfigError, match="choose skip or stop"):
            search(on_error="ask")


def test_a_run_that_scores_nan_is_an_error_in_the_table_last_and_never_kept(copy_runs, texts, tmp_path):
    runs = copy_runs("a", "b", "c")
    weights = load_file(runs / "a" / "model.safetensors")
    huge = {name: tensor * 0 + 1e38 for name, tensor in weights.items()}
    save_file(huge, runs / "a" / "model.safetensors", {"format": "pt"})
    (runs / "b").rename(runs / "soup")  # which is a name like any other
    words = (*own(runs, texts), "task.metric.name=cross_entropy")
    soupkitchen(*words, "name=x", cwd=tmp_path)
    table = pd.read_csv(tmp_path / "results/x/leaderboard.csv")
    assert table[table["model"] == "a"]["heldout_cross_entropy"].isna().all()
    assert table["kind"].value_counts().to_dict() == {"single": 3, "uniform": 2, "soup": 1}
    assert "a" not in table[table["kind"] == "soup"]["ingredients"].iloc[0].split(";")
    trajectory = pd.read_csv(tmp_path / "results/x/trajectory.csv")
    errors = trajectory[trajectory["decision"] == "error"]
    assert errors["stage"].tolist() == ["rank", "merge"]
    assert set(errors["candidate"]) == {"a"}
    assert set(errors["reason"]) == {"its score is NaN"}
    result = soupkitchen(*words, "name=y", "search.on_error=stop", cwd=tmp_path, fails=True)
    assert "a scores NaN on the held-out set" in result.stderr


def test_evaluations_that_do_not_fit_on_the_disk_are_no_errors_of_the_runs(text_runs, texts, tmp_path):
    data = tmp_path / "texts"
    data.mkdir()
    frame = pd.read_csv(texts / "validation.csv")
    pd.concat([frame] * 12).to_csv(data / "validation.csv", index=False)
    time.sleep(2.1)  # so that the file is known by its state: what is younger is known by its content
    words = (*own(text_runs, data), "task.data.test=null", "pool.exclude=[c,d,wild]")
    soupkitchen(*words, "name=y", cwd=tmp_path)  # `datasets` now has its own copy
    words = (*words, "name=x")

    result = with_full_disk(*words, size=6500, cwd=tmp_path)
    assert result.returncode == 1
    assert "make room, and the same command continues" in result.stderr
    assert not any(event["event"] == "error" for event in events(tmp_path / "results" / "x"))
    soupkitchen(*words, cwd=tmp_path)
    assert "error" not in pd.read_csv(tmp_path / "results/x/trajectory.csv")["decision"].tolist()


def test_the_cache_and_the_journal_know_the_models_configuration(copy_runs, texts, tmp_path):
    runs = copy_runs("a", "b")
    words = (*own(runs, texts), "task.metric.name=cross_entropy", f"evaluation.cache={tmp_path / 'cache'}")
    soupkitchen(*words, "name=before", cwd=tmp_path)
    for run in runs.iterdir():
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    soupkitchen(*words, "name=after", cwd=tmp_path)
    before, after = (pd.read_csv(tmp_path / f"results/{n}/trajectory.csv") for n in ("before", "after"))
    assert not after.query("stage == 'rank'")["cached"].any()
    assert (before["score"][:2] != after["score"][:2]).all()


def test_what_a_kill_left_of_a_report_or_a_card_is_cleared_away(alone, text_runs, texts, tmp_path):
    folder = tmp_path / "results" / "x"
    shutil.copytree(alone, folder)
    (folder / "leaderboard.csv").unlink()  # as killed amid what comes last
    for name in ("report.html", "map.json", "recipe.yaml", "trajectory.png", "soup/README.md"):
        path = folder / name
        path.with_name(f".{path.name}.a1b2c3d4").write_text("half")
    soupkitchen(*own(text_runs, texts), "name=x", cwd=tmp_path)
    assert not [path for path in folder.rglob(".*") if path.name.endswith("a1b2c3d4")]
    same(folder, alone)


def test_a_disk_that_is_full_leaves_nothing_half_written(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "search=uniform", "name=x")
    model = (text_runs / "a" / "model.safetensors").stat().st_size

    result = with_full_disk(*words, size=model - 1, cwd=tmp_path)  # the journal is smaller
    assert result.returncode == 1
    assert "error: the soup could not be written to" in result.stderr
    assert "Traceback" not in result.stderr
    left = {file.name for file in (tmp_path / "results" / "x").iterdir()}
    assert left == {"config.yaml", "evaluations", "journal.jsonl", "soupkitchen.log", "trajectory.csv"}
    soupkitchen(*words, cwd=tmp_path)  # and with room it goes on
    assert (tmp_path / "results/x/soup/model.safetensors").exists()


# Faults of the machine, and of candidates


def test_a_failing_disk_ends_the_run_and_is_no_fault_of_a_run(alone, text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "name=x")
    code = (
        "import soupkitchen.soup.reader as h\n"
        "tensors = h.TensorReader.tensors\n"
        "def fail(self, run):\n"
        "    if run.name == 'c': raise OSError(5, 'Input/output error')\n"
        "    return tensors(self, run)\n"
        "h.TensorReader.tensors = fail"
    )
    result = soupkitchen(*words, cwd=tmp_path, before=code, fails=True)
    assert "ranking c (3 of 5): [Errno 5] Input/output error" in result.stderr
    assert "the same command continues" in result.stderr
    assert '"event": "error"' not in (tmp_path / "results/x/journal.jsonl").read_text()
    soupkitchen(*words, cwd=tmp_path)
    same(tmp_path / "results" / "x", alone)
