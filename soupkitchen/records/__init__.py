"""What a run leaves behind: its tables. Knows no torch."""

from soupkitchen.records.leaderboard import Entry, leaderboard, update_sweep_leaderboard
from soupkitchen.records.tables import read_csv, remove_unfinished, separated, write_csv, write_text
from soupkitchen.records.trajectory import Step, Trajectory

__all__ = [
    "Entry",
    "Step",
    "Trajectory",
    "leaderboard",
    "read_csv",
    "remove_unfinished",
    "separated",
    "update_sweep_leaderboard",
    "write_csv",
    "write_text",
]
