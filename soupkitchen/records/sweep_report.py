"""`report.html` of a sweep: its runs compared, made of the table of all runs."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pandas as pd

from soupkitchen.errors import ConfigError
from soupkitchen.records.page import Page, Section, Table
from soupkitchen.records.sweep_charts import parallel_figure, scatter_figure
from soupkitchen.records.tables import read_csv
from soupkitchen.store.documents import open_regular, own
from soupkitchen.store.files import write_text
from soupkitchen.store.layout import LEADERBOARD, REPORT

log = logging.getLogger(__name__)

_MARK = b'<meta name="generator" content="soupkitchen">'
_KIND = ["task", "data", "metric"]
_ABOUT = {"rank", "run", *_KIND, "model", "ingredients", "ci_low", "ci_high", "delta_vs_best_single"}


def write_sweep_report(folder: Path) -> Path | None:
    """Writes the report of the runs below `folder`; None where there is no table of them.

    Raises:
        OSError: where it cannot be written.
    """
    table = folder / LEADERBOARD
    if not table.is_file():
        return None
    file = folder / REPORT
    if os.path.lexists(file) and not is_ours(file):
        log.warning("%s is not ours, and stays as it is", file)
        return None
    write_text(file, page(read_csv(table), folder.name).html())
    return file


def is_ours(file: Path) -> bool:
    """Whether a report is one that we have written."""
    try:
        with open_regular(own(file)) as handle:
            return _MARK in handle.read(2000)
    except ConfigError:
        return False


def page(table: pd.DataFrame, name: str) -> Page:
    """The report: one section for each task, data and metric, as scores of others are no better or worse."""
    sections = [_section(group, *map(str, kind)) for kind, group in table.groupby(_KIND, sort=True)]
    said = [f"{len(table)} finished runs. What stands side by side was scored on the same data and metric."]
    footer = f"soupkitchen. Made of {name}/{LEADERBOARD}."
    return Page(f"All runs in {name}", said, [], sections, footer)


def _section(group: pd.DataFrame, task: str, data: str, metric: str) -> Section:
    group = group.dropna(axis=1, how="all").sort_values("rank")
    score, costs = f"heldout_{metric}", group.columns
    rows = [{str(key): value for key, value in row.items()} for row in group.to_dict("records")]
    until = list(costs).index("model") if "model" in costs else len(costs)
    options = [
        column for column in list(costs)[:until] if column not in _ABOUT and group[column].nunique() > 1
    ]
    figures = []
    if len(rows) > 1 and score in group:
        figures.append(parallel_figure(rows, options[:8], score))
        if "examples_scored" in group:
            titles = ("examples scored", f"{metric}, held-out")
            figures.append(scatter_figure(rows, "examples_scored", score, titles))
    said = ["Each line is a run, from what it was told to what came of it; the thick one is the best."]
    return Section(
        f"{metric}: {task}, {data}", said if figures else [], figures, [Table("Best first", group, "run")]
    )
