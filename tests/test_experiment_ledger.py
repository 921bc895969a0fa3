"""The journal is the source: the tables are functions of it, and one writer keeps it."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command import own, soupkitchen
from hypothesis import given
from hypothesis import strategies as st

from soupkitchen.errors import JournalError
from soupkitchen.experiment.ledger import Ledger
from soupkitchen.records import Entry, Step, leaderboard, read_csv, trajectory, write_csv
from soupkitchen.store import journal
from soupkitchen.store.journal import Journal, line_of
from soupkitchen.tables import main, make


def strict(text: str) -> Any:
    """As JSON's standard has it: no NaN."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture(scope="module", params=["linear", "grid", "uniform", "two tasks", "nan"])
def finished(
    request: pytest.FixtureRequest, text_runs: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Folders of finished runs."""
    folder = tmp_path_factory.mktemp("finished")
    words = {
        "linear": own(text_runs, texts),
        "grid": (*own(text_runs, texts), "method=task_arithmetic", f"pool.base={text_runs}/a",
                 "method.scale=[0.5,1]", "search.accept={significant: 0.4}"),
        "uniform": (*own(text_runs, texts), "search=uniform", "task.metric.name=cross_entropy"),
        "two tasks": (f"pool.path={text_runs}/*", "task=several", "evaluation.cache=null",
                      "+task@task.tasks.kind=text_classification", f"task.tasks.kind.data.path={texts}",
                      "+task@task.tasks.loss=text_classification", f"task.tasks.loss.data.path={texts}",
                      "task.tasks.loss.metric.name=cross_entropy"),
        "nan": (*own(text_runs, texts), "task.metric.name=cross_entropy", "method=task_arithmetic",
                f"pool.base={text_runs}/a", "method.scale=1e38"),
    }[request.param]  # fmt: skip
    soupkitchen(*words, "name=x", cwd=folder)
    return folder / "results" / "x"


def test_the_tables_of_a_run_are_made_of_its_journal_alone(finished, tmp_path):
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(finished / "journal.jsonl", bare)
    made = make(bare)
    assert [file.name for file in made] == ["trajectory.csv", "leaderboard.csv"]
    for file in made:
        assert file.read_bytes() == (finished / file.name).read_bytes()


def test_every_line_of_a_journal_is_json(finished):
    events = [strict(line) for line in (finished / "journal.jsonl").read_text().splitlines()]
    kinds = [event["event"] for event in events]
    assert kinds[0] == "begin"
    assert kinds[-1] == "finish"
    assert kinds.count("saved") == 1
    assert kinds.count("step") == len(read_csv(finished / "trajectory.csv"))
    assert kinds.count("entry") == len(read_csv(finished / "leaderboard.csv"))


def test_a_journal_that_is_cut_anywhere_makes_the_rows_that_it_knows(finished, tmp_path):
    lines = (finished / "journal.jsonl").read_text().splitlines(keepends=True)
    whole = read_csv(finished / "trajectory.csv")
    rows = 0
    for number, line in enumerate(lines, start=1):
        (tmp_path / "journal.jsonl").write_text("".join(lines[:number]) + '{"event": "to')
        rows += strict(line)["event"] == "step"
        table = trajectory(journal.read(tmp_path / "journal.jsonl"))
        assert len(table) == rows
        assert table["candidate"].tolist() == whole["candidate"].tolist()[:rows]


def test_the_command_makes_tables_again_and_says_why_it_cannot(finished, tmp_path, capsys):
    shutil.copytree(finished, tmp_path / "x")
    before = (tmp_path / "x" / "leaderboard.csv").read_bytes()
    (tmp_path / "x" / "leaderboard.csv").write_text("rank\nedited\n")
    (tmp_path / "x" / "trajectory.csv").unlink()
    main([str(tmp_path / "x")])
    assert (tmp_path / "x" / "leaderboard.csv").read_bytes() == before
    assert capsys.readouterr().out.splitlines() == [
        str(tmp_path / "x" / name) for name in ("trajectory.csv", "leaderboard.csv")
    ]
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "journal.jsonl is not there" in capsys.readouterr().err


def test_a_journal_of_another_version_is_refused_in_plain_words(tmp_path):
    file = tmp_path / "journal.jsonl"
    file.write_bytes(line_of({"event": "begin", "format": 1}) + b'{"event": "score", "score": NaN}\n')
    with pytest.raises(
        JournalError, match=r"another version of soupkitchen.*or start anew with overwrite=true"
    ):
        Journal(file)


def test_a_step_that_does_not_come_again_is_refused(tmp_path):
    told: dict[str, Any] = {"metric": "accuracy", "greater_is_better": True, "columns": []}
    first = Ledger(tmp_path)
    first.begin({}, {"runs": {"a": "1"}}, **told)
    first.step(Step("merge", "b", decision="keep"))
    for step in (Step("merge", "b", decision="discard"), Step("merge", "c", decision="keep")):
        again = Ledger(tmp_path)
        again.begin({}, {"runs": {"a": "1"}}, **told)
        with pytest.raises(JournalError, match="does not fit this run"):
            again.step(step)
    with pytest.raises(JournalError, match=r"changed since this run began: runs a, runs b\."):
        Ledger(tmp_path).begin({}, {"runs": {"a": "2", "b": "1"}}, **told)


scores = st.floats(width=32)


@pytest.mark.slow
@given(st.lists(st.tuples(scores, st.none() | scores, st.none() | st.integers(0, 9)), max_size=5))
def test_numbers_of_all_kinds_come_back_from_a_journal(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("numbers")
    ledger = Ledger(folder)
    ledger.begin({}, {}, metric="m", greater_is_better=True, columns=["t"])
    for score, gain, fixed in rows:
        ledger.step(Step("rank", "NaN", score=score, gain=gain, fixed=fixed, tasks={"t": score}))
        ledger.entry(Entry("NaN", "single", ("NaN",), score, gain, (score, score), {"t": score}))
    text = (folder / "journal.jsonl").read_text()
    for line in text.splitlines():
        strict(line)
    events = journal.read(folder / "journal.jsonl")
    for event, (score, gain, fixed) in zip([e for e in events if e["event"] == "step"], rows, strict=True):
        assert event["candidate"] == "NaN"
        assert event["fixed"] == fixed
        for told, expected in ((event["score"], score), (event["gain"], gain), (event["tasks"]["t"], score)):
            assert told == expected or (math.isnan(told) and math.isnan(expected))
    pd.testing.assert_frame_equal(trajectory(events), trajectory(ledger.events))
    write_csv(folder / "again.csv", trajectory(events))  # rows are appended as they come
    assert (folder / "trajectory.csv").read_bytes() == (folder / "again.csv").read_bytes()
    pd.testing.assert_frame_equal(leaderboard(events), leaderboard(ledger.events))


def test_a_trajectory_that_is_taken_away_comes_back_whole(tmp_path):
    ledger = Ledger(tmp_path)
    ledger.begin({}, {}, metric="m", greater_is_better=True, columns=[])
    ledger.step(Step("rank", "a"))
    (tmp_path / "trajectory.csv").unlink()
    for name in ("b", "c"):
        ledger.step(Step("rank", name))
    table = read_csv(tmp_path / "trajectory.csv")
    assert list(zip(table["step"], table["candidate"], strict=True)) == [(0, "a"), (1, "b"), (2, "c")]


class Seen:
    """Notes what it is told of."""

    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []

    def noted(self, event: journal.Event, anew: bool) -> None:
        self.told.append((event.get("candidate", event["event"]), anew))


def test_an_observer_is_told_of_what_was_there_and_of_what_is_new(tmp_path):
    told: dict[str, Any] = {"metric": "accuracy", "greater_is_better": True, "columns": []}
    first, second = Seen(), Seen()
    ledger = Ledger(tmp_path, [first])
    ledger.begin({}, {"runs": {"a": "1"}}, **told)
    ledger.step(Step("rank", "a"))
    ledger = Ledger(tmp_path, [second])
    ledger.begin({}, {"runs": {"a": "1"}}, **told)
    ledger.step(Step("rank", "a"))
    ledger.step(Step("rank", "b"))
    assert first.told == [("begin", True), ("a", True)]
    assert second.told == [("begin", False), ("a", False), ("b", True)]
