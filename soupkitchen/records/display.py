"""What a person sees of a run: on a terminal a progress bar, and at the end the leaderboard.

Progress goes to stderr, and is left out where that is no terminal; the
leaderboard goes to stdout.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from soupkitchen.console import console, printable
from soupkitchen.records import separated


class Display:
    """A progress bar over all the examples of a run. Use as a context manager."""

    def __init__(self, examples: int) -> None:
        """`examples` is how many are expected to be scored, at most."""
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("examples"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=examples)
        self._before = 0

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def scoring(self, what: str) -> Callable[[int, int], None]:
        """Announces what is scored next; the callback takes examples done and in all."""
        before = self._before
        self._progress.update(self._task, description=escape(printable(what)))

        def advance(done: int, total: int) -> None:
            self._before = before + done
            self._progress.update(self._task, completed=self._before)

        return advance


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
    out = Console(highlight=False)
    if not out.is_terminal:
        out = Console(highlight=False, width=250)
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
