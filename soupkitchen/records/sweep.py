"""`results/leaderboard.csv`: the soups of all runs of a sweep, one row a run, best first."""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from soupkitchen.records.tables import read_csv, write_csv
from soupkitchen.store.files import remove_unfinished
from soupkitchen.store.journal import last_event
from soupkitchen.store.layout import CONFIG, JOURNAL, carries_mark
from soupkitchen.store.layout import LEADERBOARD as NAME
from soupkitchen.store.lock import locked

log = logging.getLogger(__name__)

_HELDOUT = "heldout_"


def update_sweep_leaderboard(folder: Path) -> Path | None:
    """Rewrites `folder`/leaderboard.csv: the soup of each finished run below it, best first.

    Scores of other tasks, data or metrics are no better or worse: each kind is ranked by itself.
    Derived from the runs' own leaderboards, so nothing is lost if it is deleted. Jobs of one sweep may
    call this at the same time, and may come and go meanwhile.

    Returns:
        The file, or None where no run has finished, or something else lies there.
    """
    table = folder / NAME
    try:
        with locked(folder / f".{NAME}.lock"):
            if table.exists() and not _is_sweep(table):
                log.warning("%s is not ours, and stays as it is: no table of all runs was written", table)
                return None
            rows = [row for below in sorted(folder.iterdir()) if (row := _row(below)) is not None]
            if not rows:
                return None
            remove_unfinished(table)
            write_csv(table, _ranked(rows))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        log.warning("%s could not be written (%s); the run itself is complete", table, error.strerror)
        return None
    return table


@dataclass(frozen=True)
class _Row:
    """A finished run: its row, and how it is to be ranked."""

    cells: dict[str, Any]
    score: float
    greater_is_better: bool

    @property
    def kind(self) -> tuple[str, ...]:
        """What only runs that can be compared have in common."""
        return tuple(self.cells[column] for column in ("task", "data", "metric"))


def _ranked(rows: Sequence[_Row]) -> pd.DataFrame:
    ordered = []
    for kind in sorted({row.kind for row in rows}):
        alike = [row for row in rows if row.kind == kind]
        best_first = sorted(
            alike,
            key=lambda row: (
                math.inf if math.isnan(row.score) else -row.score if row.greater_is_better else row.score
            ),
        )
        ordered += [{"rank": place, **row.cells} for place, row in enumerate(best_first, start=1)]
    return pd.DataFrame(ordered)


def _row(run: Path) -> _Row | None:
    """What the table says of the run in the folder `run`; None for what is no finished run of ours."""
    file = run / NAME
    try:
        if not file.is_file() or _is_sweep(file):
            return None
        if not carries_mark(run):
            log.warning("%s was left out of the table of all runs: its folder is not a run's", file)
            return None
        table = read_csv(file)
        metric = next(column for column in table.columns if column.startswith(_HELDOUT))
        soups = table[table["kind"] == "soup"].drop(columns=["rank", "kind"])
        soup: dict[str, Any] = {str(column): value for column, value in soups.iloc[0].items()}
        score = float(soup[metric])
    except FileNotFoundError:  # it was there a moment ago
        return None
    except (OSError, ValueError, KeyError, IndexError, StopIteration) as error:
        told = str(error) or "it has not our columns"
        log.warning("%s was left out of the table of all runs: it cannot be read (%s)", file, told)
        return None
    told_of = {"run": run.name, **_task(run), "metric": metric.removeprefix(_HELDOUT)}
    return _Row({**told_of, **soup}, score, _greater_is_better(run, table, metric))


def _is_sweep(file: Path) -> bool:
    """Whether a table is one of all runs."""
    with file.open(encoding="utf-8", errors="replace") as handle:
        return handle.readline(100).startswith("rank,run,")


def _task(run: Path) -> dict[str, str]:
    """What the run's configuration says of its task and data, as far as it can be read."""
    try:
        config: Any = OmegaConf.to_container(OmegaConf.load(run / CONFIG), resolve=False)
        task = config["task"]
        data = task["data"]["path"] if "data" in task else ", ".join(task["tasks"])
        return {"task": str(task["_target_"]).rsplit(".", 1)[-1], "data": str(data)}
    except (OSError, YAMLError, OmegaConfBaseException, ValueError, KeyError, TypeError):
        return {"task": "", "data": ""}


def _greater_is_better(run: Path, table: pd.DataFrame, metric: str) -> bool:
    """As the run's journal says; in what journals did not say that, as the order of its table has it."""
    if isinstance(said := last_event(run / JOURNAL).get("greater_is_better"), bool):
        return said
    scores = table[metric].dropna()
    return bool(scores.empty or scores.iloc[0] >= scores.iloc[-1])
