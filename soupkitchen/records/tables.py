"""Writes and reads CSV tables whose text stays text.

Names come from strangers. A cell of text that a spreadsheet would take for a formula gets an apostrophe
before it, as spreadsheets themselves write such text; `read_csv` takes it away again. Names such as ``NA``
stay text: with pandas, read text columns with ``keep_default_na=False``.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pandas as pd

from soupkitchen.errors import ConfigError
from soupkitchen.store.documents import own, read_bytes
from soupkitchen.store.files import write_text

INGREDIENT_SEPARATOR = ";"
DIGITS = 10
"""Decimals of differences: enough for any score, and 0.0425 is not shown as 0.04250000000000009."""

TEXT_COLUMNS = frozenset(
    "run task data metric method search model kind ingredients coefficients stage candidate variant "
    "decision split rule reason architecture dtype base guess stopped_by".split()
)
"""Columns of text, whatever their cells look like."""

_MOST_COLUMNS = 10_000
_FORMULA = re.compile("'*[=+\\-@\t\r＝＋－＠]")


_LINE_END = "\r\0\n"
"""While a table is written, so that cells with any of these characters in them get quotes."""


def write_csv(file: Path, table: pd.DataFrame) -> None:
    """Writes `table` as CSV, whole or not at all."""
    write_text(file, _csv(table))


def append_csv(file: Path, table: pd.DataFrame) -> None:
    """Adds the rows of `table` to a table of the same columns that `write_csv` wrote."""
    with file.open("a", encoding="utf-8", errors="backslashreplace", newline="") as handle:
        handle.write(_csv(table, header=False))


def _csv(table: pd.DataFrame, header: bool = True) -> str:
    text = table.rename(columns=lambda column: _guarded(str(column)))
    for column, cells in text.items():
        if any(_guarded(cell) is not cell for cell in cells):
            text[column] = cells.map(_guarded)
    written = text.to_csv(index=False, header=header, lineterminator=_LINE_END)
    return written.replace(_LINE_END, "\n")


def read_csv(file: Path, needed: Collection[str] = ()) -> pd.DataFrame:
    """Reads a table as it was before `write_csv` wrote it.

    Raises:
        ConfigError: if it is not such a table, cannot be read, or lacks a column that is `needed`.
    """
    try:
        lines = io.StringIO(read_bytes(own(file)).decode(), newline="")
        header, *rows = list(csv.reader(lines, strict=True)) or [[]]
    except (csv.Error, ValueError) as error:
        raise ConfigError(f"{file} cannot be read as a table ({error})") from error
    if any(len(row) != len(header) for row in rows) or len(set(header)) < len(header):
        raise ConfigError(f"{file} cannot be read as a table: rows of other lengths, or a column twice")
    if lacking := [column for column in needed if column not in header]:
        raise foreign(file, f"it has no {', '.join(lacking[:3])}")
    if len(header) > _MOST_COLUMNS:
        raise ConfigError(f"{file} has {len(header)} columns, and no table of ours that many")
    table = pd.DataFrame(rows, columns=[_unguarded(column) for column in header], dtype=object)
    for column in table.columns:
        if column in TEXT_COLUMNS:
            table[column] = table[column].map(_unguarded)
        else:
            try:
                table[column] = pd.to_numeric(table[column].where(table[column] != "", None))
            except (ValueError, OverflowError):
                table[column] = table[column].map(_unguarded)
    return table


def foreign(file: Path, why: str) -> ConfigError:
    """The error for a table of a run's folder that is not ours."""
    return ConfigError(
        f"{file} is somebody else's table, or was damaged: {why}. python -m soupkitchen.tables {file.parent} "
        "makes it again"
    )


def joined(ingredients: tuple[str, ...]) -> str:
    """Names of ingredients in one cell; in a name, the separator has a backslash before it."""
    return INGREDIENT_SEPARATOR.join(re.sub(r"([\\;])", r"\\\1", name) for name in ingredients)


def separated(cell: str) -> tuple[str, ...]:
    """The names of ingredients in a cell."""
    names = re.findall(r"(?:[^\\;]|\\.)+", cell, re.DOTALL)
    return tuple(re.sub(r"\\(.)", r"\1", name, flags=re.DOTALL) for name in names)


def has_value(value: Any) -> bool:
    """Tells whether a cell holds something: not None, NaN or pandas' NA."""
    return value is not None and value is not pd.NA and value == value


def short(value: float | None) -> str:
    """A score as people read it."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.4f}" if abs(value) < 1000 else f"{value:.4g}"


def _guarded(cell: object) -> object:
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def _unguarded(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
