"""Figures of reports and model cards: Vega-Lite charts, as SVG or PNG.

Colours are named by meaning, so that a page's style can define them.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any

import altair as alt
import numpy as np
import pandas as pd
import vl_convert

from soupkitchen.console import printable
from soupkitchen.records.tables import has_value, short

WIDTH = 760
_COLOURS = {
    "ink": "#1c2024",
    "faint": "#8b929a",
    "grid": "#d8dce0",
    "soup": "#0b6e4f",
    "single": "#3d6fb4",
    "uniform": "#a36a00",
    "discarded": "#b3404a",
    "paper": "#ffffff",
}
_CROSS = "M-1,-1L1,1M-1,1L1,-1"
_MARK = re.compile(r'<(path|line)( aria-label="([^"]*)"[^>]*)/>')
"""A mark with a description; others are drawn without a label."""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Figure:
    """A chart. Marks encoded with `_ABOUT` describe themselves; `title` describes the chart."""

    title: str
    chart: alt.LayerChart | alt.FacetChart
    width: float
    height: float

    def __html__(self) -> str:
        """An SVG element for the page: each mark is a stop of the tab key, and has a title."""
        svg = _MARK.sub(r'<\1 class="mark" tabindex="0"\2><title>\3</title></\1>', self._drawn)
        about = (
            f'role="group" aria-label="{escape(printable(self.title))}" style="max-width:{self.width:g}px"'
        )
        return svg.replace("<svg ", f"<svg {about} ", 1)

    def picture(self) -> str:
        svg = self._drawn
        for name, colour in _COLOURS.items():
            svg = svg.replace(_colour(name), colour)
        return svg

    def png(self) -> bytes:
        return vl_convert.svg_to_png(self.picture(), scale=2)

    @cached_property
    def _drawn(self) -> str:
        faint = _colour("faint")
        chart = (
            self.chart.properties(
                width=self.width,
                height=self.height,
                padding={"left": 24, "top": 8, "right": 8, "bottom": 4},  # other fonts are wider
                autosize=alt.AutoSizeParams(type="fit", contains="padding"),
            )
            .configure(aria=False, background=_colour("paper"), font="Helvetica, Arial, sans-serif")
            .configure_axis(
                domain=False,
                ticks=False,
                gridColor=_colour("grid"),
                labelColor=faint,
                labelFontSize=12,
                titleColor=faint,
                titleFontSize=12,
                titleFontWeight="normal",
            )
            .configure_text(fontSize=12)
            .configure_view(stroke=None)
        )
        return vl_convert.vegalite_to_svg(chart.to_dict(validate=False))


def trajectory_figure(steps: pd.DataFrame, metric: str, sign: int) -> Figure:
    """The score after each step: runs, candidates, the soup so far, the best single run."""
    rows = steps[steps["stage"].isin(["rank", "merge"]) & (steps["split"] == "heldout")].to_dict("records")
    points, course = [], []
    soup = math.nan
    for number, row in enumerate(rows):
        if row["decision"] in ("start", "keep") and has_value(row["score"]):
            soup = row["score"]
        course.append({"step": number, "score": soup})
        columns = (name for name in ("score", "score_at_most", "score_on_part") if has_value(row[name]))
        if (column := next(columns, None)) is not None:
            points.append({"step": number, **_step(row, column, sign)})
    names = [row["candidate"] for row in rows]
    axis = _names(names, 90, grid=False, labelAngle=-25, labelOverlap=len(names) > 30, labelFontSize=10)
    x = alt.X("step:O", title=None, axis=axis)
    y = alt.Y("score:Q", title=printable(f"{metric}, held-out"), scale=_SCALE)
    intervals = [point for point in points if has_value(point["low"])]
    singles = [point["score"] for point in points if point["single"]]
    best = [{"score": max(singles, key=lambda score: sign * score)}] if singles else []
    layers = [
        _chart(best).mark_rule(strokeDash=[5, 4]).encode(y=y, color=_fixed("single")),
        _chart(best).mark_text(align="right", dy=-6, text="best single run").encode(
            x=alt.value(WIDTH - 80), y=y, color=_fixed("single")),
        _chart(course).mark_line(interpolate="step-after", strokeWidth=2).encode(
            x=x, y=y, color=_fixed("soup")),
        _chart(intervals).mark_rule(strokeWidth=1.5).encode(
            x=x, y=alt.Y("low:Q"), y2="high:Q", color=_fixed("faint")),
        _points(points).encode(x=x, y=y),
    ]  # fmt: skip
    return Figure(f"{metric} on held-out after each step", alt.layer(*layers), WIDTH, 320)


def _step(row: Mapping[Any, Any], column: str, sign: int) -> dict[str, Any]:
    score, decision, ranked = row[column], row["decision"], row["stage"] == "rank"
    bound = {"score": "", "score_at_most": "at most ", "score_on_part": "on a part "}[column]
    about = f"{row['candidate']}: {decision or 'ranked'}, {bound}{short(score)}"
    if has_value(row["gain"]):
        about += f", gain {row['gain']:+.4f}"
    kind = "single" if ranked else "soup" if decision in ("keep", "start") else "discarded"
    known = has_value(row["gain_low"]) and has_value(row["best_before"])
    low, high = (row["best_before"] + sign * row[f"gain_{end}"] if known else None for end in ("low", "high"))
    single = ranked and column == "score"
    dot = _dot(kind, about, hollow=ranked, cross=decision == "discard")
    return {"score": score, "low": low, "high": high, "single": single, **dot}


def models_figure(table: pd.DataFrame, metric: str) -> Figure:
    rows = table.head(40).to_dict("records")
    points, intervals = [], []
    for number, row in enumerate(rows):
        kind = row["kind"] if row["kind"] in ("soup", "single", "uniform") else "faint"
        if has_value(row["ci_low"]):
            ends = {"low": row["ci_low"], "high": row["ci_high"]}
            intervals.append({"row": number, "stroke": _colour(kind), **ends})
        for split, shown in (("test", "test"), ("heldout", "held-out")):
            if has_value(score := row[f"{split}_{metric}"]):
                dot = _dot(kind, f"{row['model']}: {shown} {short(score)}", hollow=split == "test")
                points.append({"row": number, "score": score, **dot})
    y = alt.Y("row:O", title=None, axis=_names([row["model"] for row in rows]))
    x = alt.X("score:Q", title=None, scale=_SCALE, axis=alt.Axis(tickCount=7))
    bars = _chart(intervals).mark_rule().encode(x=alt.X("low:Q"), x2="high:Q", y=y, color=_STROKE)
    chart = alt.layer(bars, _points(points).encode(x=x, y=y))
    title = f"{metric} of every model: filled on held-out, hollow on test"
    return Figure(title, chart, WIDTH, 50 + 22 * len(rows))


def bars_figure(title: str, bars: Mapping[str, float], colour: str = "soup", unit: str = "") -> Figure:
    rows = [
        {
            "row": number,
            "value": value,
            "end": max(value, 0.0),
            "shown": f"{value:.4g}{unit}",
            "stroke": _colour(colour if value >= 0 else "discarded"),
            "about": f"{name}: {value:.4g}{unit}",
        }
        for number, (name, value) in enumerate(bars.items())
    ]
    y = alt.Y("row:O", title=None, axis=_names(list(bars)))
    ends = [0.0, *filter(math.isfinite, bars.values())]
    low, high = min(ends), max(ends)
    scale = alt.Scale(domain=[low, high + 0.2 * ((high - low) or 1.0)])
    x = alt.X("value:Q", title=None, axis=None, scale=scale)
    boxes = _chart(rows).mark_bar(aria=True).encode(x=x, y=y, color=_STROKE, description=_ABOUT)
    numbers = _chart(rows).mark_text(align="left", dx=6).encode(
        x=alt.X("end:Q"), y=y, text="shown:N", color=_fixed("faint"))  # fmt: skip
    return Figure(title, alt.layer(boxes, numbers), WIDTH, 30 + 24 * len(bars))


def cosines_figure(names: Sequence[str], cosines: np.ndarray) -> Figure:
    cell = min(36.0, (WIDTH - 186) / len(names))
    rows = [
        {
            "row": row,
            "column": column,
            "strength": min(abs(value), 1.0),
            "stroke": _colour("soup" if value >= 0 else "discarded"),
            "ink": _colour("paper" if abs(value) > 0.55 else "ink"),
            "shown": f"{value:.2f}".replace("0.", ".").replace("1.00", "1"),
            "about": f"{names[row]}, {names[column]}: cosine {value:.2f}",
        }
        for (row, column), value in np.ndenumerate(cosines)
    ]
    places = {
        "x": alt.X("column:O", axis=None),
        "y": alt.Y("row:O", title=None, axis=_names(names)),
    }
    boxes = _chart(rows).mark_rect(aria=True, strokeWidth=1).encode(
        **places, color=_STROKE, description=_ABOUT, stroke=_fixed("paper"),
        opacity=alt.Opacity("strength:Q", scale=None))  # fmt: skip
    numbers = _chart(rows if cell >= 26 else []).mark_text(fontSize=10.5).encode(
        **places, text="shown:N", color=alt.Color("ink:N", scale=None))  # fmt: skip
    size = cell * len(names)
    title = "cosines of what fine-tuning changed"
    return Figure(title, alt.layer(boxes, numbers), size + 186, size + 22)


def plane_figure(names: Sequence[str], points: np.ndarray, inside: Sequence[str], soup: str | None) -> Figure:
    """Runs and soup in the plane of their two principal components."""
    rows = []
    for name, (across, up) in zip(names, points.tolist(), strict=True):
        kind = "soup" if name == soup else "single" if name in inside else "faint"
        about = {"soup": "the soup", "single": "an ingredient", "faint": "left out"}[kind]
        dot = _dot(kind, f"{name}: {about}", hollow=kind == "faint")
        rows.append({"across": across, "up": up, "name": name, **dot})
    x, y = (alt.X("across:Q", axis=None, scale=alt.Scale(zero=False, padding=100)),
            alt.Y("up:Q", axis=None, scale=_SCALE))  # fmt: skip
    words = _chart(rows).mark_text(align="left", dx=9, fontSize=11, limit=140).encode(
        x=x, y=y, text="name:N", color=_STROKE)  # fmt: skip
    chart = alt.layer(_points(rows).encode(x=x, y=y), words)
    return Figure("runs and soup in the plane in which they differ most", chart, WIDTH, 380)


def scatter_figure(runs: Sequence[Row], across: str, up: str, titles: tuple[str, str]) -> Figure:
    rows = []
    for run in runs:
        if has_value(run[across]) and has_value(run[up]):
            about = f"{run['run']}: {titles[1]} {short(run[up])}, {titles[0]} {run[across]:g}"
            rows.append({"across": run[across], "up": run[up], **_dot("soup", about)})
    x = alt.X("across:Q", title=printable(titles[0]), scale=_SCALE, axis=alt.Axis(grid=False, tickCount=7))
    y = alt.Y("up:Q", title=printable(titles[1]), scale=_SCALE)
    return Figure(f"{titles[1]} against {titles[0]}", alt.layer(_points(rows).encode(x=x, y=y)), WIDTH, 320)


def parallel_figure(runs: Sequence[Row], columns: Sequence[str], score: str) -> Figure:
    """A line for each run through its options to its score."""
    names = [*columns, score]
    corners: list[dict[str, Any]] = []
    labels: list[dict[str, Any]] = []
    best = min((run["rank"] for run in runs), default=1)
    for place, column in enumerate(names):
        heights, ticks = _heights([run.get(column) for run in runs])
        labels += [{"place": place, "height": heights[value], "shown": text} for value, text in ticks.items()]
        for number, run in enumerate(runs):
            if has_value(value := run.get(column)):
                first = run["rank"] == best
                line = {
                    "line": number,
                    "width": 2.5 if first else 1.2,
                    "stroke": _colour("soup" if first else "single"),
                    "about": f"{run['run']}: {short(run.get(score))}",
                }
                corners.append({"place": place, "height": heights[value], **line})
    axis = _names(names, 180, orient="top", grid=True, gridWidth=1.5, labelColor=_colour("ink"))
    x = alt.X("place:O", title=None, axis=axis, scale=alt.Scale(type="point", padding=0.25))
    y = alt.Y("height:Q", axis=None, scale=alt.Scale(domain=[-0.08, 1.08]))
    lines = _chart(corners).mark_line(aria=True).encode(
        x=x, y=y, detail="line:N", color=_STROKE, description=_ABOUT,
        strokeWidth=alt.StrokeWidth("width:Q", scale=None))  # fmt: skip
    words = _chart(labels).mark_text(align="left", dx=5, dy=-7, fontSize=10, limit=90).encode(
        x=x, y=y, text="shown:N", color=_fixed("faint"))  # fmt: skip
    title = "what the runs were told, and what came of it"
    return Figure(title, alt.layer(lines, words), WIDTH, 300)


def _heights(values: Sequence[Any]) -> tuple[dict[Any, float], dict[Any, str]]:
    """A column's places between 0 and 1, and labels: all texts, or two numbers."""
    present = [value for value in values if has_value(value)]
    if present and all(isinstance(value, (int, float)) for value in present):
        low, high = min(present), max(present)
        span = (high - low) or 1.0
        return {value: (value - low) / span for value in present}, {end: f"{end:g}" for end in (low, high)}
    texts = sorted(set(present), key=str)
    span = max(len(texts) - 1, 1)
    return {text: 1 - place / span for place, text in enumerate(texts)}, {text: str(text) for text in texts}


