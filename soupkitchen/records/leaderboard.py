"""`leaderboard.csv`: every model that the run scored, best first; a function of the journal's events."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from soupkitchen.records.tables import DIGITS, foreign, joined, read_csv
from soupkitchen.store.events import ENTRY, Entry

HELDOUT = "heldout_"
_FIELDS = [column.name for column in fields(Entry)]
_KINDS = ("soup", "single", "uniform", "partial", "listed")
"""In the order in which equals stand in the table."""


def leaderboard(events: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The table that the events of a finished run's journal make."""
    begin, *others = events
    entries = [
        Entry(**{name: event[name] for name in _FIELDS}) for event in others if event["event"] == ENTRY
    ]
    return ranking(entries, begin["metric"], 1 if begin["greater_is_better"] else -1)


def read_leaderboard(file: Path) -> pd.DataFrame:
    """The table of a finished run.

    Raises:
        ConfigError: if `file` is none that this package wrote, or was damaged since.
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
    """The column of a leaderboard that holds the held-out score."""
    return next(column for column in table.columns if column.startswith(HELDOUT))


def soups_score(table: pd.DataFrame) -> float:
    """The soup's score on held-out in a leaderboard, with the metric's own sign."""
    return float(table.loc[table["kind"] == "soup", heldout_column(table)].iloc[0])


def ranking(entries: Sequence[Entry], metric: str, sign: int) -> pd.DataFrame:
    """The table, best on held-out first; the soup first, then the single runs, among equals.

    Args:
        metric: the metric's name, for column names.
        sign: 1, or -1 for a loss, whose scores are shown with their own sign.
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
