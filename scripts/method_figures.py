#!/usr/bin/env python
"""Draws docs/figures/*.svg: what each merge method makes of toy vectors, computed with our own methods.

    python scripts/method_figures.py            draws them
    python scripts/method_figures.py --check    fails where they are not what the methods give

Methods that work on whole vectors are shown as arrows in a plane, those that work entry by entry as bars.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from soupkitchen import methods
from soupkitchen.merging import MergeMethod, Origin

FIGURES = Path(__file__).resolve().parents[1] / "docs" / "figures"
RUN_COLOURS, MERGED, GREY, INK = ("#2f74c0", "#c77700"), "#1d8a4e", "#9aa3ad", "#333333"
PLANE = ((0.95, 0.15), (0.1, 0.8))
"""Two runs, or their task vectors."""
ENTRIES = (
    (0.9, 0.15, -0.35, 0.5, -0.1, 0.05, 0.7, -0.6, 0.2, -1.3),
    (0.6, -0.2, 0.45, 0.4, 0.1, -0.3, -0.25, -0.5, 0.3, -0.9),
)
"""Ten entries of two task vectors."""


@dataclass(frozen=True)
class Run:
    """An ingredient by its content, on which random masks depend."""

    fingerprint: str


def merge(method: Any, vectors: Sequence[Sequence[float]], first: int = 0) -> list[float]:
    """Merges vectors by `method`, one after the other; `first` is the number of the first run."""
    tensors = [torch.tensor(vector) for vector in vectors]
    if not isinstance(method, MergeMethod):
        merged = method.merge(tensors, [1.0] * len(tensors))
    else:
        state = method.init(tensors[0])
        for number, tensor in enumerate(tensors, first):
            origin = Origin(Run(f"run {number}"), "toy", 1.0, tuple(tensor.shape))
            state = method.add(state, tensor, method.measure(state, tensor, origin), 0)
        merged = method.result(state)
    return [float(value) for value in merged]


def svg(width: int, height: int, parts: Sequence[str], title: str) -> str:
    """A picture on a light ground of its own, so that it can be read on a dark page too."""
    size = f'viewBox="0 0 {width} {height}" width="{width}" height="{height}"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size}'
    ground = f'<rect width="{width}" height="{height}" rx="8" fill="#fbfbf9"/>'
    lines = [f'{head} role="img" font-family="sans-serif" font-size="12">', f"<title>{title}</title>", ground]
    lines.append(text(14, 22, title))
    return "\n".join([*lines, *parts, "</svg>"]) + "\n"


def text(x: float, y: float, words: str, colour: str = INK, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" text-anchor="{anchor}">{words}</text>'


def arrow(tip: Sequence[float], colour: str, words: str, width: float = 2.5) -> list[str]:
    """An arrow from the origin of the plane."""
    x, y = _place(tip)
    x0, y0 = _place((0, 0))
    length = ((x - x0) ** 2 + (y - y0) ** 2) ** 0.5 or 1.0
    ux, uy = (x - x0) / length, (y - y0) / length
    left, right = (x - 9 * ux - 4 * uy, y - 9 * uy + 4 * ux), (x - 9 * ux + 4 * uy, y - 9 * uy - 4 * ux)
    head = " ".join(f"{a:.1f},{b:.1f}" for a, b in ((x, y), left, right))
    line = f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x - 6 * ux:.1f}" y2="{y - 6 * uy:.1f}"'
    label = text(x + 8, y + 4, words, colour) if ux > 0.2 else text(x, y - 8, words, colour, "middle")
    return [
        f'{line} stroke="{colour}" stroke-width="{width}"/>',
        f'<polygon points="{head}" fill="{colour}"/>',
        label,
    ]


def _place(point: Sequence[float]) -> tuple[float, float]:
    return 40 + 190 * point[0], 235 - 190 * point[1]


def plane(origin: str, chord: bool = False, arc: bool = False) -> list[str]:
    """The origin, and what lies between the ends of two arrows."""
    (ax, ay), (bx, by) = map(_place, PLANE)
    x, y = _place((0, 0))
    parts = [f'<circle cx="{x}" cy="{y}" r="4" fill="{INK}"/>', text(x, y + 18, origin, INK, "middle")]
    dashed = f'stroke="{GREY}" stroke-width="1.5" stroke-dasharray="5 4" fill="none"'
    if chord:
        parts.append(f'<line x1="{ax:.1f}" y1="{ay:.1f}" x2="{bx:.1f}" y2="{by:.1f}" {dashed}/>')
    if arc:
        ends = [merge(methods.slerp(t=share / 20), PLANE) for share in range(21)]
        points = " ".join(f"{px:.1f},{py:.1f}" for px, py in map(_place, ends))
        parts.append(f'<polyline points="{points}" {dashed}/>')
    return parts


def arrows(method: Any, origin: str, names: Sequence[str], merged: str, title: str, **marks: bool) -> str:
    """Two runs and what becomes of them, as arrows."""
    parts = plane(origin, **marks)
    for tip, colour, name in zip(PLANE, RUN_COLOURS, names, strict=True):
        parts += arrow(tip, colour, name)
    return svg(360, 265, [*parts, *arrow(merge(method, PLANE), MERGED, merged, 3.5)], title)


def bars(method: Any, title: str) -> str:
    """Two task vectors, what the method leaves of each, and what it makes of both, as bars."""
    alone = [merge(_alone(method), [vector], number) for number, vector in enumerate(ENTRIES)]
    rows = [
        *(
            (f"δ{'₁₂'[number]}, and what stays", vector, alone[number])
            for number, vector in enumerate(ENTRIES)
        ),
        ("merged", None, merge(method, ENTRIES)),
    ]
    parts: list[str] = []
    for number, (label, before, after) in enumerate(rows):
        middle = 80.0 + 92 * number
        colour = RUN_COLOURS[number] if number < len(ENTRIES) else MERGED
        parts.append(text(14, middle - 38, label, colour))
        parts.append(f'<line x1="14" y1="{middle}" x2="346" y2="{middle}" stroke="{GREY}" stroke-width="1"/>')
        for entry, value in enumerate(after):
            x = 20.0 + 33 * entry
            if before is not None:
                parts.append(_bar(x, middle, before[entry], f'fill="none" stroke="{GREY}"'))
            parts.append(_bar(x + 3, middle, value, f'fill="{colour}"', 18))
    return svg(360, 310, parts, title)


def _bar(x: float, middle: float, value: float, look: str, width: int = 24) -> str:
    height = min(abs(value) * 24, 34.0)
    top = middle - height if value > 0 else middle
    return f'<rect x="{x:.1f}" y="{top:.1f}" width="{width}" height="{height:.1f}" {look}/>'


def _alone(method: Any) -> Any:
    """The method's sparsifier and nothing else."""
    return methods.task_arithmetic(sparsifier=method.sparsifier)


