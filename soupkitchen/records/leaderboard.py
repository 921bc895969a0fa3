"""`leaderboard.csv`: every model that the run scored, best first; a function of the journal's events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from soupkitchen.records.tables import DIGITS, foreign, joined, read_csv

ENTRY = "entry"
"""The events that are rows."""
HELDOUT = "heldout_"


@dataclass(frozen=True)
class Entry:
    """One model. `score`, `test_score` and the interval are higher better; tables turn them back.

    Attributes:
        kind: "single", "uniform", "soup"; "partial" for a run whose score is of a part of the held-out data,
            or "listed" for one whose score is not ours.
        interval: 95 % bootstrap interval of the held-out score.
        tasks, test_tasks: with several tasks, the score of each, with its metric's own sign.
    """

    model: str
    kind: str
    ingredients: tuple[str, ...]
    score: float
    test_score: float | None = None
    interval: tuple[float, float] | None = None
    tasks: Mapping[str, float] = field(default_factory=dict)
    test_tasks: Mapping[str, float] = field(default_factory=dict)


def leaderboard(events: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The table that the events of a finished run's journal make."""
    begin, *others = events
    entries = [_entry(event) for event in others if event["event"] == ENTRY]
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


def soups_score(table: pd.DataFrame) -> float:
    """The soup's score on held-out in a leaderboard, with the metric's own sign."""
    column = next(column for column in table.columns if column.startswith(HELDOUT))
    return float(table.loc[table["kind"] == "soup", column].iloc[0])


def _entry(event: Mapping[str, Any]) -> Entry:
    told = {name: event[name] for name in Entry.__dataclass_fields__}
    interval = told["interval"] and tuple(told["interval"])
    return Entry(**{**told, "ingredients": tuple(told["ingredients"]), "interval": interval})


def ranking(entries: Sequence[Entry], metric: str, sign: int) -> pd.DataFrame:
    """The table, best on held-out first; the soup first, then the single runs, among equals.

    Args:
        metric: the metric's name, for column names.
        sign: 1, or -1 for a loss, whose scores are shown with their own sign.
    """
    best_single = max(
        (entry.score for entry in entries if entry.kind == "single" and entry.score == entry.score),
        default=float("nan"),
    )
    kinds = ("soup", "single", "uniform", "partial", "listed")
    worst = float("-inf")
    ordered = sorted(
        entries,
        key=lambda e: (-(e.score if e.score == e.score else worst), kinds.index(e.kind)),
    )
    rows = []
    for place, entry in enumerate(ordered, start=1):
        bounds = sorted(sign * bound for bound in entry.interval or ())
        rows.append(
            {
                "rank": place,
                "model": entry.model,
                "kind": entry.kind,
                "ingredients": joined(entry.ingredients),
                f"heldout_{metric}": sign * entry.score,
                f"test_{metric}": None if entry.test_score is None else sign * entry.test_score,
                "ci_low": bounds[0] if bounds else None,
                "ci_high": bounds[1] if bounds else None,
                "delta_vs_best_single": round(entry.score - best_single, DIGITS),
                **{f"heldout_{task}": score for task, score in entry.tasks.items()},
                **{f"test_{task}": score for task, score in entry.test_tasks.items()},
            }
        )
    return pd.DataFrame(rows)
