"""Trackio: a database on this machine, or a Space (``TRACKIO_SPACE_ID``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from soupkitchen.trackers.base import PROJECT, Client


class Trackio(Client):
    """Finds a run again by its name, which is therefore one that no other run has."""

    name = "trackio"
    package = "trackio"

    def options(self, folder: Path, new: bool) -> dict[str, Any]:
        return {
            "run_name": PROJECT,
            "name": f"{folder.name}-{self.run}",
            "resume": "never" if new else "allow",
            "config": self.told,
            "embed": False,
            "auto_log_gpu": False,
            "auto_log_cpu": False,
        }

    def configure(self, known: bool) -> None:
        """It is told when it starts: what accelerate's class would tell it now it does not keep."""

    def show(self, name: str, table: pd.DataFrame, step: int) -> None:
        import trackio

        self.tracker.log({name: trackio.Table(dataframe=table)}, step=step)

    def keep(self, files: Sequence[Path]) -> None:
        import trackio

        artifact = trackio.Artifact(f"run-{self.run}-results", type=PROJECT)
        for file in files:
            artifact.add_file(str(file))
        self.tracker.tracker.log_artifact(artifact)
