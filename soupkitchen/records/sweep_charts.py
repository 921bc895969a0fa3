"""The figures of a sweep's report: runs by what they were told, what they cost and what came of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from soupkitchen.records.charts import BOTTOM, LEFT, RIGHT, TOP, WIDTH, Scale, cut, frame, known, short
from soupkitchen.records.figures import Dot, Figure, Line, Mark, Words


def scatter_figure(
    points: Sequence[Mapping[str, Any]], across: str, up: str, titles: tuple[str, str]
) -> Figure:
    """Runs of a sweep by two of their numbers; `titles` say which."""
    height = 320.0
    kept = [point for point in points if known(point[across]) and known(point[up])]
    x = Scale([point[across] for point in kept], LEFT, WIDTH - RIGHT - 10)
    y = Scale([point[up] for point in kept], height - BOTTOM, TOP)
    marks = frame(y, height, titles[1])
    for value in x.ticks():
        marks.append(Words("faint", x=x(value), y=height - 18, text=f"{value:g}", anchor="middle"))
    marks.append(Words("faint", x=WIDTH - RIGHT, y=height - 4, text=titles[0], anchor="end"))
    for point in kept:
        said = f"{point['run']}: {titles[1]} {short(point[up])}, {titles[0]} {point[across]:g}"
        marks.append(Dot("soup", said, point["run"], x(point[across]), y(point[up])))
    return Figure(f"{titles[1]} against {titles[0]}", WIDTH, height, marks)


def parallel_figure(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], score: str) -> Figure:
    """Parallel coordinates: a line a run through what it was told and what came of it."""
    height, names = 300.0, [*columns, score]
    gap = (WIDTH - 120) / max(len(names) - 1, 1)
    places: list[dict[Any, float]] = []
    marks: list[Mark] = []
    for number, column in enumerate(names):
        at, values = 60 + gap * number, [row.get(column) for row in rows]
        numbers = [value for value in values if isinstance(value, (int, float)) and known(value)]
        spot: dict[Any, float] = {}
        if numbers and len(numbers) == len([value for value in values if known(value)]):
            scale = Scale(numbers, height - 40, 40)
            spot = {value: scale(value) for value in numbers}
            labels = [(scale(value), f"{value:g}") for value in sorted({min(numbers), max(numbers)})]
        else:
            texts = sorted({str(value) for value in values if known(value)})
            step = (height - 80) / max(len(texts) - 1, 1)
            spot = {text: 40 + step * place for place, text in enumerate(texts)}
            labels = [(spot[text], cut(text, 14)) for text in texts]
        places.append(spot)
        marks.append(Line("grid", points=[(at, 36), (at, height - 36)]))
        side = "start" if number == 0 else "end" if number == len(names) - 1 else "middle"
        marks.append(Words("ink", x=at, y=18 + 12 * (number % 2), text=cut(column, 26), anchor=side, size=11))
        marks += [Words("faint", x=at + 5, y=place + 4, text=text, size=10) for place, text in labels]
    best = min((row["rank"] for row in rows), default=1)
    for row in rows:
        points = []
        for number, (column, spot) in enumerate(zip(names, places, strict=True)):
            value = row.get(column)
            up = spot.get(value, spot.get(str(value))) if known(value) else None
            points += [] if up is None else [(60 + gap * number, up)]
        if len(points) > 1:
            first = row["rank"] == best
            said = f"{row['run']}: {short(row.get(score))}"
            marks.append(Line("soup" if first else "single", said, row["run"], points, 2.5 if first else 1.2))
    return Figure("what the runs were told, and what came of it", WIDTH, height, marks)