def figures() -> dict[str, str]:
    """All pictures by the name of their file."""
    weights, deltas = ("θ₁", "θ₂"), ("δ₁", "δ₂")
    return {
        "linear": arrows(methods.linear(), "0", weights, "linear", "The average of two runs", chord=True),
        "slerp": arrows(methods.slerp(), "0", weights, "slerp", "Half way along the arc", arc=True),
        "karcher": arrows(methods.karcher(), "0", weights, "karcher", "The mean on the sphere", arc=True),
        "task_arithmetic": arrows(
            methods.task_arithmetic(scale=0.7), "base θ₀", deltas, "λ(δ₁ + δ₂), λ = 0.7", "The scaled sum"
        ),
        "model_stock": arrows(
            methods.model_stock(), "base θ₀", deltas, "model stock", "The average, shrunk", chord=True
        ),
        "ties": bars(methods.ties(density=0.5), "TIES at density 0.5"),
        "dare_linear": bars(methods.dare_linear(), "DARE at density 0.5, averaged"),
        "dare_ties": bars(methods.dare_ties(), "DARE at density 0.5, signs elected"),
        "breadcrumbs": bars(methods.breadcrumbs(density=0.6, gamma=0.1), "Breadcrumbs, density 0.6, γ 0.1"),
        "breadcrumbs_ties": bars(
            methods.breadcrumbs_ties(density=0.6, gamma=0.1), "Breadcrumbs with signs elected"
        ),
        "della": bars(methods.della(epsilon=0.4), "DELLA at density 0.5, ε 0.4, signs elected"),
        "della_linear": bars(methods.della_linear(epsilon=0.4), "DELLA at density 0.5, ε 0.4, averaged"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for name, picture in figures().items():
        file = FIGURES / f"{name}.svg"
        if not file.exists() or file.read_text(encoding="utf-8") != picture:
            if check:
                sys.exit(f"{file} is not what the method gives; run scripts/method_figures.py")
            file.write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
