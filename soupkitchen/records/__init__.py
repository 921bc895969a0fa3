"""A run's tables, as functions of its journal's events. Imports no torch."""

from soupkitchen.records.results import greater_is_better, update_sweep_leaderboard
from soupkitchen.records.tables import (
    append_csv,
    leaderboard,
    ranking,
    read_csv,
    read_leaderboard,
    separated,
    soups_score,
    trajectory,
    write_csv,
)
from soupkitchen.store.journal import Entry, Step

__all__ = [
    "Entry",
    "Step",
    "append_csv",
    "greater_is_better",
    "leaderboard",
    "ranking",
    "read_csv",
    "read_leaderboard",
    "separated",
    "soups_score",
    "trajectory",
    "update_sweep_leaderboard",
    "write_csv",
]
