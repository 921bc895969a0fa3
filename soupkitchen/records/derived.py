"""Makes a run's tables, report and pictures of its journal: runs and data need not be there any more."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from soupkitchen.errors import JournalError
from soupkitchen.records.leaderboard import leaderboard
from soupkitchen.records.tables import write_csv
from soupkitchen.records.trajectory import trajectory
from soupkitchen.store import checksums, journal
from soupkitchen.store.layout import JOURNAL, LEADERBOARD, REPORT, TRAJECTORY

log = logging.getLogger(__name__)


def write_tables(folder: Path) -> list[Path]:
    """Writes the trajectory of the run in `folder` and, if it is finished, the leaderboard.

    Raises:
        JournalError: if there is no journal, or a damaged one.
    """
    events = journal.read(folder / JOURNAL)
    tables = {TRAJECTORY: trajectory(events)}
    if events and events[-1]["event"] == "finish":
        tables[LEADERBOARD] = leaderboard(events)
    for name, table in tables.items():
        write_csv(folder / name, table)
    return [folder / name for name in tables]


def report(folder: Path) -> None:
    """Writes the report; a run is complete without one."""
    try:
        from soupkitchen.records.report import write_report  # what draws is imported where it is wanted

        write_report(folder)
    except Exception as error:  # nobody loses a run for how it looks
        log.warning("%s could not be written (%s); the run itself is complete", folder / REPORT, error)
        log.debug("%s", folder / REPORT, exc_info=error)


def make_again(folder: Path, lost: Mapping[str, str]) -> None:
    """Makes lost files of a finished run again, if they follow from its journal.

    Args:
        lost: by name, "is missing" or "was changed".

    Raises:
        JournalError: if the journal is damaged.
    """
    checksums.clear_unfinished(folder)
    for name, what in lost.items():
        remedy = (
            "what else is made of it may say something else now" if name == JOURNAL else "it is made again"
        )
        log.warning("%s %s: %s", folder / name, what, remedy)
    if names := lost.keys() - {JOURNAL}:
        checksums.set_aside(folder, names)
        if names & {TRAJECTORY, LEADERBOARD}:
            write_tables(folder)
        if names - {TRAJECTORY, LEADERBOARD}:
            report(folder)
        checksums.note(folder, names)
    if not (folder / LEADERBOARD).is_file():
        raise JournalError(
            f"{folder / JOURNAL} does not say that the run is finished; start anew: overwrite=true"
        )
