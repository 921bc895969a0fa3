"""What a terminal shows of a run: the pool and what came of it, in plain lines where that is no terminal."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import signal
import threading
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from command import Fork, events, own, soupkitchen, wait_for
from rich.cells import cell_len
from rich.console import Console

from soupkitchen.console import console
from soupkitchen.records import Step
from soupkitchen.records.terminal import TALLEST, Display, Known, is_live, sparkline, window

COLOURS = re.compile(r"\x1b\[[\d;]*3[0-7][\d;]*m")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def on(width: int = 100, height: int = 30, **options: Any) -> Console:
    return Console(force_terminal=True, width=width, height=height, file=Terminal(), **options)


def shown(display: Display, where: Console | None = None) -> list[str]:
    """What is shown at present, line by line, with what the terminal obeys."""
    where = where or on(color_system=None)
    with where.capture() as capture:
        where.print(display)
    return capture.get().splitlines()


def told(journal: list[dict[str, Any]], examples: int = 1000, scoring: str = "") -> Display:
    """The display of a run whose journal says that much, and that is scoring something."""
    display = Display(examples)
    for event in journal:
        display.noted(event, anew=True)
    if scoring:
        display.scoring(scoring, scoring.partition(" ")[2].rpartition(" (")[0])(20, 80)
    return display


@pytest.fixture(scope="module")
def finished(text_runs: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run over `text_runs`; what it printed beside."""
    folder = tmp_path_factory.mktemp("work")
    result = soupkitchen(*own(text_runs, texts), "name=x", cwd=folder)
    (folder / "stderr").write_text(result.stderr)
    return folder / "results/x"


@pytest.fixture(scope="module")
def journal(finished: Path) -> list[dict[str, Any]]:
    return events(finished)


def at(journal: list[dict[str, Any]], stage: str, candidate: str) -> list[dict[str, Any]]:
    """The journal up to where a candidate is scored."""
    for number, event in enumerate(journal):
        if event.get("stage") == stage and event["candidate"] == candidate:
            return journal[: number - 1] if journal[number - 1]["event"] == "score" else journal[:number]
    raise AssertionError(candidate)


def row(lines: list[str], name: str) -> list[str]:
    (line,) = (line for line in lines if line.split()[:1] == [name])
    return line.split()


def pool_of(number: int, ranked: int, metric: str = "accuracy") -> list[dict[str, Any]]:
    """The journal of a run over many, of which some are ranked."""
    begin = {"event": "begin", "runs": {f"run-{n:02}": "" for n in range(number)}, "metric": metric}
    steps = [Step("rank", f"run-{n:02}", score=n / 100, examples_total=80) for n in range(ranked)]
    return [begin | {"greater_is_better": True}, *({"event": "step", **vars(step)} for step in steps)]


# What is known


def test_at_the_end_each_run_is_what_the_tables_say(finished, journal):
    known = Known()
    for event in journal:
        known.note(event)
    steps, table = (pd.read_csv(finished / f"{name}.csv") for name in ("trajectory", "leaderboard"))
    soup = table[table["kind"] == "soup"].iloc[0]
    assert set(known.soup) == {n for n in known.runs if known.state(n) == "kept"}
    assert ";".join(known.soup) == soup["ingredients"]
    assert known.best == pytest.approx(soup["heldout_accuracy"])
    assert {known.state(name) for name in known.runs} == {"kept", "discarded"}
    early = steps[steps["stopped_early"]]
    assert known.spared == (early["examples_total"] - early["examples_scored"]).sum() > 0
    merges = steps[(steps["stage"] == "merge") & steps["best_before"].notna()]
    assert known.course == pytest.approx([*merges["best_before"], soup["heldout_accuracy"]])
    singles = steps[steps["stage"] == "rank"].set_index("candidate")["score"]
    assert {name: one.score for name, one in known.runs.items()} == singles.to_dict()
    assert known.order == list(singles.sort_values(ascending=False, kind="stable").index)
    assert known.examples == steps.loc[~steps["cached"], "examples_scored"].sum()


