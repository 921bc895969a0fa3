"""Makes a run's tables, report and pictures of its journal: runs and data need not be there any more."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from soupkitchen.errors import JournalError
from soupkitchen.records.leaderboard import leaderboard
from soupkitchen.records.report import write_report
from soupkitchen.records.tables import write_csv
from soupkitchen.records.trajectory import trajectory
from soupkitchen.store import checksums, journal
from soupkitchen.store.layout import JOURNAL, LEADERBOARD, REPORT, TRAJECTORY

log = logging.getLogger(__name__)


def write_tables(folder: Path) -> list[Path]:
    """Writes the tables of the run in `folder`: of one that is finished the leaderboard, too.

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
        write_report(folder)
    except Exception as error:  # nobody loses a run for how it looks
        log.warning("%s could not be written (%s); the run itself is complete", folder / REPORT, error)
        log.debug("%s", folder / REPORT, exc_info=error)


def make_again(folder: Path, lost: Mapping[str, str]) -> None:
    """Makes again what a finished run has lost, if that follows from its journal.

    Args:
        lost: what became of it, by name.

    Raises:
        JournalError: if the journal is damaged.
    """
    checksums.clear_unfinished(folder)
    for name, what in lost.items():
        if name == JOURNAL:
            log.warning("%s %s: what else is made of it may say something else now", folder / name, what)
        else:
            log.warning("%s %s: it is made again", folder / name, what)
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
