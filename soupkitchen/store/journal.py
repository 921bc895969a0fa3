"""What happened in a run: one JSON object a line, each on disk before it is acted on.

A run that was killed is continued by replaying it: whatever asks for something to happen is
first given what the journal says happened, in the same order, and only then does
anything happen anew. So a run's decisions need no other state than this file, and its tables are
functions of it.

Numbers that JSON has no words for are written as the texts NaN, Infinity and -Infinity.
"""

from __future__ import annotations

import json
import math
import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from soupkitchen.errors import JournalError
from soupkitchen.store.files import sync

Event = dict[str, Any]

FORMAT = 2
"""What a journal of this version says of itself in its first event."""

_NUMBER = (int, float)
_OR_NONE = (*_NUMBER, type(None))
_NUMBERS = "score merge_seconds eval_seconds"
_NUMBERS_OR_NONE = (
    "score_on_part score_at_most best_before gain gain_low gain_high p_value "
    "fixed broken soup_size test_score peak_device_gib peak_host_gib"
)
_TYPES: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys("event key split what reason candidate stage variant decision metric rule".split(), str),
    "stopped_by": str,
    **dict.fromkeys("runs base data versions parts recipe tasks test_tasks".split(), dict),
    **dict.fromkeys("complete cached greater_is_better stopped_early".split(), bool),
    **dict.fromkeys("ingredients coefficients".split(), list),
    **dict.fromkeys(_NUMBERS.split(), _OR_NONE),
    **dict.fromkeys(_NUMBERS_OR_NONE.split(), _OR_NONE),
    **dict.fromkeys("batch_size examples_scored examples_total format".split(), int),
    "interval": (list, type(None)),
    "model": (dict, str),
    "predictions": (str, type(None)),
}
"""Of an event's entries, wherever they are."""