def test_while_runs_are_ranked_the_next_one_and_the_best_so_far_are_shown(journal):
    lines = shown(told(at(journal, "rank", "c"), scoring="ranking c (3 of 5)"))
    assert lines[0].startswith("ranking c (3 of 5) ")
    assert lines[0].endswith(" 20/80")
    best = max(event["score"] for event in journal if event.get("what") in RANKED)
    assert lines[1].startswith(f"to beat: accuracy {best:.4f}")
    assert "soup" not in lines[1]
    assert row(lines, "a")[1] == row(lines, "b")[1] == "ranked"
    assert row(lines, "c") == ["c", "now"]
    assert row(lines, "d") == ["d", "next"]
    assert row(lines, "wild") == ["wild"]


RANKED = ("ranking a (1 of 5)", "ranking b (2 of 5)")


def test_while_runs_are_merged_what_came_of_each_is_shown(journal):
    wild = next(event for event in journal if event.get("stage") == "merge" and event["candidate"] == "wild")
    lines = shown(told(at(journal, "merge", "wild"), scoring="merging wild (4 of 4)"))
    assert f"to beat: accuracy {wild['best_before']:.4f} (soup of {wild['soup_size']})" in lines[1]
    assert row(lines, "wild")[:2] == ["wild", "now"]
    for event in journal:
        if event.get("decision") in ("keep", "discard") and event["candidate"] != "wild":
            state = "kept" if event["decision"] == "keep" else "discarded"
            name, said, _, *merged = row(lines, event["candidate"])
            assert (name, said) == (event["candidate"], state)
            if event["score"] is None:
                assert merged == ["≤", f"{event['score_at_most']:.4f}"]
            else:
                assert merged == [f"{event['score']:.4f}", f"{event['gain']:+.4f}"]
    after = shown(told(journal))
    assert f"≤ {wild['score_at_most']:.4f}" in next(line for line in after if line.startswith("wild"))
    assert "forward passes saved: " in after[0]


def test_a_continued_run_shows_what_happened_before(journal):
    half = at(journal, "merge", "a")
    anew, before = Display(1000), Display(1000)
    for event in half:
        anew.noted(event, anew=True)
        before.noted(event, anew=False)
    assert shown(anew) == shown(before)


def test_a_run_that_cannot_be_scored_is_an_error_and_one_that_is_replaced_is_out():
    steps = [
        Step("rank", "run-03", decision="error", reason="NaN"),
        Step("merge", "run-02", decision="start", score=0.02, ingredients=("run-02",)),
        Step("merge", "run-01", decision="keep", score=0.05, ingredients=("run-02", "run-01")),
        Step("merge", "run-00", decision="keep", score=0.06, ingredients=("run-01", "run-00")),
    ]
    known = Known()
    for event in (*pool_of(5, 3), *({"event": "step", **vars(step)} for step in steps)):
        known.note(event)
    states = {name: known.state(name) for name in known.runs}
    assert list(states.values()) == ["kept", "kept", "discarded", "error", ""]
    assert known.best == 0.06


def test_of_losses_the_least_is_to_be_beaten_and_comes_first():
    known = Known()
    first, *others = pool_of(3, 3, "perplexity")
    start = Step("merge", "run-00", decision="start", score=0.0, ingredients=("run-00",))
    for event in (first | {"greater_is_better": False}, *others):
        known.note(event)
    assert known.best == 0.0
    known.note({"event": "step", **vars(start)})
    assert known.order == ["run-00", "run-01", "run-02"]


# How it is shown


@pytest.mark.parametrize("width", [100, 40, 20])
@pytest.mark.parametrize("height", [30, 12, 6, 2])
def test_a_large_pool_is_shown_around_what_is_going_on_in_few_lines(width, height):
    display = told(pool_of(70, 40), scoring="ranking run-40 (41 of 70)")
    lines = shown(display, on(width, height, color_system=None))
    assert len(lines) <= min(TALLEST, height - 1)
    assert max(map(cell_len, lines)) <= width
    names = re.findall(r"^run-\d+", "\n".join(lines), re.MULTILINE)
    if height == 30:
        assert len(names) > 10
        assert names == sorted(names)
    if height > 6:
        assert {"run-39", "run-40", "run-41"} <= set(names)
        assert row(lines, "run-40")[1] == "now"
        assert lines[-1].startswith(f"and {70 - len(names)} more"[: width - 1])
    if (width, height) == (100, 30):
        counts = list(map(int, re.findall(r"(\d+) (?:ranked|to come)", lines[-1])))
        assert sum(counts) == 70 - len(names)


