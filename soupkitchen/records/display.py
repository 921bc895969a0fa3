"""What a person sees of a run: on a terminal the pool and what comes of it, and at the end the leaderboard.

The pool goes to stderr, and is left out where that is no terminal; the leaderboard goes to stdout.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any

import pandas as pd
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table

from soupkitchen.console import Screen, console, printable
from soupkitchen.records import separated
from soupkitchen.records.live import View
from soupkitchen.records.progress import Known
from soupkitchen.store import launch


class Display:
    """What is going on, on a terminal; it observes the run's ledger. Use as a context manager."""

    def __init__(self, examples: int, on: Console | None = None) -> None:
        """`examples` is how many are expected to be scored, at most; `on` is where to show it."""
        self._examples, self._console = examples, on or console
        self._known = Known()
        self._what, self._done, self._total = "", 0, 0
        self._speed = Speed()
        self._lock = RLock()
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if not is_live(self._console):
            return self
        self._live = Live(
            console=self._console,
            get_renderable=self.view,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=sys.stdout.isatty(),  # into a file goes what is printed, and nothing to stderr
        )
        self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def scoring(self, what: str, run: str = "") -> Callable[[int, int], None]:
        """Announces what is scored next, and its run; the callback takes examples done and in all."""
        with self._lock:
            self._known.scoring(run)
            self._what, self._done, self._total = what, 0, 0
            self._speed.begin()

        def advance(done: int, total: int) -> None:
            with self._lock:
                self._speed.add(done - self._done)
                self._done, self._total = done, total

        return advance

    def noted(self, event: Mapping[str, Any], anew: bool) -> None:
        """Takes in an event of the journal, as an observer of the ledger."""
        with self._lock:
            self._known.note(event)
            if event["event"] in ("score", "error"):
                self._examples -= max(self._total, sum(n for _, n in (event.get("parts") or {}).values()))
                self._what, self._done, self._total = "", 0, 0

    def view(self) -> View:
        """What is shown at present."""
        with self._lock:
            seconds = self._speed.seconds(self._examples - self._done)
            return View(deepcopy(self._known), self._what, self._done, self._total, seconds)


class Speed:
    """How long examples take, whatever is done beside: merging, reading, deciding."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._begun: float | None = None
        self._examples = 0

    def begin(self) -> None:
        """Something is about to be scored."""
        self._begun = self._now() if self._begun is None else self._begun

    def add(self, examples: int) -> None:
        """So many more were."""
        self._examples += max(examples, 0)

    def seconds(self, examples: int) -> float | None:
        """How long so many more would take; None where that is not known yet, or none are left."""
        if self._begun is None or not self._examples or examples <= 0:
            return None
        return (self._now() - self._begun) / self._examples * examples


def is_live(on: Console) -> bool:
    """Whether what a console shows may change: it is a terminal that can, or a notebook, and ours alone."""
    if launch.size() > 1 or on.is_dumb_terminal:
        return False
    if on.is_terminal and on.file.isatty():  # rich takes a pipe for a terminal where FORCE_COLOR says so
        return True
    return bool(on.is_jupyter and find_spec("ipywidgets") is not None)


def print_leaderboard(table: pd.DataFrame) -> None:
    """Prints a leaderboard to stdout, without its long column of ingredients."""
    shown = table.drop(columns="ingredients")
    shown.insert(3, "of", [len(separated(cell)) for cell in table["ingredients"]])
    print_table(shown)


def print_table(shown: pd.DataFrame) -> None:
    """Prints a table to stdout; rows of kind "soup" stand out."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for column in shown.columns:
        numeric = pd.api.types.is_numeric_dtype(shown[column])
        grid.add_column(
            escape(printable(str(column))), justify="right" if numeric else "left", overflow="fold"
        )
    out = Screen(highlight=False)
    if not out.is_terminal:
        out = Screen(highlight=False, width=250)
    for row in shown.itertuples(index=False):
        style = "bold" if getattr(row, "kind", None) == "soup" else None
        grid.add_row(*(escape(_cell(value, out)) for value in row), style=style)
    out.print(grid)


def print_files(files: dict[str, Path]) -> None:
    """Prints where things are, one a line, to stdout."""
    for what, file in files.items():
        print(f"{what:<12} {printable(str(file))}")


def _cell(value: object, out: Console) -> str:
    if value is None or value != value:
        return "–" if out.encoding.startswith("utf") else "-"
    return f"{value:.4f}" if isinstance(value, float) else printable(str(value))