_SCALE = alt.Scale(zero=False, padding=12)
_STROKE = alt.Color("stroke:N", scale=None)
_ABOUT = alt.Description("about:N")


def _colour(name: str) -> str:
    return f"var(--{name})"


def _fixed(colour: str) -> Any:
    return alt.value(_colour(colour))


def _chart(rows: Sequence[Row]) -> alt.Chart:
    return alt.Chart(
        alt.InlineData(values=[{key: _plain(value) for key, value in row.items()} for row in rows])
    )


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, str):
        return printable(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _dot(kind: str, about: str, hollow: bool = False, cross: bool = False) -> dict[str, Any]:
    fill = "paper" if hollow else kind
    shape = _CROSS if cross else "circle"
    return {"stroke": _colour(kind), "fill": _colour(fill), "shape": shape, "about": about}


def _points(rows: Sequence[Row]) -> alt.Chart:
    return _chart(rows).mark_point(aria=True, size=70, strokeWidth=1.5, opacity=1).encode(
        stroke=alt.Stroke("stroke:N", scale=None), fill=alt.Fill("fill:N", scale=None),
        shape=alt.Shape("shape:N", scale=None), description=_ABOUT)  # fmt: skip


def _names(names: Sequence[str], limit: int = 170, **options: Any) -> alt.Axis:
    """An axis of numbers from 0, labelled with as many `names` as fit."""
    texts = f"{json.dumps([printable(str(name)) for name in names])}[datum.value]"
    shown = {"labelOverlap": True, "labelAngle": 0, **options}
    return alt.Axis(labelExpr=texts, labelLimit=limit, **shown)
