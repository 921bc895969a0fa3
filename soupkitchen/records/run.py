"""One run, read from its journal and the files beside it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from soupkitchen.errors import ConfigError
from soupkitchen.records.tables import has_value, leaderboard, separated, trajectory
from soupkitchen.store import journal
from soupkitchen.store.files import own, read_bytes
from soupkitchen.store.folder import JOURNAL
from soupkitchen.store.journal import ENTRY, STEP, Event

if TYPE_CHECKING:
    from soupkitchen.records.figures import Figure

_MOST = 4 << 20


@dataclass(frozen=True)
class Costs:
    """The costs of a run; None if unknown.

    Attributes:
        candidates_tried: candidates that were decided on.
        examples_scored: examples that went through a model.
        examples_cached: examples with predictions from an earlier run.
        merge_seconds: reading, merging, and filling the model.
        eval_seconds: forward passes and metrics.
        peak_device_gib: memory of tensors on an accelerator, in the process that finished the run.
        peak_host_gib: memory of that process, which jobs of a sweep may share.
    """

    candidates_tried: int | None = None
    examples_scored: int | None = None
    examples_cached: int | None = None
    merge_seconds: float | None = None
    eval_seconds: float | None = None
    peak_device_gib: float | None = None
    peak_host_gib: float | None = None


@dataclass(frozen=True)
class Outcome:
    """The outcome of a finished run.

    Attributes:
        metric: the name of the score.
        soup, best: the rows of the leaderboard with the soup and with the best single run.
    """

    metric: str
    soup: Mapping[Any, Any]
    best: Mapping[Any, Any]

    @property
    def ingredients(self) -> tuple[str, ...]:
        return separated(self.soup["ingredients"])

    @property
    def gain(self) -> float:
        """The soup's held-out gain over the best single run; higher is better."""
        return float(self.soup["delta_vs_best_single"])

    @property
    def test_scores(self) -> tuple[float, float] | None:
        """The scores of both on test; None without a test split."""
        soup, best = (row[f"test_{self.metric}"] for row in (self.soup, self.best))
        return (float(soup), float(best)) if has_value(soup) and has_value(best) else None


@dataclass(frozen=True)
class Run:
    """The run in a folder. Properties raise a `JournalError` if the journal is damaged."""

    folder: Path

    @cached_property
    def events(self) -> list[Event]:
        return journal.begun(self.folder / JOURNAL)

    @cached_property
    def steps(self) -> pd.DataFrame:
        return trajectory(self.events)

    @cached_property
    def models(self) -> pd.DataFrame | None:
        return leaderboard(self.events) if self.of(ENTRY) else None

    @cached_property
    def figure(self) -> Figure:
        from soupkitchen.records.figures import trajectory_figure  # what draws is imported where it is wanted

        return trajectory_figure(self.steps, self.metric, self.sign)

    @property
    def metric(self) -> str:
        return str(self.events[0]["metric"])

    @property
    def sign(self) -> int:
        return 1 if self.events[0]["greater_is_better"] else -1

    @cached_property
    def outcome(self) -> Outcome | None:
        """The outcome; None if the run is not finished."""
        rows = [] if self.models is None else self.models.to_dict("records")
        first = {row["kind"]: row for row in reversed(rows)}
        if "soup" in first and "single" in first:
            return Outcome(self.metric, first["soup"], first["single"])
        return None

    @property
    def costs(self) -> Costs:
        every, last = self.of("score"), self.events[-1]
        cached, scored = ([event for event in every if event["cached"] is known] for known in (True, False))
        merged = [step for step in self.of(STEP) if step["stage"] == "merge"]
        failed = sum(step["decision"] == "error" for step in merged)
        scores = [step for step in merged if step["examples_total"] > 0]
        decided = sum(step["decision"] in ("keep", "discard") for step in scores)
        return Costs(
            failed + decided,
            _examples(scored),
            _examples(cached),
            round(sum(event["merge_seconds"] for event in every), 3),
            round(sum(event["eval_seconds"] for event in scored), 3),
            last.get("peak_device_gib"),
            last.get("peak_host_gib"),
        )

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["event"] == kind]

    def text(self, name: str) -> str | None:
        """The content of a file beside the journal, or why it cannot be read; None if missing."""
        file = self.folder / name
        if not os.path.lexists(file):
            return None
        try:
            return read_bytes(own(file), _MOST).decode(errors="replace")
        except ConfigError as error:
            return str(error)


def _examples(scorings: Sequence[Event]) -> int:
    return sum(number for event in scorings for _, number in event["parts"].values())
