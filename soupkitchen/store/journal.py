"""What happened in a run: one JSON object a line, each on disk before it is acted on.

A run that was killed is continued by replaying it: whatever asks for something to happen is
first given what the journal says happened, in the same order, and only then does
anything happen anew. So a run's decisions need no other state than this file, and its tables are
functions of it.

Numbers that JSON has no words for are written as the texts NaN, Infinity and -Infinity. Each line ends with a
digest of itself, so that an edit or a flipped bit does not get into tables.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import ConfigDict, StringConstraints
from typing_extensions import Required, TypedDict
from xxhash import xxh3_64_hexdigest

from soupkitchen.errors import JournalError
from soupkitchen.store.documents import checked, open_regular, own, read_bytes
from soupkitchen.store.files import sync

Event = dict[str, Any]

FORMAT = 2
"""What a journal of this version says of itself in its first event."""

_Count = Annotated[int, Ge(0), Le(2**53)]
_Digests = dict[str, str]


class _Event(TypedDict, total=False):
    """An event's entries, wherever they are. One that is missing is an error once it is asked for."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    event: Required[str]
    format: _Count
    key: str
    split: str
    what: str
    reason: str
    candidate: str
    stage: str
    variant: str
    decision: str
    rule: str
    metric: str
    stopped_by: str
    model_class: str
    ingredient: str
    kind: Literal["soup", "single", "uniform", "partial", "listed"]
    model: _Digests | str
    runs: _Digests
    base: _Digests
    task: _Digests
    data: _Digests
    versions: _Digests
    columns: list[str]
    ingredients: list[str]
    coefficients: list[float | list[float]]
    recipe: dict[str, Any]
    parts: dict[str, tuple[float, _Count]]
    tasks: dict[str, float]
    test_tasks: dict[str, float]
    interval: tuple[float, float] | None
    complete: bool
    cached: bool
    greater_is_better: bool
    stopped_early: bool
    predictions: Annotated[str, StringConstraints(pattern=r"^[^/\\]*$")] | None
    batch_size: _Count
    examples_scored: _Count
    examples_total: _Count
    fixed: _Count | None
    broken: _Count | None
    soup_size: _Count | None
    merge_seconds: float
    eval_seconds: float
    score_on_part: float | None
    score_at_most: float | None
    best_before: float | None
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    p_value: float | None
    test_score: float | None
    peak_device_gib: float | None
    peak_host_gib: float | None


class _Step(_Event, total=False):
    score: float | None


class _Scored(_Event, total=False):
    score: float


_MOST, _LAST = 1 << 30, 1 << 16
"""Bytes of a journal, and of its last event, at most."""
_SUMMED = re.compile(rb'(\{.*), "sum": "([0-9a-f]{16})"\}')
"""A line of a journal, and the digest of what it was without that."""


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
            line = json.dumps(_worded(event), allow_nan=False).encode()
            self._write(line[:-1] + f', "sum": "{xxh3_64_hexdigest(line)}"}}\n'.encode())
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
    if not os.path.lexists(file):
        return []
    content = read_bytes(own(file, JournalError), _MOST, JournalError)
    *lines, torn = content.split(b"\n")
    events: list[Event] = []
    summed = False
    for number, line in enumerate(lines, start=1):
        try:
            whole, summed = _whole(line, summed)
            events.append(_Recalled(_typed(json.loads(whole)), file, number))
        except (ValueError, RecursionError, JournalError) as error:
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
    """The last event that a journal has, whoever writes it; empty where none can be read."""
    try:
        with open_regular(own(file, JournalError), JournalError) as handle:
            handle.seek(max(0, handle.seek(0, os.SEEK_END) - _LAST))
            return _typed(json.loads(handle.read(_LAST).split(b"\n")[-2]))
    except (OSError, ValueError, RecursionError, IndexError, JournalError):
        return {}


def _whole(line: bytes, summed: bool) -> tuple[bytes, bool]:
    """A line without the digest of it, and whether it had one; `summed` says that it must.

    Raises:
        ValueError: if it is not what it was.
    """
    if match := _SUMMED.fullmatch(line):
        line, summed = match[1] + b"}", True
    if summed and (match is None or xxh3_64_hexdigest(line).encode() != match[2]):
        raise ValueError("it is not what was written: its sum is another")
    return line, summed


def _typed(event: Any) -> Event:
    is_step = isinstance(event, dict) and event.get("event") == "step"
    told: Event = dict(checked(event, _Step if is_step else _Scored, "what it says", JournalError))
    return told


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
