"""MLflow, at ``MLFLOW_TRACKING_URI``, or in the local store of the folder that one works in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from soupkitchen.checkpoints.tracker_runs import check_store
from soupkitchen.trackers.base import PROJECT, Client, OptionValue


class Mlflow(Client):
    """A run of the experiment `PROJECT`, or ``MLFLOW_EXPERIMENT_NAME``; one that goes on has the same id."""

    name = "mlflow"
    package = "mlflow"

    @classmethod
    def check(cls) -> None:
        check_store("tracker=mlflow")

    def __init__(self, folder: Path, told: Mapping[str, OptionValue], run: str | None) -> None:
        super().__init__(folder, told, run)
        self.run = self.tracker.tracker.info.run_id

    def options(self, folder: Path, new: bool) -> dict[str, Any]:
        return {
            "experiment_name": PROJECT,
            "run_id": None if new else self.run,
            "run_name": folder.name,
            "nested_run": True,  # the user may have begun one of their own
        }

    def show(self, name: str, table: pd.DataFrame, step: int) -> None:
        import mlflow

        mlflow.log_table(table.astype(object), f"{name}.json", run_id=self.run)

    def keep(self, files: Sequence[Path]) -> None:
        for file in files:
            self.tracker.log_artifact(str(file))

    def finish(self, complete: bool) -> None:
        import mlflow

        mlflow.end_run("FINISHED" if complete else "KILLED")