def test_long_and_wide_names_are_cut_and_everything_else_stays():
    names = {"runs/" + "long-" * 30: "", "走" * 60: "", "short": ""}
    begin = {"event": "begin", "runs": names, "metric": "accuracy", "greater_is_better": True}
    steps = [{"event": "step", **vars(Step("rank", name, score=0.5))} for name in names]
    lines = shown(told([begin, *steps]), on(40, color_system=None))
    assert max(map(cell_len, lines)) <= 40
    assert sum(line.endswith("0.5000") for line in lines) == 3 + (not lines[0].startswith("run "))
    assert sum("…" in line for line in lines) == 2


def test_control_characters_in_names_never_reach_the_terminal():
    bad = "a\x1b[2J\x07\r\nb\u202e[red]c"
    begin = {"event": "begin", "runs": {bad: ""}, "metric": f"m{bad}", "greater_is_better": True}
    step = {"event": "step", **vars(Step("rank", bad, score=0.5))}
    lines = shown(told([begin, step], scoring=f"ranking {bad} (1 of 1)"))
    text = "\n".join(lines)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)
    assert text.count(r"a\x1b[2J\x07\r\nb\u202e[red]c") == 3
    assert row(lines, r"a\x1b[2J\x07\r\nb\u202e[red]c")[1] == "now"


def test_no_color_means_no_colours(journal, monkeypatch):
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert COLOURS.search("\n".join(shown(told(journal), on())))
    monkeypatch.setenv("NO_COLOR", "1")
    assert is_live(on())
    assert not COLOURS.search("\n".join(shown(told(journal), on())))


def test_a_terminal_without_unicode_gets_plain_letters(journal):
    terminal = Terminal()
    terminal.encoding = "ascii"
    where = Console(force_terminal=True, width=100, height=30, file=terminal, color_system=None)
    text = "\n".join(shown(told(at(journal, "merge", "a"), scoring="merging a (3 of 4)"), where))
    assert text.isascii()
    assert "#" in text


