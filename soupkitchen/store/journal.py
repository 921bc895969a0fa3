"""The journal of a run: one JSON object a line, each on disk before it is acted on.

A killed run is continued by replaying the journal: before anything happens anew, it is asked what happened,
in the same order. So decisions need no other state than this file, and tables are functions of it.

A journal may come from a stranger, so each event is checked when it is read. Numbers that JSON has no words
for are written as the texts NaN, Infinity and -Infinity. Each line ends with a digest of itself, so that an
edit or a flipped bit does not get into tables.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le
from pydantic import ConfigDict, StringConstraints
from typing_extensions import Required, TypedDict
from xxhash import xxh3_64_hexdigest

from soupkitchen.errors import JournalError
from soupkitchen.store.files import checked, open_regular, own, read_bytes, sync

STEP, ENTRY, CONTRIBUTION = "step", "entry", "contribution"
"""Events: a row of the trajectory, a row of the leaderboard, the worth of an ingredient."""

_Count = Annotated[int, Ge(0), Le(2**53)]
_Digests = dict[str, str]
_SUMMED = re.compile(rb'(\{.*), "sum": "([0-9a-f]{16})"\}')
FORMAT = 3


@dataclass(frozen=True)
class Step:
    """A row of the trajectory. Scores have the metric's own sign; a higher `gain` is always better.

    Attributes:
        stage: "rank" (a run by itself), "merge" (a candidate soup) or "final" (a model of the final table).
        candidate: the scored run, the run merged in, or the model's name.
        variant: the variant of the merge method, if there are several.
        decision: "start", "keep" or "discard"; "error" if it cannot be scored or scores NaN; empty if nothing
            was decided.
        split: "heldout" or "test".
        score: empty if not computed in full.
        score_on_part: the score on a part of the examples, for ranking (``search.ranking``). If the run may
            be the best, a second row scores the rest.
        score_at_most: the score's bound if scoring stopped early; for a loss, the least.
        best_before: the soup's score before this step.
        gain: the improvement on `best_before`.
        gain_low, gain_high: the gain's 95 % paired bootstrap interval.
        p_value: the one-sided probability of this gain by chance.
        fixed, broken: numbers of examples on which the candidate is better and worse than the soup.
        soup_size: ingredients in the soup after the decision.
        ingredients: those of the scored weights, in merge order.
        coefficients: the ingredients' weights; lists if they differ by part of the depth.
        examples_scored, examples_total: of the split.
        stopped_early: scoring stopped before the end.
        stopped_by: "exact" if the rest could not change the decision, "confidence" if that was almost
            certain; else empty.
        explained: the share of the variance of its differences to the soup that was predicted by what runs do
            by themselves, if that stopped the scoring.
        merge_seconds: reading, merging and filling the model.
        eval_seconds: forward passes and metric.
        cached: the score comes from an earlier evaluation.
        rule: the gain that was required.
        reason: the error's, or the floors that it is below (`task.floors`).
        tasks: each task's score, if there are several, in columns ``score_<task>``.
        choice: the same number for candidates of which the best is taken; not a column.
    """

    stage: str
    candidate: str
    variant: str = ""
    decision: str = ""
    split: str = "heldout"
    metric: str = ""
    score: float | None = None
    score_on_part: float | None = None
    score_at_most: float | None = None
    best_before: float | None = None
    gain: float | None = None
    gain_low: float | None = None
    gain_high: float | None = None
    p_value: float | None = None
    fixed: _Count | None = None
    broken: _Count | None = None
    soup_size: _Count | None = None
    ingredients: tuple[str, ...] = ()
    coefficients: tuple[float | Sequence[float], ...] = ()
    examples_scored: _Count = 0
    examples_total: _Count = 0
    stopped_early: bool = False
    stopped_by: str = ""
    explained: float | None = None
    merge_seconds: float = 0.0
    eval_seconds: float = 0.0
    cached: bool = False
    rule: str = ""
    reason: str = ""
    tasks: Mapping[str, float] = field(default_factory=dict)
    choice: str = ""


@dataclass(frozen=True)
class Entry:
    """A model of the leaderboard. Higher is better for `score`, `test_score` and the interval.

    Attributes:
        kind: "single", "uniform" or "soup"; "partial" for a run scored on a part of the held-out data,
            "listed" for one with a score from the user's list.
        interval: 95 % bootstrap interval of the held-out score.
        tasks, test_tasks: each task's score, with its metric's own sign.
    """

    model: str
    kind: Annotated[str, StringConstraints(pattern="^(soup|single|uniform|partial|listed)$")]
    ingredients: tuple[str, ...]
    score: float
    test_score: float | None = None
    interval: tuple[float, float] | None = None
    tasks: Mapping[str, float] = field(default_factory=dict)
    test_tasks: Mapping[str, float] = field(default_factory=dict)


class _Other(TypedDict, total=False):
    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]

    event: Required[str]
    format: _Count
    key: str
    split: str
    what: str
    reason: str
    metric: str
    model_class: str
    ingredient: str
    model: _Digests
    runs: _Digests
    base: _Digests
    task: _Digests
    data: _Digests
    versions: _Digests
    columns: list[str]
    recipe: dict[str, Any]
    parts: dict[str, tuple[float, _Count]]
    score: float
    best: float | None
    cached: bool
    complete: bool
    greater_is_better: bool
    predictions: Annotated[str, StringConstraints(pattern=r"^[^/\\]*$")] | None
    batch_size: _Count
    examples_total: _Count
    explained: float | None
    merge_seconds: float
    eval_seconds: float
    peak_device_gib: float | None
    peak_host_gib: float | None


class Event(dict[str, Any]):
    file: Path | None = None
    line = 0

    def __missing__(self, entry: str) -> Any:
        raise damaged(self.file, self.line, f"it has no {entry!r}")


def damaged(file: Path | None, line: int, why: str) -> JournalError:
    return JournalError(
        f"{file} is damaged at line {line} ({why}); overwrite=true starts anew and keeps the old results "
        "aside"
    )


def line_of(event: Mapping[str, Any]) -> bytes:
    line = json.dumps(_worded(event), allow_nan=False).encode()
    return line[:-1] + f', "sum": "{xxh3_64_hexdigest(line)}"}}\n'.encode()


def event_of(line: bytes) -> Event:
    """Parses a line.

    Raises:
        ValueError: if the line was altered, or is no JSON.
        JournalError: if a field has a wrong type.
    """
    match = _SUMMED.fullmatch(line)
    if match is None or xxh3_64_hexdigest(whole := match[1] + b"}").encode() != match[2]:
        raise ValueError("it is not what was written: its sum is another")
    tree = json.loads(whole)
    name = "what it says"
    match tree:
        case {"event": "step"}:
            return Event(event=STEP, **vars(checked(tree, Step, name, JournalError)))
        case {"event": "entry"}:
            return Event(event=ENTRY, **vars(checked(tree, Entry, name, JournalError)))
    return Event(checked(tree, _Other, name, JournalError))


def _worded(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _worded(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_worded(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


_MOST, _LAST = 1 << 30, 1 << 16


class Journal:
    """An append-only file of events.

    Opening it drops a last line that was cut off.

    Attributes:
        events: all events.
        events_before: the number of events at opening.

    Args:
        file: created with the first event; None for no file.

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
        return bool(self._waiting)

    def recall(self, **wanted: Any) -> Event | None:
        """The next earlier event, which must have these entries; None if there is none.

        Raises:
            JournalError: if it is another event.
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
        return self._waiting[0] if self._waiting else None

    def add(self, **entries: Any) -> Event:
        """Writes an event and syncs it to disk.

        Raises:
            JournalError: if the disk is full (the journal is then unchanged), or the file was removed.
        """
        event = Event(entries)
        if self.file is not None:
            self._write(self.file, line_of(event))
        self.events.append(event)
        return event

    def once(self, **entries: Any) -> Event:
        """Replays the event, or adds it if no earlier event is left."""
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
    """The events of a journal, without a last line that was cut off.

    Args:
        mend: remove that line from the file.

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
    """The events of a run that has begun.

    Raises:
        JournalError: as `read` does, and if there is no journal.
    """
    events = read(file)
    if not events or events[0]["event"] != "begin":
        raise JournalError(
            f"{file} tells of no run that has begun: run the command that made its folder again"
        )
    return events


def last_event(file: Path) -> Event:
    """The last event of a journal that may be in use; empty if none can be read."""
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
    descriptor = os.open(folder, os.O_RDONLY)
    with suppress(OSError):  # some shared file systems have no such thing
        os.fsync(descriptor)
    os.close(descriptor)
