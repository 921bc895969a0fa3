"""`trajectory.csv`: what the run did, one row a step, there and current at every moment."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import pandas as pd

from soupkitchen.records.tables import DIGITS, joined, write_csv


@dataclass(frozen=True)
class Step:
    """One row. Scores are as the metric gives them, except `gain`, where more is always better.

    Attributes:
        stage: "rank" (a run by itself), "merge" (a candidate soup) or "final"
            (a model of the final table).
        candidate: what was scored: the run, the run merged in, or the model's name.
        decision: "start", "keep" or "discard"; empty where nothing was decided.
        split: "heldout" or "test".
        score: empty where it was not needed.
        best_before: the soup's score before this step.
        gain: how much better than `best_before`.
        soup_size: ingredients in the soup after the decision.
        ingredients: what the scored weights are made of, in merge order.
        examples_scored, examples_total: of the split.
        stopped_early: whether scoring stopped as soon as the decision was certain.
        merge_seconds: reading the candidate, merging, and filling the model.
        eval_seconds: the forward passes and the metric.
        cached: whether the score was taken from an earlier evaluation.
        rule: what the gain had to be for the candidate to stay.
    """

    stage: str
    candidate: str
    decision: str = ""
    split: str = "heldout"
    metric: str = ""
    score: float | None = None
    best_before: float | None = None
    gain: float | None = None
    soup_size: int | None = None
    ingredients: tuple[str, ...] = field(default=())
    examples_scored: int = 0
    examples_total: int = 0
    stopped_early: bool = False
    merge_seconds: float = 0.0
    eval_seconds: float = 0.0
    cached: bool = False
    rule: str = ""


class Trajectory:
    """The steps so far; the file is replaced whenever one is added."""

    COLUMNS = ("step", *(column.name for column in fields(Step)))

    def __init__(self, file: Path) -> None:
        self.file = file
        self.steps: list[Step] = []
        self._write()

    def add(self, step: Step) -> None:
        self.steps.append(step)
        self._write()

    def table(self) -> pd.DataFrame:
        rows = [
            {
                "step": number,
                **asdict(step),
                "ingredients": joined(step.ingredients),
                "gain": None if step.gain is None else round(step.gain, DIGITS),
                "merge_seconds": round(step.merge_seconds, 3),
                "eval_seconds": round(step.eval_seconds, 3),
            }
            for number, step in enumerate(self.steps)
        ]
        return pd.DataFrame(rows, columns=list(self.COLUMNS)).astype({"soup_size": "Int64"})

    def _write(self) -> None:
        write_csv(self.file, self.table())
