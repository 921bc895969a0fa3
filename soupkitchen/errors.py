"""The exceptions for errors that the user can fix.

Each message says what is wrong, where (file, run, tensor, option), and what to do. The entry point shows it
once, without a traceback.
"""

from __future__ import annotations

import difflib
import os
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager


class SoupkitchenError(Exception):
    """The base class of soupkitchen's own errors."""


class ConfigError(SoupkitchenError):
    """An option is misspelt, missing, or contradicts another."""


class CheckpointError(SoupkitchenError):
    """A checkpoint cannot be found or read."""


class IncompatibleError(SoupkitchenError):
    """Checkpoints cannot be merged with one another."""


class DataError(SoupkitchenError):
    """A dataset, split, column or label does not fit the task."""


class MetricError(SoupkitchenError):
    """A metric does not exist, or cannot be loaded offline."""


class SaveError(SoupkitchenError):
    """Results could not be written."""


class JournalError(SoupkitchenError):
    """A run's journal cannot be written, or does not fit the run."""


class LockError(SoupkitchenError):
    """Another process works in the run's folder."""


class MachineError(SoupkitchenError):
    """A disk, a device or the memory failed; the weights are not to blame."""


class CandidateError(SoupkitchenError):
    """A candidate cannot be scored, and the run cannot continue without it."""


class SweepError(SoupkitchenError):
    """Jobs of a sweep failed, each with its reason."""


class GuaranteeError(SoupkitchenError):
    """A guarantee did not hold when checked. Please report it."""


@contextmanager
def calling(what: str = "") -> Iterator[None]:
    """Turns an exit in the user's own code, which the option `what` names, into an error.

    Raises:
        ConfigError: if that code ends the process, which would look like success.
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
    """The end of a message about `word`: the nearest of `words`; empty if none is near."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {near[0]}?" if near else ""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or its class if there is none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].strip()


def shown(value: object) -> str:
    """A value as Python writes it, cut if it is long."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def first_of(names: Sequence[str], most: int) -> str:
    """The first names, and the number of further ones."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
