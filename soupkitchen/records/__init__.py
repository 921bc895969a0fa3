"""What a run leaves behind: its tables. Knows no torch."""

from soupkitchen.records.leaderboard import Entry, leaderboard, update_sweep_leaderboard
from soupkitchen.records.tables import write_csv
from soupkitchen.records.trajectory import Step, Trajectory

__all__ = ["Entry", "Step", "Trajectory", "leaderboard", "update_sweep_leaderboard", "write_csv"]
