"""The journal of a run: one JSON object a line, each on disk before it is acted on.

A killed run is continued by replaying the journal: before anything happens anew, it is asked what happened,
in the same order. So decisions need no other state than this file, and tables are functions of it.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Any

from soupkitchen.errors import JournalError
from soupkitchen.store.documents import open_regular, own, read_bytes
from soupkitchen.store.events import Event, damaged, event_of, line_of
from soupkitchen.store.files import sync

FORMAT = 2
"""The format that a journal's first event names."""
_MOST, _LAST = 1 << 30, 1 << 16
"""Bytes of a journal, and of its last event, at most."""


class Journal:
    """An append-only file of events.

    A last line that was cut off, by a kill or a full disk, is dropped when the file is opened.

    Attributes:
        events: all of them, those from before first.
        events_before: how many the file had when it was opened.

    Args:
        file: is made when the first event is added; None for a journal that is kept nowhere.

    Raises:
        JournalError: if an earlier line is damaged.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.events = [] if file is None else read(file, mend=True)
        self.events_before = len(self.events)
        self._waiting = deque(self.events)
        self._is_there = bool(self.events)

    @property
    def replaying(self) -> bool:
        """Tells whether there are events that have not been asked for yet."""
        return bool(self._waiting)

    def recall(self, **wanted: Any) -> Event | None:
        """The next event of the journal, which must have these entries; None if there is none.

        Raises:
            JournalError: if something else happened.
        """
        if not self._waiting:
            return None
        actual = {key: self._waiting[0].get(key) for key in wanted}
        if actual != wanted:
            raise JournalError(
                f"{self.file} does not fit this run: next in it is {_shown(actual)}, but now it would be "
                f"{_shown(wanted)}. Was soupkitchen changed since? overwrite=true starts anew and keeps the "
                "old results aside"
            )
        return self._waiting.popleft()

    def peek(self) -> Event | None:
        """The next event of the journal, without taking it."""
        return self._waiting[0] if self._waiting else None

    def add(self, **entries: Any) -> Event:
        """Writes an event and waits until it is on disk.

        Raises:
            JournalError: if the disk is full, and the journal is then as it was; or if it was taken away.
        """
        event = Event(entries)
        if self.file is not None:
            self._write(self.file, line_of(event))
        self.events.append(event)
        return event

    def once(self, **entries: Any) -> Event:
        """Makes sure that an event is in the journal: as the next of those before, or as a new one."""
        return self.recall(**entries) or self.add(**entries)

    def _write(self, file: Path, line: bytes) -> None:
        is_new = not file.exists()
        if is_new and self._is_there:
            raise JournalError(f"{file} is gone: something removed or renamed it while the run worked")
        with file.open("ab", buffering=0) as handle:
            size = handle.seek(0, os.SEEK_END)
            try:
                written = 0
                while written < len(line):
                    written += handle.write(line[written:])
                sync(handle.fileno())
            except OSError as error:
                handle.truncate(size)
                raise JournalError(
                    f"{file} cannot be written ({error.strerror}). Nothing is lost: make room, and the "
                    "same command continues"
                ) from error
        self._is_there = True
        if is_new:
            _sync_folder(file.parent)


def read(file: Path, mend: bool = False) -> list[Event]:
    """The events of a journal. A last line that was cut off is none.

    Args:
        mend: whether such a line is taken off the file.

    Raises:
        JournalError: if an earlier line is damaged, or another version of soupkitchen wrote it.
    """
    if not os.path.lexists(file):
        return []
    content = read_bytes(own(file, JournalError), _MOST, JournalError)
    *lines, torn = content.split(b"\n")
    events = [_event(line, file, number) for number, line in enumerate(lines, start=1)]
    if torn and mend:
        os.truncate(file, len(content) - len(torn))
    return events


def begun(file: Path) -> list[Event]:
    """The events of the journal of a run that has begun.

    Raises:
        JournalError: as `read` does, and if there is none.
    """
    events = read(file)
    if not events or events[0]["event"] != "begin":
        raise JournalError(
            f"{file} tells of no run that has begun: run the command that made its folder again"
        )
    return events


def last_event(file: Path) -> Event:
    """The last event of a journal, even while it is written; empty if none can be read."""
    try:
        with open_regular(own(file, JournalError), JournalError) as handle:
            handle.seek(max(0, handle.seek(0, os.SEEK_END) - _LAST))
            return event_of(handle.read(_LAST).split(b"\n")[-2])
    except (OSError, ValueError, RecursionError, IndexError, JournalError):
        return Event()


def _event(line: bytes, file: Path, number: int) -> Event:
    try:
        event = event_of(line)
    except (ValueError, RecursionError, JournalError) as error:
        raise damaged(file, number, str(error)) from error
    event.file, event.line = file, number
    if event["event"] == "begin" and event["format"] != FORMAT:
        raise JournalError(
            f"{file} was written by another version of soupkitchen, which does not tell what this one needs. "
            "Finish that run with that version, or start anew with overwrite=true, which keeps the old "
            "results aside"
        )
    return event


def _shown(entries: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in entries.items())


def _sync_folder(folder: Path) -> None:
    """Makes a new file's name last, if the system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some shared file systems have no such thing
    finally:
        os.close(descriptor)
