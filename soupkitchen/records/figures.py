"""Figures of a few marks, as SVG for pages and as PNG for papers.

Colours are named by what they mean, and the page that a figure stands in says what they are, so that it is
legible in the dark, too. A figure by itself carries its own colours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from io import BytesIO
from itertools import pairwise

from PIL import Image, ImageDraw, ImageFont

COLOURS = {
    "ink": "#1c2024",
    "faint": "#8b929a",
    "grid": "#d8dce0",
    "soup": "#0b6e4f",
    "single": "#3d6fb4",
    "uniform": "#a36a00",
    "discarded": "#b3404a",
    "paper": "#ffffff",
}
"""By meaning, on white; what is drawn in the dark is in the page's own style."""
_SCALE, _SMOOTH = 2, 2
"""Pixels for each unit of a PNG, and how much finer it is drawn."""


@dataclass(frozen=True)
class Mark:
    """Something drawn. `told` is what is said of it where it is looked at, `key` whose it is."""

    colour: str = "ink"
    told: str = ""
    key: str = ""


@dataclass(frozen=True)
class Line(Mark):
    """A line through points, in the figure's units."""

    points: Sequence[tuple[float, float]] = ()
    width: float = 1.5
    dashed: bool = False


@dataclass(frozen=True)
class Dot(Mark):
    """A circle, or a cross for what was discarded."""

    x: float = 0.0
    y: float = 0.0
    radius: float = 4.5
    hollow: bool = False
    cross: bool = False


@dataclass(frozen=True)
class Box(Mark):
    """A rectangle; `strength` is how much of its colour it has."""

    x: float = 0.0
    y: float = 0.0
    width: float = 0.0
    height: float = 0.0
    strength: float = 1.0


@dataclass(frozen=True)
class Words(Mark):
    """A line of text; `anchor` is "start", "middle" or "end"."""

    x: float = 0.0
    y: float = 0.0
    text: str = ""
    anchor: str = "start"
    size: float = 12.0


