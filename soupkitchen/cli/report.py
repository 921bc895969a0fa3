"""Makes a run's report, finished or not, or that of all runs in a folder.

python -m soupkitchen.report results/NAME
python -m soupkitchen.report results
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from soupkitchen.cli.folders import make_in_each
from soupkitchen.errors import JournalError
from soupkitchen.records import update_sweep_leaderboard
from soupkitchen.records.report import write_report
from soupkitchen.records.sweep_report import write_sweep_report
from soupkitchen.store.layout import JOURNAL


def make(folder: Path) -> list[Path]:
    """Writes the report of what is in `folder`, and names the files.

    Raises:
        JournalError: where there is neither a run that has begun, nor a finished one below.
    """
    if (folder / JOURNAL).is_file():
        return write_report(folder)
    if folder.is_dir() and update_sweep_leaderboard(folder) and (file := write_sweep_report(folder)):
        return [file]
    raise JournalError(
        f"{folder} is not the folder of a run that has begun ({JOURNAL}), and holds no finished ones"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Makes the report of each folder that is named; exits with 1 where one cannot be made."""
    make_in_each("report", __doc__, "a run's folder, as results/NAME, or results", make, arguments)
