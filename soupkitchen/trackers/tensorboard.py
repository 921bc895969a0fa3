"""TensorBoard: event files in the run's own folder; ``tensorboard --logdir results`` shows all runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from soupkitchen.store.layout import TENSORBOARD
from soupkitchen.trackers.base import Client


class TensorBoard(Client):
    """A run that goes on writes one more file to the same folder. Tables are text; there are no artifacts."""

    name = "tensorboard"
    package = "tensorboard"

    def options(self, folder: Path, new: bool) -> dict[str, Any]:
        return {"run_name": TENSORBOARD, "logging_dir": folder}

    def show(self, name: str, table: pd.DataFrame, step: int) -> None:
        rows = [list(table.columns), ["---"] * len(table.columns), *table.astype(object).values.tolist()]
        self.tracker.log({name: "\n".join(_row(row) for row in rows)}, step=step)


def _row(cells: list[Any]) -> str:
    texts = ("" if cell is None or cell != cell else str(cell) for cell in cells)
    return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"
