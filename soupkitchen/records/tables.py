"""A run's tables, functions of its journal's events, and CSV files whose text stays text.

`trajectory.csv` has a row a step; `leaderboard.csv` has every model that the run scored, best first. Runs and
data need not be there any more.

Names come from strangers. A cell of text that a spreadsheet would take for a formula gets an apostrophe
before it, as spreadsheets themselves write such text; `read_csv` takes it away again. Names such as ``NA``
stay text: with pandas, read text columns with ``keep_default_na=False``.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from soupkitchen.errors import ConfigError
from soupkitchen.store import journal
from soupkitchen.store.files import own, read_bytes, write_text
from soupkitchen.store.folder import (
    JOURNAL,
    LEADERBOARD,
    TRAJECTORY,
)
from soupkitchen.store.journal import ENTRY, STEP, Entry, Step

Row = TypeVar("Row", Step, Entry)

INGREDIENT_SEPARATOR = ";"
DIGITS = 10
"""Decimals of differences, so that 0.0425 is not shown as 0.04250000000000009."""

TEXT_COLUMNS = frozenset(
    "run task data metric method search model kind ingredients coefficients stage candidate variant "
    "decision split rule reason architecture dtype base guess stopped_by".split()
)
"""Columns of text, even if it looks like numbers."""

_MOST_COLUMNS = 10_000
_FORMULA = re.compile("'*[=+\\-@\t\r＝＋－＠]")
_LINE_END = "\r\0\n"
"""Makes the writer quote cells with any of these characters."""
COLUMNS = ("step", *(column.name for column in fields(Step) if column.name not in ("tasks", "choice")))
HELDOUT = "heldout_"
_KINDS = ("soup", "single", "uniform", "partial", "listed")
"""The order of equals in the table."""


def write_csv(file: Path, table: pd.DataFrame) -> None:
    write_text(file, _csv(table))


def append_csv(file: Path, table: pd.DataFrame) -> None:
    with file.open("a", encoding="utf-8", errors="backslashreplace", newline="") as handle:
        handle.write(_csv(table, header=False))


def _csv(table: pd.DataFrame, header: bool = True) -> str:
    text = table.rename(columns=lambda column: _guarded(str(column)))
    for column, cells in text.items():
        if any(_guarded(cell) is not cell for cell in cells):
            text[column] = cells.map(_guarded)
    written = text.to_csv(index=False, header=header, lineterminator=_LINE_END)
    return written.replace(_LINE_END, "\n")


def read_csv(file: Path, needed: Collection[str] = ()) -> pd.DataFrame:
    """Reads a table of `write_csv`.

    Raises:
        ConfigError: if the file cannot be read, is no such table, or lacks a column that is `needed`.
    """
    try:
        lines = io.StringIO(read_bytes(own(file)).decode(), newline="")
        header, *rows = list(csv.reader(lines, strict=True)) or [[]]
    except (csv.Error, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as a table ({error})") from error
    if any(len(row) != len(header) for row in rows) or len(set(header)) < len(header):
        raise ConfigError(f"{file} cannot be read as a table: rows of other lengths, or a column twice")
    if lacking := [column for column in needed if column not in header]:
        raise foreign(file, f"it has no {', '.join(lacking[:3])}")
    if len(header) > _MOST_COLUMNS:
        raise ConfigError(f"{file} has {len(header)} columns, and no table of ours that many")
    table = pd.DataFrame(rows, columns=[_unguarded(column) for column in header], dtype=object)
    for column in table.columns:
        if column in TEXT_COLUMNS:
            table[column] = table[column].map(_unguarded)
        else:
            try:
                table[column] = pd.to_numeric(table[column].where(table[column] != "", None))
            except (ValueError, OverflowError):
                table[column] = table[column].map(_unguarded)
    return table


def foreign(file: Path, why: str) -> ConfigError:
    return ConfigError(
        f"{file} is somebody else's table, or was damaged: {why}. python -m soupkitchen.tables {file.parent} "
        "makes it again"
    )


def joined(ingredients: tuple[str, ...]) -> str:
    """Names of ingredients in one cell; a backslash escapes a separator in a name."""
    return INGREDIENT_SEPARATOR.join(re.sub(r"([\\;])", r"\\\1", name) for name in ingredients)


def separated(cell: str) -> tuple[str, ...]:
    names = re.findall(r"(?:[^\\;]|\\.)+", cell, re.DOTALL)
    return tuple(re.sub(r"\\(.)", r"\1", name, flags=re.DOTALL) for name in names)


def has_value(value: Any) -> bool:
    return value is not None and value is not pd.NA and value == value


def short(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def _guarded(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _unguarded(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def trajectory(events: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    events = list(events)
    return table_of(_rows(events, STEP, Step), tasks_of(events))


def _rows(events: Iterable[Mapping[str, Any]], which: str, kind: type[Row]) -> list[Row]:
    """The events called `which`, as rows."""
    names = [column.name for column in fields(kind)]
    return [kind(**{name: event[name] for name in names}) for event in events if event["event"] == which]


def tasks_of(events: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    return tuple(events[0].get("columns", ())) if events else ()


def table_of(steps: Sequence[Step], tasks: Sequence[str] = (), first: int = 0) -> pd.DataFrame:
    """The table of some steps; `first` is the number of the first one."""
    rows = [
        {
            "step": number,
            **vars(step),
            "ingredients": joined(step.ingredients),
            "coefficients": _coefficients(step.coefficients),
            **{gain: _rounded(getattr(step, gain)) for gain in ("gain", "gain_low", "gain_high")},
            **{f"score_{task}": step.tasks.get(task) for task in tasks},
            "merge_seconds": round(step.merge_seconds, 3),
            "eval_seconds": round(step.eval_seconds, 3),
        }
        for number, step in enumerate(steps, first)
    ]
    columns = [*COLUMNS, *(f"score_{task}" for task in tasks)]
    table = pd.DataFrame(rows, columns=columns)
    for column in ("soup_size", "fixed", "broken"):  # one by one: twice as fast as the whole table
        table[column] = table[column].astype("Int64")
    return table


def _coefficients(coefficients: Sequence[float | Sequence[float]]) -> str:
    """In one cell: ``0.5;1`` or, by part of the depth, ``0.5/0.4;1/0.9``; empty if all are 1."""
    parts = [[weight] if isinstance(weight, (int, float)) else weight for weight in coefficients]
    if all(number == 1 for numbers in parts for number in numbers):
        return ""
    return INGREDIENT_SEPARATOR.join("/".join(f"{number:g}" for number in numbers) for numbers in parts)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def leaderboard(events: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    begin, *others = events
    entries = _rows(others, ENTRY, Entry)
    return ranking(entries, begin["metric"], 1 if begin["greater_is_better"] else -1)


def read_leaderboard(file: Path) -> pd.DataFrame:
    """Reads the table of a finished run.

    Raises:
        ConfigError: if `file` was not written by soupkitchen, or is damaged.
    """
    table = read_csv(file, ("rank", "model", "kind", "ingredients", "delta_vs_best_single"))
    scores = [column for column in table.columns if column.startswith(HELDOUT)]
    numbers = [table[column] for column in ("rank", "delta_vs_best_single", *scores)]
    if not scores or not all(map(pd.api.types.is_numeric_dtype, numbers)):
        raise foreign(file, f"its {HELDOUT}… are no numbers")
    if not (table["kind"] == "soup").any():
        raise foreign(file, "it has no soup")
    return table


def heldout_column(table: pd.DataFrame) -> str:
    return next(column for column in table.columns if column.startswith(HELDOUT))


def soups_score(table: pd.DataFrame) -> float:
    """The soup's held-out score, with the metric's own sign."""
    return float(table.loc[table["kind"] == "soup", heldout_column(table)].iloc[0])


def ranking(entries: Sequence[Entry], metric: str, sign: int) -> pd.DataFrame:
    """The table, best on held-out first; among equals the soup, then single runs, come first.

    Args:
        metric: the metric's name, for column names.
        sign: -1 for a loss, whose scores are shown with their own sign, else 1.
    """
    singles = [entry.score for entry in entries if entry.kind == "single" and not math.isnan(entry.score)]
    best_single = max(singles, default=math.nan)

    def place(entry: Entry) -> tuple[float, int]:
        return math.inf if math.isnan(entry.score) else -entry.score, _KINDS.index(entry.kind)

    rows = []
    for rank, entry in enumerate(sorted(entries, key=place), start=1):
        low, high = sorted(sign * bound for bound in entry.interval) if entry.interval else (None, None)
        rows.append(
            {
                "rank": rank,
                "model": entry.model,
                "kind": entry.kind,
                "ingredients": joined(entry.ingredients),
                f"heldout_{metric}": sign * entry.score,
                f"test_{metric}": None if entry.test_score is None else sign * entry.test_score,
                "ci_low": low,
                "ci_high": high,
                "delta_vs_best_single": round(entry.score - best_single, DIGITS),
                **{f"heldout_{task}": score for task, score in entry.tasks.items()},
                **{f"test_{task}": score for task, score in entry.test_tasks.items()},
            }
        )
    return pd.DataFrame(rows)


def write_tables(folder: Path) -> list[Path]:
    """Writes the trajectory of the run in `folder` and, if it is finished, the leaderboard.

    Raises:
        JournalError: if the journal is missing or damaged.
    """
    events = journal.read(folder / JOURNAL)
    tables = {TRAJECTORY: trajectory(events)}
    if events and events[-1]["event"] == "finish":
        tables[LEADERBOARD] = leaderboard(events)
    for name, table in tables.items():
        write_csv(folder / name, table)
    return [folder / name for name in tables]