def test_only_a_terminal_that_can_shows_what_changes(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    assert is_live(on())
    assert not is_live(Console(file=io.StringIO()))
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not is_live(Console(file=io.StringIO()))
    for name, value in {"RANK": "0", "MASTER_ADDR": "here", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert not is_live(on())
    monkeypatch.delenv("RANK")
    monkeypatch.setenv("TERM", "dumb")
    assert not is_live(on())
    assert console.stderr


def test_the_time_left_is_that_of_the_speed_that_was_measured():
    now = [100.0]
    display = Display(120, now=lambda: now[0])
    assert display.seconds_left is None
    advance = display.scoring("ranking a (1 of 2)")
    now[0] += 5  # merging
    assert display.seconds_left is None
    advance(40, 60)
    now[0] += 5
    assert display.seconds_left == pytest.approx(20)
    assert "at most 0:00:20 left" in shown(display)[1]
    display.noted({"event": "score", "parts": {"": [0.5, 40]}}, anew=True)
    display.scoring("ranking b (2 of 2)")(10, 60)
    assert display.seconds_left == pytest.approx(10)
    advance(60, 60)
    assert display.seconds_left is None


def test_examples_that_need_not_be_scored_are_left_out_of_the_time_left():
    display = Display(100)
    display.scoring("ranking a (1 of 2)")(16, 50)
    begin, *_ = pool_of(2, 0)
    display.noted(begin, anew=True)
    display.noted({"event": "score", "parts": {"": [0.5, 16]}}, anew=True)  # 34 are spared
    display.noted({"event": "score", "parts": {"": [0.5, 30]}, "cached": True}, anew=True)
    assert display._examples == 20


def test_small_things():
    assert sparkline([1, 2, 3], "_-#") == "_-#"
    assert sparkline([2, 2], "_-#") == "__"
    assert sparkline([float("nan"), 1, 2], "_-#") == " _#"
    assert sparkline([float("nan")], "_-#") == ""
    assert [list(window("abcdef", focus, 3)) for focus in (0, 3, 5)] == [
        list("abc"),
        list("cde"),
        list("def"),
    ]


# Whole runs


def test_in_a_pipe_there_are_the_lines_of_the_log_and_nothing_else(finished):
    said = (finished.parents[1] / "stderr").read_text()
    assert "to beat" not in said
    assert "\x1b" not in said
    assert len(re.findall("^rank ", said, re.MULTILINE)) == 5


AS_IF_STARTED_THERE = """
import sys
sys.stderr = open(2, "w", buffering=1, closefd=False)
from soupkitchen.__main__ import main
from soupkitchen.console import console
console.__init__(stderr=True, highlight=False)
main()
"""


class Screen:
    """A command whose stderr is a pseudo-terminal; its stdout is a file."""

    def __init__(self, *words: str, cwd: Path, **env: str) -> None:
        ours, self._theirs = pty.openpty()
        self.process = Fork(
            AS_IF_STARTED_THERE, *words, "runtime.threads=1", cwd=cwd, terminal=os.ttyname(self._theirs),
            env={"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", **env},
        )  # fmt: skip
        self._ours, self._read = ours, bytearray()
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()

    def _drain(self) -> None:
        while True:
            try:
                part = os.read(self._ours, 65536)
            except OSError:  # as Linux says that nobody writes any more
                return
            if not part:
                return
            self._read += part

    @property
    def text(self) -> str:
        return self._read.decode(errors="replace")

    def end(self) -> str:
        """What was printed to stdout, once the command has ended."""
        stdout = self.process.communicate(timeout=300)[0]
        os.close(self._theirs)
        self._reader.join(timeout=30)
        os.close(self._ours)
        return stdout


def leaves_a_cursor(text: str) -> bool:
    return text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l") >= 0


@pytest.mark.slow
def test_on_a_terminal_the_pool_is_shown_and_stdout_has_the_table_only(text_runs, texts, tmp_path):
    screen = Screen(*own(text_runs, texts), "runtime.batch_size=1", "name=x", cwd=tmp_path)
    stdout = screen.end()
    assert screen.process.returncode == 0, screen.text
    assert "Traceback" not in screen.text
    assert "to beat: accuracy" in screen.text
    assert "discarded" in screen.text
    assert leaves_a_cursor(screen.text)
    assert "\x1b" not in stdout
    assert "to beat" not in stdout
    assert stdout.splitlines()[-1] == "all runs     results/leaderboard.csv"
    assert pd.read_csv(tmp_path / "results/x/leaderboard.csv")["model"].tolist()[0] == "soup"


@pytest.mark.slow
def test_on_a_dumb_terminal_there_are_plain_lines(text_runs, texts, tmp_path):
    screen = Screen(*own(text_runs, texts), "pool.exclude=[c,d]", "name=x", cwd=tmp_path, TERM="dumb")
    screen.end()
    assert screen.process.returncode == 0, screen.text
    assert "\x1b" not in screen.text
    assert "to beat" not in screen.text
    assert len(re.findall("^rank ", screen.text, re.MULTILINE)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopping_leaves_the_terminal_as_it_was(text_runs, texts, tmp_path, number):
    words = ("search=exhaustive", "runtime.batch_size=1", "evaluation.early_stopping=false", "name=x")
    screen = Screen(*own(text_runs, texts)[:-1], *words, cwd=tmp_path)
    wait_for(lambda: len(events(tmp_path / "results/x")) > 4 and "to beat" in screen.text, screen.process)
    os.kill(screen.process.pid, number)
    stdout = screen.end()
    assert screen.process.returncode == 128 + number, screen.text
    assert "Traceback" not in screen.text
    assert "To continue:" in screen.text
    assert leaves_a_cursor(screen.text)
    assert stdout == ""
    assert json.loads((tmp_path / "results/x/journal.jsonl").read_text().splitlines()[0])["event"] == "begin"
