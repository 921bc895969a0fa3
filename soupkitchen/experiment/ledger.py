"""The only writer of a run's journal, and of the tables that follow from it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from soupkitchen.errors import JournalError
from soupkitchen.evaluation.peaks import UNKNOWN, Peak
from soupkitchen.records import Entry, Step, append_csv, leaderboard, trajectory, write_csv
from soupkitchen.records.trajectory import table_of, tasks_of
from soupkitchen.store.events import CONTRIBUTION, ENTRY, STEP, Event
from soupkitchen.store.journal import FORMAT, Journal, read
from soupkitchen.store.layout import JOURNAL, LEADERBOARD, TRAJECTORY

log = logging.getLogger(__name__)

_CHECKED = ("stage", "candidate", "variant", "split", "decision")
"""What a step that is taken again has to have in common with what the journal says of it."""


class Observer(Protocol):
    """Watches a run: a tracker, what a terminal shows."""

    def noted(self, event: Event, anew: bool) -> None:
        """Is told of an event of the journal; `anew` is false for what an interrupted run has left."""


class Ledger:
    """Notes what happens, event by event, and brings `trajectory.csv` up to date with each step.

    Where a run is continued, whatever happened before is asked for again in the same order; it is then
    checked and not noted twice.

    Args:
        folder: the run's; None to keep everything in memory.
        observers: are told of each event once it is on disk; when the run begins, of those from before.
    """

    def __init__(self, folder: Path | None, observers: Sequence[Observer] = ()) -> None:
        self.folder = folder
        self._journal = Journal(None if folder is None else folder / JOURNAL)
        self._observers = tuple(observers)
        self._rows = 0

    @property
    def events(self) -> list[Event]:
        """All events of the journal."""
        return self._journal.events

    @property
    def replaying(self) -> bool:
        """Whether something that happened before has not been asked for yet."""
        return self._journal.replaying

    def begin(
        self, versions: Mapping[str, str], depends: Mapping[str, Mapping[str, str]], **told: Any
    ) -> None:
        """Notes what the run depends on or, where it is continued, checks that this is as it was.

        Args:
            versions: of packages; where another is there now, the log says so.
            depends: digests by kind and name.
            told: what tables need to know of the whole run.

        Raises:
            JournalError: where something that it depends on is not as it was.
        """
        begun = self._journal.recall(event="begin")
        if begun is None:
            self._add(event="begin", format=FORMAT, versions=dict(versions), **depends, **told)
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
        self._rows = sum(event["event"] == STEP for event in self.events)
        self._write_trajectory()

    def recall_scoring(self, key: str, split: str) -> Event:
        """What the journal says came of scoring what is known as `key`: a "score" or an "error".

        Raises:
            JournalError: where something else happened.
        """
        following = self._journal.peek()
        failed = following is not None and following["event"] == "error"
        event = self._journal.recall(event="error" if failed else "score", key=key, split=split)
        assert event is not None
        return event

    def scored(self, **told: Any) -> None:
        """Notes an evaluation."""
        self._add(event="score", **told)

    def failed(self, key: str, split: str, what: str, reason: str) -> None:
        """Notes that something cannot be scored."""
        self._add(event="error", key=key, split=split, what=what, reason=reason)

    def step(self, step: Step) -> None:
        """Notes a row of the trajectory."""
        told = asdict(step)
        if not self._journal.recall(event=STEP, **{name: told[name] for name in _CHECKED}):
            self._add(event=STEP, **told)
            self._add_row(step)

    def entry(self, entry: Entry) -> None:
        """Notes a row of the leaderboard."""
        if not self._journal.recall(event=ENTRY, model=entry.model, kind=entry.kind):
            self._add(event=ENTRY, **asdict(entry))

    def contribution(self, ingredient: str, score: float) -> None:
        """Notes what the soup scores on held-out without one of its ingredients, higher better."""
        if not self._journal.recall(event=CONTRIBUTION, ingredient=ingredient):
            self._add(event=CONTRIBUTION, ingredient=ingredient, score=score)

    def saved(self) -> bool:
        """Whether the soup was saved before, and this is what happened next."""
        return self._journal.recall(event="saved") is not None

    def save(self, recipe: Mapping[str, Any]) -> None:
        """Notes that the soup is saved, and of what it is made."""
        self._add(event="saved", recipe=dict(recipe))

    def finish(
        self, greater_is_better: bool, peak: Peak = UNKNOWN, last: Callable[[], None] = lambda: None
    ) -> None:
        """Notes that all is done and how much memory it took, and writes the leaderboard.

        Args:
            last: makes what follows from all that happened: a run with a leaderboard counts as finished.
        """
        told = {"event": "finish", "greater_is_better": greater_is_better}
        if self._journal.recall(**told) is None:
            self._add(**told, peak_device_gib=peak.device, peak_host_gib=peak.host)
        last()
        if self.folder is not None:
            write_csv(self.folder / LEADERBOARD, leaderboard(self.events))

    def _add(self, **event: Any) -> None:
        self._tell(self._journal.add(**event), anew=True)

    def _tell(self, event: Event, anew: bool) -> None:
        for observer in self._observers:
            observer.noted(event, anew)

    def _add_row(self, step: Step) -> None:
        if self.folder is None:
            return
        if (file := self.folder / TRAJECTORY).exists():
            append_csv(file, table_of([step], tasks_of(self.events), self._rows))
        else:
            self._write_trajectory()
        self._rows += 1

    def _write_trajectory(self) -> None:
        if self.folder is not None:
            write_csv(self.folder / TRAJECTORY, trajectory(self.events))


def last_recipe(file: Path) -> Mapping[str, Any]:
    """The recipe of the soup that a run saved, as its journal says.

    Raises:
        JournalError: where it saved none.
    """
    for event in reversed(read(file)):
        if event["event"] == "saved":
            recipe: Mapping[str, Any] = event["recipe"]
            return recipe
    raise JournalError(f"{file}: the run has saved no soup yet: the same command continues it")


def _different(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The keys whose values differ, or that are in one only."""
    return sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
