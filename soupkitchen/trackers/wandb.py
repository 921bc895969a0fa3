"""Weights & Biases; its environment variables count as ever: ``WANDB_PROJECT``, ``WANDB_MODE=offline``, …"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from soupkitchen.trackers.base import PROJECT, Client


class Wandb(Client):
    """A run that goes on has the same id. Offline, each start is a folder: ``wandb sync --append``."""

    name = "wandb"
    package = "wandb"

    def options(self, folder: Path, new: bool) -> dict[str, Any]:
        return {
            "run_name": os.environ.get("WANDB_PROJECT", PROJECT),
            "name": folder.name,
            "id": self.run,
            "resume": None if new else "allow",
            "settings": {"console": "off"},  # the terminal has a display of ours
        }

    def configure(self, known: bool) -> None:
        self.tracker.store_init_configuration(self.told)  # a kill may have lost it

    def kept(self, steps: int, ended: bool) -> int:
        """What the server has; offline, a kill loses what was not written, so that all is told again.

        Of a step that it is told twice the server keeps the first.
        """
        run = self.tracker.tracker
        if run.offline:
            return steps if ended else 0
        return int(run.step)

    def show(self, name: str, table: pd.DataFrame, step: int) -> None:
        self.tracker.log_table(name, dataframe=table, step=step)

    def keep(self, files: Sequence[Path]) -> None:
        import wandb

        artifact = wandb.Artifact(f"run-{self.run}-results", type=PROJECT)
        for file in files:
            artifact.add_file(str(file))
        self.tracker.tracker.log_artifact(artifact)

    def finish(self, complete: bool) -> None:
        self.tracker.tracker.finish(exit_code=0 if complete else 1)
