"""`trajectory.csv`: what the run did, one row a step; a function of the journal's events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import pandas as pd

from soupkitchen.records.tables import DIGITS, INGREDIENT_SEPARATOR, joined
from soupkitchen.store.events import STEP, Step

_FIELDS = [column.name for column in fields(Step)]
COLUMNS = ("step", *(name for name in _FIELDS if name not in ("tasks", "choice")))


def trajectory(events: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The table that a journal's events make."""
    events = list(events)
    steps = [Step(**{name: event[name] for name in _FIELDS}) for event in events if event["event"] == STEP]
    return table_of(steps, tasks_of(events))


def tasks_of(events: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The tasks that have columns of their own, as a journal's first event says."""
    return tuple(events[0].get("columns", ())) if events else ()


def table_of(steps: Sequence[Step], tasks: Sequence[str] = (), first: int = 0) -> pd.DataFrame:
    """The table of some steps.

    Args:
        tasks: those that have columns of their own.
        first: the number of the first of the steps.
    """
    rows = [
        {
            "step": number,
            **vars(step),
            "ingredients": joined(step.ingredients),
            "coefficients": _coefficients(step.coefficients),
            **{gain: _rounded(getattr(step, gain)) for gain in ("gain", "gain_low", "gain_high")},
            **{f"score_{task}": step.tasks.get(task) for task in tasks},
            "merge_seconds": round(step.merge_seconds, 3),
            "eval_seconds": round(step.eval_seconds, 3),
        }
        for number, step in enumerate(steps, first)
    ]
    columns = [*COLUMNS, *(f"score_{task}" for task in tasks)]
    table = pd.DataFrame(rows, columns=columns)
    for column in ("soup_size", "fixed", "broken"):  # one by one: twice as fast as the whole table
        table[column] = table[column].astype("Int64")
    return table


def _coefficients(coefficients: Sequence[float | Sequence[float]]) -> str:
    """In one cell: ``0.5;1`` or, by part of the depth, ``0.5/0.4;1/0.9``; nothing where all are 1."""
    parts = [[weight] if isinstance(weight, (int, float)) else weight for weight in coefficients]
    if all(number == 1 for numbers in parts for number in numbers):
        return ""
    return INGREDIENT_SEPARATOR.join("/".join(f"{number:g}" for number in numbers) for numbers in parts)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
