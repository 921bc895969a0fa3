"""Each second of a run counts for one part of its work."""

from __future__ import annotations

import contextlib
import threading

import pandas as pd
import pytest
from command import own, soupkitchen

from soupkitchen.process import PARTS, Stopwatch


class Clock:
    """Tells the time that it is given."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def stopwatch(clock: Clock) -> Stopwatch:
    return Stopwatch(clock)


def test_a_second_counts_for_the_innermost_part(clock, stopwatch):
    clock.now = 5
    with stopwatch.part("forward"):  # whatever happens while it starts is starting
        clock.now = 7
    stopwatch.started()
    clock.now = 8
    with stopwatch.part("merging"):
        clock.now = 10
        with stopwatch.part("reading"):
            clock.now = 14
        with contextlib.suppress(KeyError), stopwatch.part("forward"):
            clock.now = 15
            raise KeyError
        clock.now = 15.5
    clock.now = 18
    told = {"starting": 7, "merging": 2.5, "reading": 4, "forward": 1, "bookkeeping": 3.5}
    assert stopwatch.spent() == {part: told.get(part, 0.0) for part in PARTS}


def test_it_begins_once_and_then_anew_for_each_run(clock, stopwatch):
    clock.now = 100  # somebody thinks about what to run
    stopwatch.begin()
    clock.now = 102
    with stopwatch.run(), stopwatch.run():  # the command begins, then its run
        clock.now = 103
        stopwatch.started()
        stopwatch.read = 10
        assert stopwatch.spent()["starting"] == 3
    clock.now = 110
    with contextlib.suppress(KeyError), stopwatch.run():  # another, which fails before it starts
        clock.now = 115
        raise KeyError
    with stopwatch.run():
        clock.now = 116
        assert (stopwatch.spent()["starting"], stopwatch.spent()["bookkeeping"], stopwatch.read) == (1, 0, 0)


def test_other_threads_count_for_nothing(clock, stopwatch):
    stopwatch.started()

    def work() -> None:
        with stopwatch.part("reading"):
            clock.now += 5

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert stopwatch.spent()["reading"] == 0
    assert stopwatch.spent()["bookkeeping"] == 5


def test_devices_are_waited_for_only_where_somebody_looks(clock, stopwatch):
    def settle() -> None:
        clock.now += 1

    stopwatch.started()
    stopwatch.settle = settle
    with stopwatch.part("forward"):
        pass
    assert stopwatch.spent()["forward"] == 0
    stopwatch.looks = True
    with stopwatch.part("forward"):
        pass
    assert stopwatch.spent()["forward"] == 1


def test_a_run_tells_where_its_time_went(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "name=x")
    said = soupkitchen(*words, "runtime.profile=true", cwd=tmp_path).stderr
    assert "of weights read" in said
    table = pd.read_csv(tmp_path / "results" / "x" / "profile.csv").set_index("part")
    assert list(table.index) == list(PARTS)
    assert table["share"].sum() == pytest.approx(1, abs=1e-3)
    assert (table["seconds"] > 0).all()
    files = [*text_runs.glob("*/*.safetensors")]
    assert table.loc["reading", "bytes"] > 2 * sum(file.stat().st_size for file in files)  # digests, ranking
    soupkitchen(*words, cwd=tmp_path)  # the same run: finished
    soupkitchen(*words, "overwrite=true", cwd=tmp_path)
    assert not (tmp_path / "results" / "x" / "profile.csv").exists()
