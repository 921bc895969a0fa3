#!/usr/bin/env python
"""Measures how a run's time and memory grow: with runs, parameters, held-out examples, and workers.

    python scripts/scaling.py                  (10 minutes; needs Linux, and 10 GB on disk)
    python scripts/scaling.py --what parameters --billions 3          (needs 30 GB on disk)
    python scripts/scaling.py --picture docs/figures/scaling.svg      (draws results/scaling.csv)

Each point is one greedy soup by the command, in a process of its own, over Llamas with random weights and
noise. Seconds are what `runtime.profile=true` tells, without starting (imports, most of it). What grows with
x as x to the power of e has the exponent e: the slope between the last two points. Writes results/scaling.csv
and prints it as Markdown; read exponents, as machines are noisy. Workers are wall seconds on as many cores
as there are.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import llama_pool
import pandas as pd
from measuring import measure
from method_figures import GREY, INK, RUN_COLOURS, svg, text

WHAT = ("runs", "parameters", "examples", "ray", "torchrun")
PARTS = ("starting", "merging", "forward", "bookkeeping")
TABLE = Path("results/scaling.csv")


class Point(NamedTuple):
    """A pool, its data, and who scores it."""

    what: str
    x: int
    runs: int = 4
    layers: int = 2
    width: int = 128
    examples: int = 32
    executor: str = "local"
    workers: int = 1
    batch_size: int = 64


def points(what: str, largest: float) -> Iterator[Point]:
    if what == "runs":
        yield from (Point(what, n, runs=n) for n in (4, 8, 16, 32, 64, 128))
    elif what == "parameters":
        for millions, layers, width in (
            (10, 4, 384),
            (30, 7, 512),
            (100, 13, 768),
            (300, 22, 1024),
            (1000, 20, 2048),
            (3000, 35, 2560),
        ):
            if millions <= largest * 1000:
                yield Point(what, millions, layers=layers, width=width, examples=2)
    elif what == "examples":
        yield from (Point(what, n, examples=n) for n in (250, 500, 1000, 2000, 4000))
    else:
        for n in (1, 2):
            yield Point(what, n, 8, 6, 256, examples=512, executor=what, workers=n, batch_size=16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--what", nargs="+", choices=WHAT, default=list(WHAT))
    parser.add_argument("--method", default="linear")
    parser.add_argument("--billions", type=float, default=1.0, help="parameters of the largest model")
    parser.add_argument("--picture", type=Path, help="draw the table that there is, here")
    arguments = parser.parse_args()
    if arguments.picture is not None:
        arguments.picture.write_text(picture(pd.read_csv(TABLE)))
        return
    rows: list[Any] = pd.read_csv(TABLE).to_dict("records") if TABLE.exists() else []
    rows = [row for row in rows if row["what"] not in arguments.what]
    for what in arguments.what:
        for point in points(what, arguments.billions):
            rows.append(taken(point, arguments.method))
            print(rows[-1], file=sys.stderr, flush=True)
            TABLE.parent.mkdir(exist_ok=True)
            pd.DataFrame(rows).to_csv(TABLE, index=False)
    print(markdown(pd.DataFrame(rows)))


def taken(point: Point, method: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        llama_pool.make_noise(folder, point.runs, point.layers, point.width, point.examples)
        words = [
            f"pool.path={folder / 'runs'}",
            *(() if method == "linear" else (f"pool.base={folder / 'base'}",)),
            "task=language_modeling",
            f"task.data.path={folder / 'data'}",
            f"method={method}",
            "runtime.profile=true",
            "runtime.threads=1",
            f"runtime.batch_size={point.batch_size}",
            "evaluation.cache=null",
            "report.write=false",
            "name=x",
            f"results_dir={folder / 'results'}",
        ]
        by = ["-m", "soupkitchen"]
        if point.executor == "ray":
            words += ["executor=ray", f"executor.workers={point.workers}"]
        elif point.executor == "torchrun":
            by = ["-m", "torch.distributed.run", f"--nproc_per_node={point.workers}", *by]
        spent = measure([sys.executable, *by, *words])
        profile = pd.read_csv(folder / "results" / "x" / "profile.csv").set_index("part")["seconds"]
        return {
            "what": point.what,
            "x": point.x,
            "seconds": round(float(profile.sum() - profile["starting"]), 2),
            **{part: round(float(profile[part]), 2) for part in PARTS},
            "gib": round(spent.memory, 2),
        }


def exponent(rows: pd.DataFrame, column: str) -> float:
    """The slope between the last two points, both axes logarithmic."""
    (_, before), (_, last) = rows.tail(2).iterrows()
    return math.log(last[column] / before[column]) / math.log(last["x"] / before["x"])


def markdown(table: pd.DataFrame) -> str:
    columns = ["seconds", *PARTS, "gib"]
    lines = [f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for what, rows in table.groupby("what", sort=False):
        for row in rows.to_dict("records"):
            lines.append(f"| {row['x']} {what} | {' | '.join(str(row[column]) for column in columns)} |")
        slopes = [f"{exponent(rows, column):.2f}" if (rows[column] > 0).all() else "–" for column in columns]
        lines.append(f"| exponent of {what} | {' | '.join(slopes)} |")
    return "\n".join(lines)


def picture(table: pd.DataFrame, size: int = 230, room: int = 50) -> str:
    """Seconds and GiB by runs, parameters and examples, each side by side, both axes logarithmic."""
    shown = [what for what in ("runs", "parameters", "examples") if what in set(table["what"])]
    parts: list[str] = []
    for number, what in enumerate(shown):
        rows, left = table[table["what"] == what], room + number * (size + room)
        parts.append(
            text(
                left + size / 2,
                size + 85,
                {"parameters": "million parameters"}.get(what, what),
                INK,
                "middle",
            )
        )
        for column, colour in (("seconds", RUN_COLOURS[0]), ("gib", RUN_COLOURS[1])):
            parts += curve(rows["x"].tolist(), rows[column].tolist(), left, 45, size, colour)
            slope = f"{column.replace('gib', 'GiB')} ~ x^{exponent(rows, column):.2f}"
            parts.append(text(left + 6, 60 + 16 * (column == "gib"), slope, colour))
        parts.append(f'<rect x="{left}" y="45" width="{size}" height="{size}" fill="none" stroke="{GREY}"/>')
        for x in (rows["x"].iloc[0], rows["x"].iloc[-1]):
            at = left + size * (x == rows["x"].iloc[-1])
            parts.append(text(at, size + 65, f"{x:,}", INK, "middle"))
    return svg(room + len(shown) * (size + room), size + 100, parts, "How a run grows")


def curve(
    x: Sequence[float], y: Sequence[float], left: float, top: float, size: float, colour: str
) -> list[str]:
    """A curve that fills a square from its first to its last x; y spans as many powers of ten as x does."""
    logs = [math.log(value) for value in x], [math.log(max(value, 0.01)) for value in y]
    wide = logs[0][-1] - logs[0][0]
    at = [
        (left + size * (a - logs[0][0]) / wide, top + size * (0.95 - 0.9 * (b - logs[1][0]) / wide))
        for a, b in zip(*logs, strict=True)
    ]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in at)
    dots = [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>' for a, b in at]
    return [f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>', *dots]


if __name__ == "__main__":
    main()
