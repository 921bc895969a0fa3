"""`trajectory.csv`: what the run did, one row a step; a function of the journal's events."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pandas as pd

from soupkitchen.records.tables import DIGITS, INGREDIENT_SEPARATOR, joined

STEP = "step"
"""The events that are rows."""


@dataclass(frozen=True)
class Step:
    """One row. Scores are as the metric gives them, except `gain`, where more is always better.

    Attributes:
        stage: "rank" (a run by itself), "merge" (a candidate soup) or "final"
            (a model of the final table).
        candidate: what was scored: the run, the run merged in, or the model's name.
        variant: which variant of the merge method, where it has several.
        decision: "start", "keep" or "discard"; "error" for what could not be scored or scores NaN;
            empty where nothing was decided.
        split: "heldout" or "test".
        score: empty where it was not needed, or not found out in full.
        score_on_part: of a run that is ranked by a part of the examples (``search.ranking``), on that part.
            Where it might be the best, a second row says what it scores on all, or at most; that has
            scored the rest only.
        score_at_most: for a candidate that was not scored in full, what its score can be at
            most (at least, for a loss), or with confidence: too little to be kept.
        best_before: the soup's score before this step.
        gain: how much better than `best_before`.
        gain_low, gain_high: the gain's 95 % paired bootstrap interval.
        p_value: how likely such a gain is by chance, one-sided.
        fixed, broken: examples on which the candidate does better, and worse, than the soup.
        soup_size: ingredients in the soup after the decision.
        ingredients: what the scored weights are made of, in merge order.
        coefficients: what each of them counts, in that order, in each part of the model's depth where these
            differ; empty where all count 1.
        examples_scored, examples_total: of the split.
        stopped_early: whether scoring stopped as soon as the decision was certain enough.
        stopped_by: "exact" where no outcome of the rest could have changed the decision, "confidence" where
            that was as good as sure; else empty.
        merge_seconds: reading the candidate, merging, and filling the model.
        eval_seconds: the forward passes and the metric.
        cached: whether the score was taken from an earlier evaluation.
        rule: what the gain had to be for the candidate to stay.
        reason: of an error.
        tasks: with several tasks, the score of each, in columns ``score_<task>``.
        choice: what candidates have in common of which the best was to be taken; no column.
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
    fixed: int | None = None
    broken: int | None = None
    soup_size: int | None = None
    ingredients: tuple[str, ...] = field(default=())
    coefficients: tuple[float | Sequence[float], ...] = field(default=())
    examples_scored: int = 0
    examples_total: int = 0
    stopped_early: bool = False
    stopped_by: str = ""
    merge_seconds: float = 0.0
    eval_seconds: float = 0.0
    cached: bool = False
    rule: str = ""
    reason: str = ""
    tasks: Mapping[str, float] = field(default_factory=dict)
    choice: str = ""


_ADDED = ("coefficients", "score_on_part", "stopped_by", "choice")
"""Entries that journals of earlier versions lack."""

COLUMNS = ("step", *(column.name for column in fields(Step) if column.name not in ("tasks", "choice")))


def trajectory(events: Iterable[Mapping[str, Any]]) -> pd.DataFrame:
    """The table that a journal's events make."""
    events = list(events)
    return table_of([_step(event) for event in events if event["event"] == STEP], tasks_of(events))


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
            **asdict(step),
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


def _step(event: Mapping[str, Any]) -> Step:
    known = [name for name in Step.__dataclass_fields__ if name in event or name not in _ADDED]
    told: dict[str, Any] = {name: event[name] for name in known}
    for name in ("ingredients", "coefficients"):
        told[name] = tuple(told.get(name, ()))
    told.setdefault("stopped_by", "exact" if told["stopped_early"] else "")
    return Step(**told)


def _coefficients(coefficients: Sequence[float | Sequence[float]]) -> str:
    """In one cell: ``0.5;1`` or, by part of the depth, ``0.5/0.4;1/0.9``; nothing where all are 1."""
    told = [[one] if isinstance(one, (int, float)) else list(one) for one in coefficients]
    if all(number == 1 for one in told for number in one):
        return ""
    return INGREDIENT_SEPARATOR.join("/".join(f"{number:g}" for number in one) for one in told)


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)
