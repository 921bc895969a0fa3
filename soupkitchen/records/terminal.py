"""Shows a run to a person: on a terminal the pool and its outcomes, and at the end the leaderboard.

The pool goes to stderr, if that is a terminal; the leaderboard goes to stdout. The progress that is shown is
a function of the journal's events so far.
"""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, Literal

import pandas as pd
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from soupkitchen import process
from soupkitchen.console import Screen, console, printable
from soupkitchen.records.tables import has_value, separated
from soupkitchen.store.journal import STEP

State = Literal["", "ranked", "next", "now", "kept", "discarded", "error"]
TALLEST = 20
"""The most lines of the display, which shows the runs around the current one."""
_LEAST = 3
_STYLES: dict[State, str] = {
    "kept": "green", "discarded": "dim", "error": "red", "now": "bold", "next": "cyan",
}  # fmt: skip
_ORDER: tuple[State, ...] = ("kept", "discarded", "error", "ranked", "")
_BOUNDS = {(True, True): "≤ ", (True, False): "<= ", (False, True): "≥ ", (False, False): ">= "}
"""The sign of a bound, by whether higher is better and whether the terminal has Unicode."""


@dataclass
class OfRun:
    """The outcome of one run of the pool; scores have the metric's sign, a higher `gain` is better.

    Attributes:
        state: empty if not final.
        score: its own score, or a bound.
        merged: its candidate's score, or a bound.
        at_most: `merged` is a bound.
    """

    state: State = ""
    score: float | None = None
    merged: float | None = None
    at_most: bool = False
    gain: float | None = None


@dataclass
class Known:
    """The progress by the events so far.

    Attributes:
        soup: names of the soup's runs.
        best: the score to beat: the soup's, or else the best run's.
        course: the soup's score after each decision.
        examples: the number scored or cached.
        spared: the number not scored because scoring stopped early.
        now: the pool's run being scored.
        merging: ranking is over.
    """

    metric: str = "score"
    greater_is_better: bool = True
    runs: dict[str, OfRun] = field(default_factory=dict)
    soup: tuple[str, ...] = ()
    best: float | None = None
    course: list[float] = field(default_factory=list)
    examples: int = 0
    spared: int = 0
    now: str | None = None
    merging: bool = False

    def note(self, event: Mapping[str, Any]) -> None:
        kind = event["event"]
        if kind == "begin":
            self.metric, self.greater_is_better = event["metric"], event["greater_is_better"]
            self.runs = {name: OfRun() for name in event["runs"]}
        elif kind == "score":
            self.examples += sum(size for _, size in (event.get("parts") or {}).values())
        elif kind == STEP:
            self.now = None
            if event["stopped_early"] and not event["cached"]:
                self.spared += event["examples_total"] - event["examples_scored"]
            if event["stage"] == "rank":
                self._ranked(event)
            elif event["stage"] == "merge":
                self._merged(event)

    def scoring(self, run: str) -> None:
        self.now = run if run in self.runs else None

    def state(self, name: str) -> State:
        state = self.runs[name].state
        if name == self.now:
            return "now"
        return "next" if state in ("", "ranked") and name == self.next else state

    @property
    def order(self) -> list[str]:
        """The pool in the search's order: pool order until ranked, then best first."""
        if not self.merging:
            return list(self.runs)
        sign = -1.0 if self.greater_is_better else 1.0

        def place(name: str) -> tuple[bool, float]:
            score = self.runs[name].score
            return (True, 0.0) if score is None or score != score else (False, sign * score)

        return sorted(self.runs, key=place)

    @property
    def next(self) -> str | None:
        waiting = "ranked" if self.merging else ""
        return next((n for n in self.order if self.runs[n].state == waiting and n != self.now), None)

    def _ranked(self, event: Mapping[str, Any]) -> None:
        run = self.runs.setdefault(event["candidate"], OfRun())
        if event["decision"] == "error":
            run.state = "error"
            return
        run.state = "ranked"
        if (score := _score(event)) is None:
            return
        run.score = score
        better = self.best is None or (score > self.best) == self.greater_is_better
        if better and event["score_at_most"] is None:
            self.best = score

    def _merged(self, event: Mapping[str, Any]) -> None:
        self.merging = True
        name, decision, score = event["candidate"], event["decision"], _score(event)
        run = self.runs.get(name, OfRun())  # of several at once, one that is not shown
        if decision == "error":
            run.state = "error"
            return
        if decision != "start":
            run.merged, run.gain = score, event["gain"]
            run.at_most = event["score_at_most"] is not None
        if decision in ("start", "keep"):
            before, self.soup = self.soup, tuple(event["ingredients"])
            self.best = self.best if score is None else score
            for other in {*before, *self.soup} & self.runs.keys():
                self.runs[other].state = "kept" if other in self.soup else "discarded"
        elif name not in self.soup:
            run.state = "discarded"
        if self.best is not None:
            self.course.append(self.best)


