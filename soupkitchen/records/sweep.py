"""`results/leaderboard.csv`: the soups of all runs of a sweep, one row a run, best first.

Its columns: `rank`, `run`; `task`, `data` and `metric`, which make the groups that are ranked by
themselves; `method` and `search` by the names of their presets; each option that runs of a group differ in,
where that does not follow from these names; the soup's row of the run's own leaderboard, with the scores of
each metric in columns of their own; and what the run took (see `Costs`).
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import pandas as pd

from soupkitchen.errors import ConfigError, LockError
from soupkitchen.options import is_number, shown
from soupkitchen.records.leaderboard import HELDOUT, read_leaderboard
from soupkitchen.records.runs import PRESETS, Costs, Settings
from soupkitchen.records.sweep_report import write_sweep_report
from soupkitchen.records.tables import write_csv
from soupkitchen.store.documents import open_regular, own
from soupkitchen.store.files import NO_ROOM, remove_unfinished
from soupkitchen.store.journal import last_event
from soupkitchen.store.layout import JOURNAL, REPORT, carries_mark
from soupkitchen.store.layout import LEADERBOARD as NAME
from soupkitchen.store.lock import locked

log = logging.getLogger(__name__)

_ABSENT = object()
_IN_OTHER_COLUMNS = {"task._target_", "task.data.path", "task.metric.name", "pool._target_"}


def update_sweep_leaderboard(folder: Path) -> Path | None:
    """Rewrites `folder`/leaderboard.csv, the soup of each finished run below it, best first, and its report.

    Scores of other tasks, data or metrics are no better or worse: each kind is ranked by itself.
    Derived from the runs' own leaderboards, so nothing is lost if it is deleted. Jobs of one sweep may
    call this at the same time, and may come and go meanwhile.

    Returns:
        The file, or None where no run has finished, or something else lies there.
    """
    table = folder / NAME
    try:
        with locked(folder / f".{NAME}.lock", timeout=60):
            if os.path.lexists(table) and not _is_sweep(table):
                log.warning("%s is not ours, and stays as it is: no table of all runs was written", table)
                return None
            runs = [run for below in sorted(folder.iterdir()) if (run := _run(below)) is not None]
            if not runs:
                return None
            remove_unfinished(table)
            write_csv(table, _table(runs))
            if len(runs) > 1:
                _report(folder)
    except (OSError, ConfigError, LockError) as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        log.warning("%s could not be written (%s); the run itself is complete", table, error)
        return None
    return table


def _report(folder: Path) -> None:
    """Writes the report of all runs; the table is complete without."""
    try:
        write_sweep_report(folder)
    except Exception as error:  # nobody loses a table for how it looks
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        log.warning("%s could not be written (%s); the table is complete", folder / REPORT, error)


@dataclass(frozen=True)
class _Run:
    """A finished run, and how it is to be ranked.

    Attributes:
        soup: the soup's row in the run's leaderboard.
        goodness: the soup's score, higher better.
    """

    name: str
    metric: str
    settings: Settings
    costs: Costs
    soup: Mapping[str, Any]
    goodness: float

    @property
    def kind(self) -> tuple[str, str, str]:
        """What only runs that can be compared have in common."""
        return self.settings.task, self.settings.data, self.metric

    @property
    def place(self) -> tuple[bool, float]:
        """To sort by: best first, what is no number last."""
        nan = math.isnan(self.goodness)
        return nan, 0.0 if nan else -self.goodness


def _table(runs: Sequence[_Run]) -> pd.DataFrame:
    groups = [
        sorted((run for run in runs if run.kind == kind), key=lambda run: run.place)
        for kind in sorted({run.kind for run in runs})
    ]
    options = sorted(
        {option for group in groups for option in _told_apart_by([run.settings for run in group])}
    )
    rows = [
        {
            "rank": place,
            "run": run.name,
            **dict(zip(("task", "data", "metric"), run.kind, strict=True)),
            **{group: run.settings.choices.get(group, "") for group in PRESETS},
            **{
                option: _cell(run.settings.options[option])
                for option in options
                if option in run.settings.options
            },
            **run.soup,
            **asdict(run.costs),
        }
        for group in groups
        for place, run in enumerate(group, start=1)
    ]
    scores = dict.fromkeys(column for group in groups for run in group for column in run.soup)
    costs = [cost.name for cost in fields(Costs)]
    columns = ["rank", "run", "task", "data", "metric", *PRESETS, *options, *scores, *costs]
    return pd.DataFrame(rows, columns=columns, dtype=object)  # whole numbers stay so beside empty cells


def _told_apart_by(group: Sequence[Settings]) -> set[str]:
    """The options in which runs that can be compared differ, but for what names of presets say anyway."""
    found = set()
    for option in {option for settings in group for option in settings.options}:
        values = [settings.options.get(option, _ABSENT) for settings in group]
        same = all(value == values[0] for value in values)
        if not (same or all(settings.is_implied(option) for settings in group)):
            found.add(option)
    return found - _IN_OTHER_COLUMNS


def _cell(value: Any) -> Any:
    """An option as the command line takes it; numbers stay numbers."""
    return value if is_number(value) else shown(value)


def _run(folder: Path) -> _Run | None:
    """The run in `folder`; None for what is no finished run of ours."""
    file = folder / NAME
    try:
        if not file.is_file() or _is_sweep(file):
            return None
        if not carries_mark(folder):
            log.warning("%s was left out of the table of all runs: its folder is not a run's", file)
            return None
        table = read_leaderboard(file)
    except ConfigError as error:
        if file.exists():  # and not only a moment ago
            log.warning("%s was left out of the table of all runs: it cannot be read (%s)", file, error)
        return None
    metric = next(column for column in table.columns if column.startswith(HELDOUT))
    soups = table[table["kind"] == "soup"].drop(columns=["rank", "kind"])
    soup: dict[str, Any] = {str(column): value for column, value in soups.iloc[0].items()}
    score = float(soup[metric])
    goodness = score if greater_is_better(folder, table) else -score
    of = folder.name, metric.removeprefix(HELDOUT), Settings.of(folder), Costs.of(folder)
    return _Run(*of, soup, goodness)


def _is_sweep(file: Path) -> bool:
    """Whether a table is one of all runs."""
    with open_regular(own(file)) as handle:
        return handle.read(9) == b"rank,run,"


def greater_is_better(run: Path, table: pd.DataFrame) -> bool:
    """Whether a higher score is better: as the journal of the run in the folder `run` says.

    Of what journals did not say that, as the order of the run's leaderboard `table` has it.
    """
    if isinstance(said := last_event(run / JOURNAL).get("greater_is_better"), bool):
        return said
    metric = next(column for column in table.columns if column.startswith(HELDOUT))
    scores = table[metric].dropna()
    return bool(scores.empty or scores.iloc[0] >= scores.iloc[-1])
