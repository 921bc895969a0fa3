"""`leaderboard.csv`: every model that the run scored, best first; and a sweep's, one row a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from filelock import FileLock

from soupkitchen.layout import LEADERBOARD as NAME
from soupkitchen.records.tables import DIGITS, joined, remove_unfinished, write_csv


@dataclass(frozen=True)
class Entry:
    """One model. `score`, `test_score` and the interval are higher better; tables turn them back.

    Attributes:
        kind: "single", "uniform", "soup", or "listed" for a run whose score is not ours.
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


def leaderboard(entries: Sequence[Entry], metric: str, sign: int) -> pd.DataFrame:
    """The table, best on held-out first; the soup first, then the single runs, among equals.

    Args:
        metric: the metric's name, for column names.
        sign: 1, or -1 for a loss, whose scores are shown with their own sign.
    """
    best_single = max(
        (entry.score for entry in entries if entry.kind == "single" and entry.score == entry.score),
        default=float("nan"),
    )
    kinds = ("soup", "single", "uniform", "listed")
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


def update_sweep_leaderboard(folder: Path, greater_is_better: bool) -> Path | None:
    """Rewrites `folder`/leaderboard.csv: the soup of each finished run below it, best first.

    Derived from the runs' own leaderboards, so nothing is lost if it is deleted.
    Jobs of one sweep may call this at the same time.

    Returns:
        The file, or None where no run has finished.
    """
    with FileLock(folder / f".{NAME}.lock"):
        rows = []
        for file in sorted(folder.glob(f"*/{NAME}")):
            table = pd.read_csv(file)
            soup = table[table["kind"] == "soup"]
            if not soup.empty:
                rows.append({"run": file.parent.name, **soup.iloc[0].drop(["rank", "kind"])})
        if not rows:
            return None
        table = pd.DataFrame(rows)
        scores = [column for column in table.columns if column.startswith("heldout_")]
        table = table.sort_values(scores, ascending=not greater_is_better, kind="stable")
        table.insert(0, "rank", range(1, len(table) + 1))
        remove_unfinished(folder / NAME)
        write_csv(folder / NAME, table)
    return folder / NAME