def _score(event: Mapping[str, Any]) -> float | None:
    names = ("score", "score_on_part", "score_at_most")
    return next((event[name] for name in names if event.get(name) is not None), None)


_WIDTH_STATE, _WIDTH_ALONE, _WIDTH_MERGED = 13, 24, 48
_BARS, _PLAIN_BARS = "▁▂▃▄▅▆▇█", "_.-=*#"


class Display:
    """The live view of a run, an observer of its ledger and a context manager.

    Args:
        examples: the most examples to be scored.
        on: the console.
        now: the clock, in seconds.
    """

    def __init__(
        self, examples: int, on: Console | None = None, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._examples, self._console, self._now = examples, on or console, now
        self._known = Known()
        self._what, self._done, self._total = "", 0, 0
        self._begun: float | None = None
        self._scored = 0
        self._lock = RLock()
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if is_live(self._console):
            self._live = Live(
                self,
                console=self._console,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=sys.stdout.isatty(),  # what is printed to a file does not go to stderr
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def scoring(self, what: str, run: str = "") -> Callable[[int, int], None]:
        """Announces the next request; the callback takes the examples done and their total."""
        with self._lock:
            self._known.scoring(run)
            self._what, self._done, self._total = what, 0, 0
            self._begun = self._now() if self._begun is None else self._begun

        def advance(done: int, total: int) -> None:
            with self._lock:
                self._scored += max(done - self._done, 0)
                self._done, self._total = done, total

        return advance

    def noted(self, event: Mapping[str, Any], anew: bool) -> None:
        with self._lock:
            self._known.note(event)
            if event["event"] in ("score", "error"):
                self._examples -= max(self._total, sum(n for _, n in (event.get("parts") or {}).values()))
                self._what, self._done, self._total = "", 0, 0

    @property
    def seconds_left(self) -> float | None:
        """The most seconds that are left, with merging; None if unknown or done."""
        left = self._examples - self._done
        if self._begun is None or not self._scored or left <= 0:
            return None
        return (self._now() - self._begun) / self._scored * left

    def __rich_console__(self, on: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:  # a list, so that nothing changes while it is shown
            parts = list(self._shown(options.max_width, on.height, on.encoding.startswith("utf")))
        yield from parts

    def _shown(self, width: int, height: int, fancy: bool) -> Sequence[RenderableType]:
        height = min(TALLEST, height - 1)
        lines = [*self._doing(width, fancy), *_filled(self._facts(fancy), width)]
        return [
            *(_line(text) for text in lines[: max(height, 1)]),
            *self._pool(height - len(lines), width, fancy),
        ]

    def _doing(self, width: int, fancy: bool) -> list[str]:
        if not self._what:
            return []
        counted = f" {self._done}/{self._total}" if self._total else ""
        room = min(24, width - len(counted) - 20)
        if room < 8 or not self._total:
            return [_cut(printable(self._what), width - len(counted), fancy) + counted]
        full = round(room * min(1.0, self._done / self._total))
        bar = ("━" if fancy else "#") * full + ("─" if fancy else "-") * (room - full)
        return [f"{_cut(printable(self._what), width - room - len(counted) - 1, fancy)} {bar}{counted}"]

    def _facts(self, fancy: bool) -> list[str]:
        known, facts = self._known, []
        if known.best is not None:
            size = f" (soup of {len(known.soup)})" if known.soup else ""
            facts.append(f"to beat: {printable(known.metric)} {known.best:.4f}{size}")
        if len(known.course) > 1:
            facts.append(sparkline(known.course[-24:], _BARS if fancy else _PLAIN_BARS))
        if known.spared:
            facts.append(f"forward passes saved: {known.spared} of {known.examples + known.spared}")
        if (seconds := self.seconds_left) is not None:
            facts.append(f"at most {timedelta(seconds=round(seconds))} left")
        return facts

    def _pool(self, room: int, width: int, fancy: bool) -> list[RenderableType]:
        known, order = self._known, self._known.order
        states = {name: known.state(name) for name in order}
        if not order or room < _LEAST + 1:
            return []
        shown = order if len(order) < room else window(order, _focus(order, states), room - 2)
        merged = width >= _WIDTH_MERGED + 12 and any(run.merged is not None for run in known.runs.values())
        alone = width >= _WIDTH_ALONE + 10
        others = _WIDTH_MERGED if merged else _WIDTH_ALONE if alone else _WIDTH_STATE
        grid = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        grid.add_column("run", no_wrap=True)
        grid.add_column("", no_wrap=True, min_width=9)
        for title in ("alone",) * alone + ("merged", "gain") * merged:
            grid.add_column(title, no_wrap=True, justify="right", min_width=6)
        for name in shown:
            run = known.runs[name]
            bound = _BOUNDS[known.greater_is_better, fancy] if run.at_most else ""
            cells = [_cut(printable(name), width - others, fancy), states[name]]
            cells += [_number(run.score)] * alone
            cells += [f"{bound}{_number(run.merged)}", _number(run.gain, "+.4f")] * merged
            grid.add_row(*map(Text, cells), style=_STYLES.get(states[name]))
        if len(shown) == len(order):
            return [grid]
        rest = Counter(states[name] for name in set(order).difference(shown))
        counts = ", ".join(f"{rest[state]} {state or 'to come'}" for state in _ORDER if rest[state])
        return [grid, _line(_cut(f"and {rest.total()} more: {counts}", width, fancy))]


def is_live(on: Console) -> bool:
    """Tells whether the console is a capable terminal or a notebook, of one process."""
    if process.world_size() > 1 or on.is_dumb_terminal:
        return False
    if on.is_terminal and on.file.isatty():  # rich takes a pipe for a terminal where FORCE_COLOR says so
        return True
    return bool(on.is_jupyter and find_spec("ipywidgets") is not None)


def window(order: Sequence[str], focus: int, size: int) -> Sequence[str]:
    size = max(size, 1)
    first = max(0, min(focus - size // 2, len(order) - size))
    return order[first : first + size]


def sparkline(values: Sequence[float], bars: str) -> str:
    numbers = [value for value in values if value == value and abs(value) != float("inf")]
    if not numbers:
        return ""
    low, span = min(numbers), max(numbers) - min(numbers)
    return "".join(
        bars[round((value - low) / span * (len(bars) - 1)) if span else 0] if value in numbers else " "
        for value in values
    )


def print_leaderboard(table: pd.DataFrame) -> None:
    shown = table.drop(columns="ingredients")
    shown.insert(3, "of", [len(separated(cell)) for cell in table["ingredients"]])
    print_table(shown)


def print_table(shown: pd.DataFrame) -> None:
    """Prints a table to stdout; rows of kind "soup" stand out."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in shown.columns:
        justify: Any = "right" if pd.api.types.is_numeric_dtype(shown[column]) else "left"
        grid.add_column(escape(printable(str(column))), justify=justify, overflow="fold")
    out = Screen(highlight=False)
    if not out.is_terminal:
        out = Screen(highlight=False, width=250)
    for row in shown.itertuples(index=False):
        style = "bold" if getattr(row, "kind", None) == "soup" else None
        grid.add_row(*(escape(_cell(value, out)) for value in row), style=style)
    out.print(grid)


def print_files(files: Mapping[str, Path]) -> None:
    for what, file in files.items():
        print(f"{what:<12} {printable(str(file))}")


def _focus(order: Sequence[str], states: Mapping[str, State]) -> int:
    for state in ("now", "next"):
        for place, name in enumerate(order):
            if states[name] == state:
                return place
    return max((place for place, name in enumerate(order) if states[name]), default=0)


def _filled(facts: Sequence[str], width: int) -> list[str]:
    lines: list[str] = []
    for fact in facts:
        if lines and cell_len(lines[-1]) + 2 + cell_len(fact) <= width:
            lines[-1] += f"  {fact}"
        else:
            lines.append(fact)
    return lines


def _line(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="crop")


def _cut(text: str, width: int, fancy: bool) -> str:
    width = max(width, 2)
    return text if cell_len(text) <= width else set_cell_size(text, width - 1) + ("…" if fancy else "~")


def _number(value: float | None, form: str = ".4f") -> str:
    return "" if value is None or value != value else f"{value:{form}}"


def _cell(value: object, out: Console) -> str:
    if not has_value(value):
        return "–" if out.encoding.startswith("utf") else "-"
    return f"{value:.4f}" if isinstance(value, float) else printable(str(value))
