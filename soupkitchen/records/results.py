"""A run's tables and report made again, and `results/leaderboard.csv`: the soups of all runs, best first.

Its columns, one row a run: `rank`, `run`; `task`, `data` and `metric`, which make the groups that are
ranked by themselves; `method` and `search` by the names of their presets; each option that runs of a group
differ in, if it does not follow from these names; the soup's row of the run's own leaderboard, with the
scores of each metric in columns of their own; and what the run took (see `Costs`).
"""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from soupkitchen.errors import ConfigError, JournalError, LockError
from soupkitchen.options import files, is_number, shown
from soupkitchen.options.building import TARGET
from soupkitchen.records.run import Costs, Run
from soupkitchen.records.tables import HELDOUT, heldout_column, read_leaderboard, write_csv, write_tables
from soupkitchen.store.files import NO_ROOM, open_regular, own, read_yaml, remove_unfinished
from soupkitchen.store.folder import (
    CONFIG,
    JOURNAL,
    LEADERBOARD,
    REPORT,
    TRAJECTORY,
    carries_mark,
    clear_unfinished,
    note_checksums,
    set_aside,
)
from soupkitchen.store.journal import last_event
from soupkitchen.store.lock import locked
from soupkitchen.store.settings import CHOICES, what_is_run

log = logging.getLogger(__name__)

_PRESETS = ("method", "search")
_ABSENT = object()
_IN_OTHER_COLUMNS = {"task._target_", "task.data.path", "task.metric.name", "pool._target_"}


def update_sweep_leaderboard(folder: Path) -> Path | None:
    """Rewrites `folder`/leaderboard.csv from the finished runs below it, and its report; returns the file.

    Jobs of one sweep may call this at the same time, and runs may appear or vanish meanwhile. The result is
    None if no run has finished, or somebody else's file is there.
    """
    table = folder / LEADERBOARD
    try:
        with locked(folder / f".{LEADERBOARD}.lock", timeout=60):
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


def greater_is_better(run: Path, table: pd.DataFrame) -> bool:
    """Tells whether a higher score is better, by the journal or else by the order of `table`."""
    if isinstance(answer := last_event(run / JOURNAL).get("greater_is_better"), bool):
        return answer
    scores = table[heldout_column(table)].dropna()
    return bool(scores.empty or scores.iloc[0] >= scores.iloc[-1])


def report(folder: Path) -> None:
    """Writes the report of the run in `folder`, which is complete without one."""
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
    clear_unfinished(folder)
    for name, what in lost.items():
        remedy = (
            "what else is made of it may say something else now" if name == JOURNAL else "it is made again"
        )
        log.warning("%s %s: %s", folder / name, what, remedy)
    if names := lost.keys() - {JOURNAL}:
        set_aside(folder, names)
        if names & {TRAJECTORY, LEADERBOARD}:
            write_tables(folder)
        if names - {TRAJECTORY, LEADERBOARD}:
            report(folder)
        note_checksums(folder, names)
    if not (folder / LEADERBOARD).is_file():
        raise JournalError(
            f"{folder / JOURNAL} does not say that the run is finished; start anew: overwrite=true"
        )


def _report(folder: Path) -> None:
    try:
        from soupkitchen.records.report import write_sweep_report

        write_sweep_report(folder)
    except Exception as error:  # nobody loses a table for how it looks
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        log.warning("%s could not be written (%s); the table is complete", folder / REPORT, error)


@dataclass(frozen=True)
class _Settings:
    """The facts of a run's configuration; `choices` has each group's preset: the chosen one, else the
    nearest, else the class.
    """

    task: str = ""
    data: str = ""
    choices: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, run: Path) -> _Settings:
        try:
            config = read_yaml(own(run / CONFIG), dict[str, Any])
            task = config["task"]
            data = task["data"]["path"] if "data" in task else ", ".join(task["tasks"])
            task_class = _class(task)
        except (ConfigError, KeyError, TypeError):
            return cls()
        noted = config.get(CHOICES)
        choices = {group: str(name) for group, name in noted.items()} if isinstance(noted, Mapping) else {}
        for group in _PRESETS:
            if group not in choices and isinstance(config.get(group), Mapping) and TARGET in config[group]:
                choices[group] = _nearest(group, config[group])
        return cls(task_class, str(data), choices, what_is_run(config))

    def is_implied(self, key: str) -> bool:
        group = key.split(".")[0]
        preset = _presets(group).get(self.choices.get(group, ""), {})
        return key not in self.options or (key in preset and preset[key] == self.options[key])


