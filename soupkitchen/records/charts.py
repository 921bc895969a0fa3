"""The figures of a report, made of a run's tables. Knows no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from soupkitchen.records.figures import Box, Dot, Figure, Line, Mark, Words, ticks

WIDTH = 760.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 16.0, 14.0, 36.0


class Scale:
    """Where values lie, with round numbers beside."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        finite = [value for value in values if value is not None and math.isfinite(value)] or [0.0]
        low, high = min(finite), max(finite)
        room = (high - low) * 0.06 or abs(high) * 0.05 or 1.0
        self.low, self.high, self._start, self._end = low - room, high + room, start, end

    def __call__(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self._start + min(max(share, -0.02), 1.02) * (self._end - self._start)

    def ticks(self) -> list[float]:
        return ticks(self.low, self.high)


def short(value: float | None) -> str:
    """A score as people read it."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def trajectory_figure(steps: pd.DataFrame, metric: str, sign: int) -> Figure:
    """The score after each step: runs, candidates kept and discarded, the soup so far, the best single."""
    rows = steps[steps["stage"].isin(["rank", "merge"]) & (steps["split"] == "heldout")]
    height, told = 320.0, []
    for row in rows.to_dict("records"):
        score = next(
            (row[name] for name in ("score", "score_at_most", "score_on_part") if known(row[name])), None
        )
        told.append((row, score))
    ends = [end for row, _ in told for end in _interval(row, sign)]
    y = Scale([*ends, *(score for _, score in told if score is not None)], height - BOTTOM, TOP)
    x = _steps_scale(len(told))
    marks: list[Mark] = frame(y, height, f"{metric}, held-out")
    singles = [float(row["score"]) for row, _ in told if row["stage"] == "rank" and known(row["score"])]
    if singles:
        best = max(singles, key=lambda score: sign * score)
        marks.append(_level(y(best), "single"))
        marks.append(Words("single", x=WIDTH - RIGHT, y=y(best) - 5, text="best single run", anchor="end"))
    path: list[tuple[float, float]] = []
    for number, (row, _) in enumerate(told):
        if row["decision"] in ("start", "keep") and known(row["score"]):
            path += [(x(number), path[-1][1])] if path else []
            path.append((x(number), y(row["score"])))
        if path and number == len(told) - 1:
            path.append((x(number), path[-1][1]))
    if path:
        marks.append(Line("soup", points=path, width=2))
    for number, (row, score) in enumerate(told):
        if score is None:
            continue
        if ends := _interval(row, sign):
            marks.append(Line("faint", points=[(x(number), y(end)) for end in ends]))
        marks.append(_step_mark(row, x(number), y(score), score))
    marks += _names_below([row["candidate"] for row, _ in told], x, height)
    return Figure(f"{metric} on held-out after each step", WIDTH, height, marks)


def models_figure(table: pd.DataFrame, metric: str) -> Figure:
    """Every model, held-out beside test."""
    heldout, test = f"heldout_{metric}", f"test_{metric}"
    shown = table.head(40)
    height = TOP + 22.0 * len(shown) + BOTTOM
    left = LEFT + 150
    values = [*shown[heldout], *shown[test], *shown["ci_low"], *shown["ci_high"]]
    x = Scale([value for value in values if known(value)], left, WIDTH - RIGHT)
    marks: list[Mark] = []
    for value in x.ticks():
        marks.append(Line("grid", points=[(x(value), TOP), (x(value), height - BOTTOM)], width=1))
        marks.append(Words("faint", x=x(value), y=height - 14, text=f"{value:g}", anchor="middle"))
    for number, row in enumerate(shown.to_dict("records")):
        at, colour = TOP + 22 * number + 11, _colour(row["kind"])
        marks.append(Words(colour, x=left - 10, y=at + 4, text=cut(row["model"], 24), anchor="end"))
        if known(row["ci_low"]):
            points = [(x(row["ci_low"]), at), (x(row["ci_high"]), at)]
            marks.append(Line(colour, points=points, width=1))
        for name, hollow in ((test, True), (heldout, False)):
            if known(row[name]):
                what = "test" if hollow else "held-out"
                said = f"{row['model']}: {what} {short(row[name])}"
                marks.append(Dot(colour, said, row["model"], x(row[name]), at, hollow=hollow))
    return Figure(f"{metric} of every model: filled on held-out, hollow on test", WIDTH, height, marks)


def bars_figure(title: str, bars: Mapping[str, float], colour: str = "soup", unit: str = "") -> Figure:
    """One bar a name, from 0 on."""
    height, left = TOP + 24.0 * len(bars) + 8, LEFT + 150
    reach = [*bars.values(), 0.0]
    low, high = min(reach), max(reach)
    span = (high - low) or 1.0
    zero = left + (0 - low) / span * (WIDTH - RIGHT - 80 - left)
    marks: list[Mark] = []
    for number, (name, value) in enumerate(bars.items()):
        at = TOP + 24 * number
        length = abs(value) / span * (WIDTH - RIGHT - 80 - left)
        start = zero if value >= 0 else zero - length
        said = f"{name}: {_signed(value)}{unit}"
        marks.append(Words(x=left - 10, y=at + 13, text=cut(name, 26), anchor="end"))
        used = colour if value >= 0 else "discarded"
        marks.append(Box(used, said, name, start, at, max(length, 1), 18))
        end = start + max(length, 1) + 6 if value >= 0 else zero + 6
        marks.append(Words("faint", x=end, y=at + 13, text=f"{_signed(value)}{unit}"))
    return Figure(title, WIDTH, height, marks)


def cosines_figure(names: Sequence[str], cosines: np.ndarray) -> Figure:
    """The cosines of task vectors, pair by pair."""
    cell = min(36.0, (WIDTH - LEFT - 130) / len(names))
    left, height = 150.0, TOP + cell * len(names) + 8
    marks: list[Mark] = []
    for row, name in enumerate(names):
        at = TOP + cell * row
        if cell >= 9:
            marks.append(
                Words(x=left - 8, y=at + cell / 2 + 4, text=cut(name, 22), anchor="end", size=min(12, cell))
            )
        for column, other in enumerate(names):
            value = float(cosines[row, column])
            colour = "soup" if value >= 0 else "discarded"
            said = f"{name}, {other}: cosine {value:.2f}"
            box = Box(colour, said, name, left + cell * column, at, cell - 1, cell - 1, min(abs(value), 1.0))
            marks.append(box)
            if cell >= 26:
                middle = left + cell * (column + 0.5)
                ink = "paper" if abs(value) > 0.55 else "ink"
                number = f"{value:.2f}".replace("0.", ".").replace("1.00", "1")
                marks.append(
                    Words(ink, x=middle - 0.5, y=at + cell / 2 + 4, text=number, anchor="middle", size=10.5)
                )
    return Figure("cosines of what fine-tuning changed", left + cell * len(names) + 8, height, marks)


def plane_figure(names: Sequence[str], points: np.ndarray, inside: Sequence[str], soup: str | None) -> Figure:
    """Runs and soup in the plane in which they differ most (two principal components)."""
    height = 380.0
    x = Scale(list(points[:, 0]), 30, WIDTH - 110)
    y = Scale(list(points[:, 1]), height - 24, 20)
    marks: list[Mark] = []
    for name, (across, up) in zip(names, points, strict=True):
        kind = "soup" if name == soup else "single" if name in inside else "faint"
        told = "the soup" if name == soup else "an ingredient" if name in inside else "left out"
        here = x(across), y(up)
        radius = 7 if name == soup else 4.5
        marks.append(Dot(kind, f"{name}: {told}", name, *here, radius=radius, hollow=kind == "faint"))
        marks.append(Words(kind, x=here[0] + 9, y=here[1] + 4, text=cut(name, 20), size=11))
    return Figure("runs and soup in the plane in which they differ most", WIDTH, height, marks)


def frame(y: Scale, height: float, title: str) -> list[Mark]:
    marks: list[Mark] = []
    for value in y.ticks():
        marks.append(Line("grid", points=[(LEFT, y(value)), (WIDTH - RIGHT, y(value))], width=1))
        marks.append(Words("faint", x=LEFT - 6, y=y(value) + 4, text=f"{value:g}", anchor="end"))
    marks.append(Words("faint", x=LEFT, y=11, text=title))
    return marks


def _steps_scale(number: int) -> Any:
    room = (WIDTH - LEFT - RIGHT - 20) / max(number - 1, 1)
    return lambda step: LEFT + 10 + step * room


def _interval(row: Mapping[Any, Any], sign: int) -> list[float]:
    """Where a candidate's score lies with 95 % confidence; nothing where that is not known."""
    if not (known(row["gain_low"]) and known(row["best_before"])):
        return []
    return [row["best_before"] + sign * row[bound] for bound in ("gain_low", "gain_high")]


def _step_mark(row: Mapping[Any, Any], x: float, y: float, score: float) -> Dot:
    decision, name = row["decision"], row["candidate"]
    most = "" if known(row["score"]) else "at most " if known(row["score_at_most"]) else "on a part "
    said = f"{name}: {decision or 'ranked'}, {most}{short(score)}"
    if known(row["gain"]):
        said += f", gain {row['gain']:+.4f}"
    if row["stage"] == "rank":
        return Dot("single", said, name, x, y, hollow=True)
    return Dot(
        "soup" if decision in ("keep", "start") else "discarded",
        said,
        name,
        x,
        y,
        cross=decision == "discard",
    )


def _names_below(names: Sequence[str], x: Any, height: float) -> list[Mark]:
    """As many names as there is room for."""
    each = max(1, math.ceil(len(names) / 11))
    return [
        Words("faint", x=x(number), y=height - 20 + 12 * (number // each % 2), text=cut(name, 15),
              anchor="middle", size=10)
        for number, name in enumerate(names) if number % each == 0
    ]  # fmt: skip


def _level(y: float, colour: str) -> Line:
    return Line(colour, points=[(LEFT, y), (WIDTH - RIGHT, y)], dashed=True)


def _colour(kind: str) -> str:
    return kind if kind in ("soup", "single", "uniform") else "faint"


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _signed(value: float) -> str:
    return f"{value:.4g}"


def known(value: Any) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value)) and value is not pd.NA
