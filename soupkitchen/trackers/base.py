"""What every tracker does, and what each may do otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar
from uuid import uuid4

import pandas as pd

OptionValue = str | int | float | bool
PROJECT = "soupkitchen"
"""What trackers gather our runs under, where the user names nothing else."""


class Client:
    """One run in one tracker.

    Attributes:
        name: what accelerate, and the option, call the tracker; also the extra that it is installed with.
        package: what has to be importable.
        run: by what the tracker finds the run again.

    Args:
        folder: the run's own; it is called after it in the tracker, too.
        told: the options of the run, by dotted key; a tracker is told of them once.
        run: what it was found by before; None for a new one.
    """

    name: ClassVar[str]
    package: ClassVar[str]

    def __init__(self, folder: Path, told: Mapping[str, OptionValue], run: str | None) -> None:
        from accelerate import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()  # which accelerate's classes ask what process this is
        self.told, self.run = dict(told), run or uuid4().hex[:8]
        self.tracker: Any = LOGGER_TYPE_TO_CLASS[self.name](**self.options(folder, new=run is None))
        self.tracker.start()

    @classmethod
    def check(cls) -> None:
        """Raises:
        ConfigError: if it is known beforehand that it cannot be told anything.
        """

    def options(self, folder: Path, new: bool) -> dict[str, Any]:
        """Those of accelerate's class."""
        raise NotImplementedError

    def configure(self, known: bool) -> None:
        """Tells of the options of the run; `known` says whether the tracker was told before."""
        if not known:
            self.tracker.store_init_configuration(self.told)

    def kept(self, steps: int, ended: bool) -> int:
        """How many steps the tracker has.

        Args:
            steps: how many it was told of.
            ended: whether it was ended after that, and not killed together with the run.
        """
        return steps

    def log(self, figures: Mapping[str, int | float], step: int) -> None:
        """Tells of a step."""
        self.tracker.log(dict(figures), step=step)

    def show(self, name: str, table: pd.DataFrame, step: int) -> None:
        """Shows a table, where the tracker has something for that."""

    def keep(self, files: Sequence[Path]) -> None:
        """Keeps files with the run, where the tracker has a place for them."""

    def finish(self, complete: bool) -> None:
        """Ends it; `complete` is false for a run that was interrupted, and may go on one day."""
        self.tracker.finish()
