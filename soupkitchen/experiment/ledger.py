"""The only writer of a run's journal and of the tables made from it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from soupkitchen.errors import JournalError
from soupkitchen.experiment.measuring import UNKNOWN, Peak
from soupkitchen.records import Entry, Step, append_csv, leaderboard, trajectory, write_csv
from soupkitchen.records.tables import table_of, tasks_of
from soupkitchen.store.folder import JOURNAL, LEADERBOARD, TRAJECTORY
from soupkitchen.store.journal import CONTRIBUTION, ENTRY, FORMAT, STEP, Event, Journal, read

log = logging.getLogger(__name__)

_CHECKED = ("stage", "candidate", "variant", "split", "decision")
"""The entries of a step that a continued run has to repeat."""


class Observer(Protocol):
    """Watches a run: a tracker, a terminal's display."""

    def noted(self, event: Event, anew: bool) -> None:
        """Gets a journal event; `anew` is false for those before an interruption."""


class Ledger:
    """Notes events in the journal and steps in `trajectory.csv`.

    A continued run makes the same calls again; they are checked, not noted.

    Args:
        folder: None for memory only.
        observers: get each event once it is on disk; when a run continues, also earlier ones.
    """

    def __init__(self, folder: Path | None, observers: Sequence[Observer] = ()) -> None:
        self.folder = folder
        self._journal = Journal(None if folder is None else folder / JOURNAL)
        self._observers = tuple(observers)

    @property
    def events(self) -> list[Event]:
        return self._journal.events

    @property
    def replaying(self) -> bool:
        """Tells whether earlier events are still to be repeated."""
        return self._journal.replaying

    def begin(
        self, versions: Mapping[str, str], depends: Mapping[str, Mapping[str, str]], **facts: Any
    ) -> None:
        """Notes all that the run depends on, or checks it if the run is continued.

        Args:
            versions: of packages; a change is only logged.
            depends: digests by kind and name.
            facts: for tables.

        Raises:
            JournalError: if a digest changed.
        """
        begun = self._journal.recall(event="begin")
        if begun is None:
            self._add(event="begin", format=FORMAT, versions=dict(versions), **depends, **facts)
        else:
            changed = [
                f"{kind} {name}" for kind in depends for name in _different(begun[kind], depends[kind])
            ]
            if changed:
                raise JournalError(
                    f"changed since this run began: {', '.join(changed)}. Put that back, or start anew with "
                    "overwrite=true, which keeps the old results aside"
                )
            if other := _different(begun["versions"], versions):
                log.warning("the run began with another version of %s", ", ".join(other))
            for event in self._journal.events:
                self._tell(event, anew=False)
            log.info("continuing: %d events are in %s", self._journal.events_before, self._journal.file)
        self._write_trajectory()

    def recall_scoring(self, key: str, split: str) -> Event:
        """The next event, the "score" or "error" of `key`.

        Raises:
            JournalError: if another event is next.
        """
        following = self._journal.peek()
        failed = following is not None and following["event"] == "error"
        event = self._journal.recall(event="error" if failed else "score", key=key, split=split)
        assert event is not None
        return event

    def scored(self, **entries: Any) -> None:
        self._add(event="score", **entries)

    def failed(self, key: str, split: str, what: str, reason: str) -> None:
        self._add(event="error", key=key, split=split, what=what, reason=reason)

    def step(self, step: Step) -> None:
        if self._once(_CHECKED, event=STEP, **asdict(step)) and self.folder is not None:
            rows = sum(event["event"] == STEP for event in self.events)
            if (file := self.folder / TRAJECTORY).exists():
                append_csv(file, table_of([step], tasks_of(self.events), rows - 1))
            else:
                self._write_trajectory()

    def entry(self, entry: Entry) -> None:
        self._once(("model", "kind"), event=ENTRY, **asdict(entry))

    def contribution(self, ingredient: str, score: float) -> None:
        """Notes the soup's score without one ingredient, higher better."""
        self._once(("ingredient",), event=CONTRIBUTION, ingredient=ingredient, score=score)

    def saved(self) -> bool:
        """Tells whether the next event says that the soup was saved."""
        return self._journal.recall(event="saved") is not None

    def save(self, recipe: Mapping[str, Any]) -> None:
        self._add(event="saved", recipe=dict(recipe))

    def finish(
        self, greater_is_better: bool, peak: Peak = UNKNOWN, last: Callable[[], None] = lambda: None
    ) -> None:
        """Notes the end, calls `last`, and writes the leaderboard, which marks the run as finished."""
        memory = {"peak_device_gib": peak.device, "peak_host_gib": peak.host}
        self._once(("greater_is_better",), event="finish", greater_is_better=greater_is_better, **memory)
        last()
        if self.folder is not None:
            write_csv(self.folder / LEADERBOARD, leaderboard(self.events))

    def _once(self, checked: Sequence[str], **event: Any) -> bool:
        """Notes an event unless the next one agrees on `checked`; returns whether it did."""
        if self._journal.recall(**{name: event[name] for name in ("event", *checked)}) is not None:
            return False
        self._add(**event)
        return True

    def _add(self, **event: Any) -> None:
        self._tell(self._journal.add(**event), anew=True)

    def _tell(self, event: Event, anew: bool) -> None:
        for observer in self._observers:
            observer.noted(event, anew)

    def _write_trajectory(self) -> None:
        if self.folder is not None:
            write_csv(self.folder / TRAJECTORY, trajectory(self.events))


def last_recipe(file: Path) -> Mapping[str, Any]:
    """The saved soup's recipe.

    Raises:
        JournalError: if no soup was saved.
    """
    for event in reversed(read(file)):
        if event["event"] == "saved":
            recipe: Mapping[str, Any] = event["recipe"]
            return recipe
    raise JournalError(f"{file}: the run has saved no soup yet: the same command continues it")


def _different(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