@cache
def _presets(group: str) -> Mapping[str, Mapping[str, Any]]:
    """The options of our presets of a group, by dotted key; empty for other groups than method and search."""
    names = files.names(group) if group in _PRESETS else []
    return {name: what_is_run({group: files.compose(group, name)}) for name in names}


def _nearest(group: str, options: Mapping[str, Any]) -> str:
    """The preset of the same classes that differs in the fewest options; else the class."""
    wanted = what_is_run({group: options})
    differing: dict[int, list[str]] = defaultdict(list)
    for name, preset in _presets(group).items():
        apart = [key for key in wanted.keys() | preset.keys() if wanted.get(key) != preset.get(key)]
        if not any(key.endswith(TARGET) for key in apart):
            differing[len(apart)].append(name)
    nearest = differing[min(differing)] if differing else []
    return nearest[0] if len(nearest) == 1 else _class(options)


def _class(options: Mapping[str, Any]) -> str:
    return str(options[TARGET]).rsplit(".", 1)[-1]


@dataclass(frozen=True)
class _SweptRun:
    """A finished run, with the soup's row of its leaderboard and its score, higher better."""

    name: str
    metric: str
    settings: _Settings
    costs: Costs
    soup: Mapping[Any, Any]
    goodness: float

    @property
    def kind(self) -> tuple[str, str, str]:
        return self.settings.task, self.settings.data, self.metric

    @property
    def place(self) -> tuple[bool, float]:
        nan = math.isnan(self.goodness)
        return nan, 0.0 if nan else -self.goodness


def _run(folder: Path) -> _SweptRun | None:
    file = folder / LEADERBOARD
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
    try:
        costs = Run(folder).costs
    except JournalError:
        costs = Costs()
    metric = heldout_column(table)
    soup = table[table["kind"] == "soup"].drop(columns=["rank", "kind"]).to_dict("records")[0]
    score = float(soup[metric])
    goodness = score if greater_is_better(folder, table) else -score
    settings = _Settings.of(folder)
    return _SweptRun(folder.name, metric.removeprefix(HELDOUT), settings, costs, soup, goodness)


def _is_sweep(file: Path) -> bool:
    with open_regular(own(file)) as handle:
        return handle.read(9) == b"rank,run,"


def _table(runs: Sequence[_SweptRun]) -> pd.DataFrame:
    groups = [
        sorted((run for run in runs if run.kind == kind), key=lambda run: run.place)
        for kind in sorted({run.kind for run in runs})
    ]
    options = sorted(set().union(*(_differing([run.settings for run in group]) for group in groups)))
    rows = [
        {
            "rank": place,
            "run": run.name,
            **dict(zip(("task", "data", "metric"), run.kind, strict=True)),
            **{group: run.settings.choices.get(group, "") for group in _PRESETS},
            **{name: _cell(run.settings.options[name]) for name in options if name in run.settings.options},
            **run.soup,
            **asdict(run.costs),
        }
        for group in groups
        for place, run in enumerate(group, start=1)
    ]
    scores = dict.fromkeys(column for group in groups for run in group for column in run.soup)
    costs = [cost.name for cost in fields(Costs)]
    columns = ["rank", "run", "task", "data", "metric", *_PRESETS, *options, *scores, *costs]
    return pd.DataFrame(rows, columns=columns, dtype=object)  # whole numbers stay so beside empty cells


def _differing(group: Sequence[_Settings]) -> set[str]:
    """The options in which comparable runs differ, without those implied by presets."""
    differing = set()
    for option in {option for settings in group for option in settings.options}:
        values = [settings.options.get(option, _ABSENT) for settings in group]
        same = all(value == values[0] for value in values)
        if not (same or all(settings.is_implied(option) for settings in group)):
            differing.add(option)
    return differing - _IN_OTHER_COLUMNS


def _cell(value: Any) -> Any:
    return value if is_number(value) else shown(value)
