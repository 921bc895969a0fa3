"""What a run leaves behind: its tables. Knows no torch."""

from soupkitchen.records.leaderboard import Entry, leaderboard, update_sweep_leaderboard
from soupkitchen.records.tables import remove_unfinished, write_csv, write_text
from soupkitchen.records.trajectory import Step, Trajectory

__all__ = [
    "Entry",
    "Step",
    "Trajectory",
    "leaderboard",
    "remove_unfinished",
    "update_sweep_leaderboard",
    "write_csv",
    "write_text",
]
