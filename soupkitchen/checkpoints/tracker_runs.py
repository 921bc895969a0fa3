"""Finds runs in trackers: where the Trainer wrote each (`output_dir`), and its scores."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

from soupkitchen.errors import CheckpointError, ConfigError, first_line

log = logging.getLogger(__name__)

MLFLOW = "mlflow:"
"""The prefix of the name of an experiment of MLflow's."""
OUTPUT_DIR = "output_dir"
"""The Trainer's name of its folder, in all trackers."""
_PAGE = 1000
_PREFIXES = ("eval/", "eval_")


class TrackerRun(NamedTuple):
    """A run in a tracker."""

    folder: str
    name: str
    scores: Mapping[str, float]


def check_store(option: str) -> None:
    """Checks that MLflow can open its database, if that is a file: MLflow itself tries for minutes.

    Raises:
        ConfigError: if it cannot.
    """
    from mlflow import get_tracking_uri

    kind, _, rest = get_tracking_uri().partition(":///")
    file = Path(rest.partition("?")[0])
    if kind != "sqlite" or (not file.exists() and file.parent.is_dir()):
        return
    try:
        if not file.is_file():
            raise sqlite3.OperationalError("it is no file" if file.exists() else "its folder is not there")
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=rw", uri=True)) as database:
            database.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        if "locked" not in str(error):
            raise ConfigError(
                f"{option}: {file} cannot be MLflow's database ({error}): move it, or have "
                "MLFLOW_TRACKING_URI say where MLflow's store is"
            ) from error


def of_mlflow(experiment: str) -> Iterator[TrackerRun]:
    """The finished runs of an experiment of MLflow's whose folders are known, oldest first.

    The store is that of ``MLFLOW_TRACKING_URI``, or MLflow's default.

    Raises:
        ConfigError: if MLflow is not installed.
        CheckpointError: if there is no such experiment, or none of its runs says where it is.
    """
    try:
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
    except ImportError as error:
        raise ConfigError(
            f"pool.path={MLFLOW}{experiment} needs MLflow: pip install 'soupkitchen[mlflow]'"
        ) from error
    check_store(f"pool.path={MLFLOW}{experiment}")
    try:
        client = MlflowClient()
        wanted = client.get_experiment_by_name(experiment)
        if wanted is None:
            there = ", ".join(sorted(other.name for other in client.search_experiments()))
            raise CheckpointError(f"MLflow has no experiment called {experiment}; it has {there}")
        finished, oldest_first = "attributes.status = 'FINISHED'", ["attributes.start_time ASC"]
        runs: list[Any] = []
        page: str | None = ""
        while page is not None:
            more = client.search_runs([wanted.experiment_id], finished, 1, _PAGE, oldest_first, page or None)
            runs += more
            page = more.token or None
    except MlflowException as error:
        raise CheckpointError(
            f"pool.path={MLFLOW}{experiment}: MLflow cannot be asked ({first_line(error)}); "
            "MLFLOW_TRACKING_URI says where it is"
        ) from error
    placed = [run for run in runs if run.data.params.get(OUTPUT_DIR)]
    if not placed:
        raise CheckpointError(
            f"none of the {len(runs)} finished runs of {experiment} says where it is (the parameter "
            f"{OUTPUT_DIR}, which the Trainer logs)"
        )
    if len(placed) < len(runs):
        log.warning("%d runs of %s do not say where they are: left out", len(runs) - len(placed), experiment)
    for run in placed:
        scores = {_without_prefix(name): float(value) for name, value in run.data.metrics.items()}
        yield TrackerRun(run.data.params[OUTPUT_DIR], str(run.info.run_name), scores)


def as_list(table: Any) -> Any:
    """A table as W&B exports it, with the columns of a list of runs; any other table as it is."""
    if "path" in table.columns or OUTPUT_DIR not in table.columns:
        return table
    kept = table[table[OUTPUT_DIR].notna()]
    if "State" in table.columns:
        kept = kept[kept["State"] == "finished"]
    if len(kept) < len(table):
        log.warning(
            "%d rows are of no finished run, or have no %s: left out", len(table) - len(kept), OUTPUT_DIR
        )
    return kept.rename(columns={OUTPUT_DIR: "path", "Name": "name"}).rename(columns=_without_prefix)


def _without_prefix(name: Any) -> str:
    """The name of a metric that the Trainer calls ``eval_accuracy``."""
    name = str(name)
    return name.removeprefix(next((prefix for prefix in _PREFIXES if name.startswith(prefix)), ""))
