"""What the journal of one run, and the files beside it, say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from soupkitchen.errors import ConfigError
from soupkitchen.records.leaderboard import leaderboard
from soupkitchen.records.trajectory import trajectory
from soupkitchen.store import journal
from soupkitchen.store.documents import own, read_bytes
from soupkitchen.store.layout import JOURNAL

_MOST = 4 << 20
"""Bytes of a text in a report at most."""
CONTRIBUTION = "contribution"
"""The events that say what a soup scores without an ingredient."""


@dataclass(frozen=True)
class Run:
    """What a folder says of the run in it."""

    folder: Path

    @cached_property
    def events(self) -> list[Mapping[str, Any]]:
        return list(journal.begun(self.folder / JOURNAL))

    @cached_property
    def steps(self) -> pd.DataFrame:
        return trajectory(self.events)

    @cached_property
    def models(self) -> pd.DataFrame | None:
        """The leaderboard; None of a run that has none yet."""
        return leaderboard(self.events) if self.of("entry") else None

    @property
    def metric(self) -> str:
        return str(self.events[0]["metric"])

    @property
    def sign(self) -> int:
        return 1 if self.events[0]["greater_is_better"] else -1

    @cached_property
    def soup(self) -> Mapping[str, Any] | None:
        """The soup's row."""
        rows = [] if self.models is None else self.models[self.models["kind"] == "soup"].to_dict("records")
        return {str(name): value for name, value in rows[0].items()} if rows else None

    @cached_property
    def best(self) -> Mapping[str, Any] | None:
        """The row of the best single run."""
        rows = [] if self.models is None else self.models[self.models["kind"] == "single"].to_dict("records")
        return {str(name): value for name, value in rows[0].items()} if rows else None

    def of(self, kind: str) -> list[Mapping[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    def text(self, name: str) -> str | None:
        """What a file beside the journal holds, or why it cannot be read; None if it is not there."""
        file = self.folder / name
        if not os.path.lexists(file):
            return None
        try:
            return read_bytes(own(file), _MOST).decode(errors="replace")
        except ConfigError as error:
            return str(error)
