"""The exceptions for errors that the user can put right.

Each message says what is wrong, where (file, run, tensor, option), and what to do about it. They are raised
where the cause is known and shown once, without a traceback, by the entry point.
"""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class SoupkitchenError(Exception):
    """The root: everything that soupkitchen itself raises on purpose."""


class ConfigError(SoupkitchenError):
    """An option that is misspelt, missing, or contradicts another."""


class CheckpointError(SoupkitchenError):
    """A checkpoint that cannot be found or read."""


class IncompatibleError(SoupkitchenError):
    """Checkpoints that cannot be merged with one another."""


class DataError(SoupkitchenError):
    """A dataset, split, column or label that is not what the task needs."""


class MetricError(SoupkitchenError):
    """A metric that does not exist or cannot be had offline."""


class SaveError(SoupkitchenError):
    """Results that could not be written."""


class JournalError(SoupkitchenError):
    """A run's journal that cannot be written, or does not fit what is run."""


class LockError(SoupkitchenError):
    """A run's folder that another process works in."""


class MachineError(SoupkitchenError):
    """A failure of a disk, a device or the memory, and not of any weights."""


class CandidateError(SoupkitchenError):
    """A candidate that cannot be scored, and that the run cannot go on without."""


class SweepError(SoupkitchenError):
    """Jobs of a sweep that failed, each with its reason."""


class GuaranteeError(SoupkitchenError):
    """A promise that did not hold when it was checked. Please report it."""


@contextmanager
def calling(what: str = "") -> Iterator[None]:
    """Turns an exit in the user's own code, named by the option `what`, into an error.

    Raises:
        ConfigError: if that code ends the process, which would look as if the run had succeeded.
    """
    try:
        yield
    except SystemExit as stop:
        library = ("<", os.__file__.removesuffix("os.py"))
        frames = traceback.extract_tb(stop.__traceback__)
        where = next(
            (frame for frame in reversed(frames) if not frame.filename.startswith(library)), frames[-1]
        )
        raise ConfigError(
            f"{what}{': ' if what else ''}{where.name} ({where.filename}, line {where.lineno}) ends the "
            f"process by sys.exit({stop.code!r}), and there would be no soup; return, or raise an error"
        ) from stop


def did_you_mean(word: str, words: Iterable[str]) -> str:
    """The end of a message about `word`: the nearest of `words`, or nothing if none is near."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its class if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()


def first_of(names: Sequence[str], most: int) -> str:
    """At most so many of the names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