@dataclass(frozen=True)
class Figure:
    """Marks on a canvas.

    Attributes:
        title: what it shows, for those who do not see it.
        width: of the canvas, in units of which one is a pixel at rest.
    """

    title: str
    width: float
    height: float
    marks: Sequence[Mark] = field(default_factory=tuple)

    def svg(self, alone: bool = False) -> str:
        """The figure as an SVG element; `alone` for a file of its own, with colours and a background."""
        size, title = f'viewBox="0 0 {self.width:g} {self.height:g}"', escape(self.title)
        shown = "".join(map(_svg, self.marks))
        if not alone:
            width = f"max-width:{self.width:g}px"
            return f'<svg {size} role="group" aria-label="{title}" style="{width}">{shown}</svg>'
        for name, colour in COLOURS.items():  # programs for papers know no variables
            shown = shown.replace(f"var(--{name})", colour)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} width="{self.width:g}" height="{self.height:g}" '
            f'font-family="Helvetica, Arial, sans-serif"><title>{escape(self.title)}</title>'
            f'<rect width="100%" height="100%" fill="{COLOURS["paper"]}"/>{shown}</svg>\n'
        )

    def png(self) -> bytes:
        """The figure as a PNG, two pixels a unit."""
        scale = _SCALE * _SMOOTH
        image = Image.new("RGB", (round(self.width * scale), round(self.height * scale)), COLOURS["paper"])
        draw = ImageDraw.Draw(image)
        for mark in self.marks:
            _draw(draw, mark, scale)
        file = BytesIO()
        image.reduce(_SMOOTH).save(file, "PNG")
        return file.getvalue()


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """Round numbers from `low` to `high`, at most about so many."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low]
    rough = (high - low) / most
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * unit for factor in (1, 2, 2.5, 5, 10) if factor * unit >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _svg(mark: Mark) -> str:
    fill = f"var(--{mark.colour})"
    told = f"<title>{escape(mark.told)}</title>" if mark.told else ""
    about = f' class="mark" tabindex="0" data-key="{escape(mark.key)}"' if mark.told else ""
    if isinstance(mark, Line):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in mark.points)
        dash = ' stroke-dasharray="5 4"' if mark.dashed else ""
        return (
            f'<polyline points="{points}" fill="none" stroke="{fill}" stroke-width="{mark.width:g}"{dash}'
            f"{about}>{told}</polyline>"
        )
    if isinstance(mark, Dot) and mark.cross:
        r, d = mark.radius * 0.8, mark.radius * 1.6
        path = f"M{mark.x - r:.1f} {mark.y - r:.1f}l{d:.1f} {d:.1f}m0 {-d:.1f}l{-d:.1f} {d:.1f}"
        return f'<path d="{path}" stroke="{fill}" stroke-width="2" fill="none"{about}>{told}</path>'
    if isinstance(mark, Dot):
        inside = "var(--paper)" if mark.hollow else fill
        return (
            f'<circle cx="{mark.x:.1f}" cy="{mark.y:.1f}" r="{mark.radius:g}" fill="{inside}" '
            f'stroke="{fill}" stroke-width="1.5"{about}>{told}</circle>'
        )
    if isinstance(mark, Box):
        return (
            f'<rect x="{mark.x:.1f}" y="{mark.y:.1f}" width="{mark.width:.1f}" height="{mark.height:.1f}" '
            f'fill="{fill}" fill-opacity="{mark.strength:.2f}"{about}>{told}</rect>'
        )
    assert isinstance(mark, Words)
    return (
        f'<text x="{mark.x:.1f}" y="{mark.y:.1f}" font-size="{mark.size:g}" text-anchor="{mark.anchor}" '
        f'fill="{fill}">{escape(mark.text)}</text>'
    )


def _draw(draw: ImageDraw.ImageDraw, mark: Mark, scale: int) -> None:
    colour = COLOURS[mark.colour]
    if isinstance(mark, Line):
        pieces = _dashes(mark.points) if mark.dashed else [list(mark.points)]
        for piece in pieces:
            draw.line(
                [(x * scale, y * scale) for x, y in piece], fill=colour, width=round(mark.width * scale)
            )
    elif isinstance(mark, Dot) and mark.cross:
        r = 0.8 * mark.radius
        for sign in (1, -1):
            ends = [(mark.x - r, mark.y - sign * r), (mark.x + r, mark.y + sign * r)]
            draw.line([(x * scale, y * scale) for x, y in ends], fill=colour, width=2 * scale)
    elif isinstance(mark, Dot):
        box = [value * scale for value in (mark.x - mark.radius, mark.y - mark.radius)]
        box += [value * scale for value in (mark.x + mark.radius, mark.y + mark.radius)]
        inside = COLOURS["paper"] if mark.hollow else colour
        draw.ellipse(box, fill=inside, outline=colour, width=round(1.5 * scale))
    elif isinstance(mark, Box):
        corner = (mark.x + mark.width) * scale, (mark.y + mark.height) * scale
        draw.rectangle([mark.x * scale, mark.y * scale, *corner], fill=_mixed(colour, mark.strength))
    elif isinstance(mark, Words):
        font = ImageFont.load_default(mark.size * scale)
        anchor = {"start": "ls", "middle": "ms", "end": "rs"}[mark.anchor]
        draw.text((mark.x * scale, mark.y * scale), mark.text, fill=colour, font=font, anchor=anchor)


def _dashes(points: Sequence[tuple[float, float]]) -> list[list[tuple[float, float]]]:
    """A line in pieces of 5 units with 4 between."""
    pieces = []
    for (x, y), (end_x, end_y) in pairwise(points):
        length = math.hypot(end_x - x, end_y - y)
        for at in range(0, int(length), 9):
            shares = at / length, min(at + 5, length) / length
            pieces.append([(x + share * (end_x - x), y + share * (end_y - y)) for share in shares])
    return pieces


def _mixed(colour: str, strength: float) -> tuple[int, int, int]:
    """The colour on white paper."""
    parts = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    red, green, blue = (round(255 + strength * (part - 255)) for part in parts)
    return red, green, blue
