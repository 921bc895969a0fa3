"""The page that a report is: sections of sentences, figures, tables and texts, filled into one HTML file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from soupkitchen.console import printable
from soupkitchen.records.figures import Figure


@dataclass(frozen=True)
class Table:
    """A table; `folded` ones are opened by whoever wants to see them."""

    caption: str
    frame: pd.DataFrame
    key: str
    folded: bool = False

    @cached_property
    def columns(self) -> list[dict[str, Any]]:
        """Names, and whether numbers are in them."""
        return [
            {"name": printable(str(name)), "number": pd.api.types.is_numeric_dtype(self.frame[name])}
            for name in self.frame.columns
        ]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """Cells as they are shown."""
        told = self.frame.to_dict("records")
        return [
            {
                "key": printable(str(row[self.key])),
                "soup": row.get("kind") == "soup",
                "cells": [_cell(value) for value in row.values()],
            }
            for row in told
        ]


@dataclass(frozen=True)
class Text:
    """A file as it is."""

    name: str
    content: str


@dataclass(frozen=True)
class Section:
    """A part of the page under a title of its own."""

    title: str
    sentences: Sequence[str] = ()
    shown: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    texts: Sequence[Text] = ()

    @property
    def figures(self) -> list[Markup]:
        """The figures as SVG, whose texts are escaped."""
        return [Markup(printable(figure.svg())) for figure in self.shown]


@dataclass(frozen=True)
class Page:
    """The whole page.

    Attributes:
        cards: numbers that stand out, with what they are.
    """

    title: str
    sentences: Sequence[str] = ()
    cards: Sequence[tuple[str, str]] = ()
    sections: Sequence[Section] = field(default_factory=tuple)
    footer: str = ""

    def html(self) -> str:
        """The page in one file, which asks for nothing else."""
        return _template().render(
            title=printable(self.title),
            sentences=[printable(sentence) for sentence in self.sentences],
            cards=[{"value": value, "what": what} for value, what in self.cards],
            sections=self.sections,
            footer=self.footer,
        )


@cache
def _template() -> jinja2.Template:
    text = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    return jinja2.Environment(
        autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    ).from_string(text)


def _cell(value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"
    return printable(str(value))
