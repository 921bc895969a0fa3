"""The page that a report is: sections of sentences, figures, tables and texts, filled into one HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

from soupkitchen.console import printable
from soupkitchen.records.figures import Figure
from soupkitchen.records.tables import has_value, short


@dataclass(frozen=True)
class Table:
    """A table. A reader opens it with a click if it is `folded`."""

    caption: str
    frame: pd.DataFrame
    folded: bool = True

    @property
    def columns(self) -> list[tuple[str, bool]]:
        """The name of each column, and whether it holds numbers."""
        numeric = pd.api.types.is_numeric_dtype
        return [(printable(str(name)), numeric(self.frame[name])) for name in self.frame.columns]

    @property
    def rows(self) -> list[tuple[list[str], bool]]:
        """The cells of each row as text, and whether it is the soup's."""
        return [
            ([_cell(value) for value in row.values()], row.get("kind") == "soup")
            for row in self.frame.to_dict("records")
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
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    texts: Sequence[Text] = ()

    @property
    def drawn(self) -> list[Markup]:
        """The figures as SVG, whose texts are escaped."""
        return [Markup(figure.svg()) for figure in self.figures]


def html(
    title: str,
    sentences: Sequence[str],
    sections: Sequence[Section],
    footer: str,
    cards: Sequence[tuple[str, str]] = (),
) -> str:
    """The page in one file, which asks for nothing else.

    Args:
        cards: numbers that stand out, and what they are.
    """
    return _template().render(
        title=printable(title),
        sentences=[printable(sentence) for sentence in sentences],
        cards=cards,
        sections=sections,
        footer=footer,
    )


@cache
def _template() -> jinja2.Template:
    text = Path(__file__).with_name("report.html.jinja").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(text)


def _cell(value: Any) -> str:
    if not has_value(value):
        return "–"
    return short(value) if isinstance(value, float) else printable(str(value))