_NUMERIC = {*_NUMBERS.split(), *_NUMBERS_OR_NONE.split(), "parts", "tasks", "test_tasks", "interval"}
"""Entries whose values, or what is in them, are numbers."""
_WORDS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class Journal:
    """An append-only file of events.

    A last line that was cut off, by a kill or a full disk, is dropped when the file is opened.

    Attributes:
        events: all of them, those from before first.

    Args:
        file: is made when the first event is added; None for a journal that is kept nowhere.

    Raises:
        JournalError: where an earlier line is damaged.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self.events = [] if file is None else read(file, mend=True)
        self._waiting = deque(self.events)
        self._is_there = bool(self.events)
        self.events_before = len(self.events)
        """How many events the file had when it was opened."""

    @property
    def replaying(self) -> bool:
        """Whether there are events that have not been asked for yet."""
        return bool(self._waiting)

    def recall(self, **what: Any) -> Event | None:
        """The next event of the journal, whose entries have to be those of `what`; None where there is none.

        Raises:
            JournalError: where something else happened.
        """
        if not self._waiting:
            return None
        event = self._waiting[0]
        told = {key: event.get(key) for key in what}
        if told != what:
            raise JournalError(
                f"{self.file} does not fit this run: next in it is {_shown(told)}, but now it would be "
                f"{_shown(what)}. Was soupkitchen changed since? overwrite=true starts anew and keeps the "
                "old results aside"
            )
        return self._waiting.popleft()

    def peek(self) -> Event | None:
        """The next event of the journal, without taking it. An entry that it lacks is a `JournalError`."""
        return self._waiting[0] if self._waiting else None

    def add(self, **event: Any) -> Event:
        """Writes an event and waits until it is on disk.

        Raises:
            JournalError: where the disk is full; the journal is then as it was. Or where it was taken away.
        """
        self.events.append(event)
        if self.file is None:
            return event
        try:
            self._write(f"{json.dumps(_worded(event), allow_nan=False)}\n".encode())
        except BaseException:
            self.events.pop()
            raise
        return event

    def once(self, **event: Any) -> Event:
        """Makes sure that `event` is in the journal: as the next of those before, or as a new one."""
        return self.recall(**event) or self.add(**event)

    def _write(self, line: bytes) -> None:
        assert self.file is not None
        is_new = not self.file.exists()
        if is_new and self._is_there:
            raise JournalError(f"{self.file} is gone: something removed or renamed it while the run worked")
        descriptor = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(descriptor).st_size
            try:
                written = 0
                while written < len(line):
                    written += os.write(descriptor, line[written:])
                sync(descriptor)
            except OSError as error:
                os.ftruncate(descriptor, size)
                raise JournalError(
                    f"{self.file} cannot be written ({error.strerror}). Nothing is lost: make room, and the "
                    "same command continues"
                ) from error
        finally:
            os.close(descriptor)
        self._is_there = True
        if is_new:
            _sync_folder(self.file.parent)


def read(file: Path, mend: bool = False) -> list[Event]:
    """The events of a journal. A last line that was cut off is none.

    Args:
        mend: whether such a line is taken off the file.

    Raises:
        JournalError: where an earlier line is damaged, or an earlier version of soupkitchen wrote it.
    """
    try:
        content = file.read_bytes()
    except FileNotFoundError:
        return []
    *lines, torn = content.split(b"\n")
    events: list[Event] = []
    for number, line in enumerate(lines, start=1):
        try:
            events.append(_Recalled(_checked(_numbered(json.loads(line))), file, number))
        except ValueError as error:
            raise _damaged(file, number, str(error)) from error
    if events and events[0]["event"] == "begin" and events[0].get("format", 1) != FORMAT:
        raise JournalError(
            f"{file} was written by another version of soupkitchen, which does not tell what this one needs. "
            "Finish that run with that version, or start anew with overwrite=true, which keeps the old "
            "results aside"
        )
    if torn and mend:
        with file.open("r+b") as handle:
            handle.truncate(len(content) - len(torn))
    return events


def last_event(file: Path) -> Event:
    """The last event that a journal has, whoever writes it; empty where none can be read."""
    try:
        event = json.loads(file.read_bytes().split(b"\n")[-2])
    except (OSError, ValueError, IndexError):
        return {}
    return event if isinstance(event, dict) else {}


class _Recalled(Event):
    """An event that a journal had. A person may have edited it."""

    def __init__(self, event: Event, file: Path, number: int) -> None:
        super().__init__(event)
        self._file, self._number = file, number

    def __missing__(self, entry: str) -> Any:
        raise _damaged(self._file, self._number, f"it has no {entry!r}")


def _worded(value: Any) -> Any:
    """`value` with words for numbers that JSON has none for."""
    if isinstance(value, Mapping):
        return {key: _worded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_worded(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _numbered(event: Any) -> Any:
    """`event` with the numbers again, where its entries are numbers."""
    if not isinstance(event, dict):
        return event
    return {key: _back(value) if key in _NUMERIC else value for key, value in event.items()}


def _back(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _back(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_back(part) for part in value]
    return _WORDS.get(value, value) if isinstance(value, str) else value


def _checked(event: Any) -> Event:
    if not (isinstance(event, dict) and "event" in event):
        raise ValueError("it is no event")
    for entry, value in event.items():
        if not isinstance(value, _TYPES.get(entry, object)):
            raise ValueError(f"its {entry!r} is {value!r}")
    for part in event.get("parts", {}).values():
        if not (isinstance(part, list) and len(part) == 2 and all(isinstance(one, _NUMBER) for one in part)):
            raise ValueError(f"its 'parts' are {event['parts']!r}")
    return event


def _damaged(file: Path, number: int, why: str) -> JournalError:
    return JournalError(
        f"{file} is damaged at line {number} ({why}); overwrite=true starts anew and keeps the old results "
        "aside"
    )


def _shown(what: Event) -> str:
    return ", ".join(f"{key} {value}" for key, value in what.items())


def _sync_folder(folder: Path) -> None:
    """Makes a new file's name last, where the system can."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some shared file systems have no such thing
    finally:
        os.close(descriptor)
