"""Checks of what stands in the columns of data; what is wrong is named with its row."""

from __future__ import annotations

from ast import literal_eval
from typing import Any

import datasets

from soupkitchen.errors import DataError


def row_of(split: datasets.Dataset, number: int) -> int:
    """Which row of the source the example `number` is, the first being 1, where a share of it was drawn."""
    drawn = getattr(split, "_indices", None)
    return 1 + (number if drawn is None else drawn.column(0)[number].as_py())


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: null, or the NaN that stands for it among numbers."""
    return value is None or (isinstance(value, float) and value != value)


def is_unknown(split: datasets.Dataset, column: str) -> bool:
    """Whether all cells of a column are empty, or -1, which stands for a label that is kept secret."""
    if not isinstance(split.features[column], (datasets.Value, datasets.ClassLabel)):
        return False
    return all(is_missing(value) or value in (-1, "") for value in split[column])


def check_filled(split: datasets.Dataset, option: str, column: str) -> list[Any]:
    """The values of the column `column`, which `option` names, none of them missing.

    Raises:
        DataError: for the first one that is.
    """
    values: list[Any] = split[column][:]
    for number, value in enumerate(values):
        if is_missing(value):
            raise DataError(
                f"{option}={column}: row {row_of(split, number)} is empty; fill it, or leave the row out"
            )
    return values


def texts_of(split: datasets.Dataset, option: str, column: str) -> list[str]:
    """The texts in the column `column`, which `option` names.

    Raises:
        DataError: for the first that is missing or no text.
    """
    texts = check_filled(split, option, column)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise DataError(
                f"{option}={column}: row {row_of(split, number)} holds {shown(text)}, which is no text; "
                "name another column, or store the column as text (in .jsonl or .parquet; in a .csv, what "
                "looks like numbers is read as numbers)"
            )
    return texts


def lists_of(split: datasets.Dataset, option: str, column: str, kind: type | None, what: str) -> list[Any]:
    """The lists in the column `column`, which `option` names; entries are of `kind`, where that is given.

    Raises:
        DataError: for the first that is missing or no list of `what`.
    """
    rows = check_filled(split, option, column)
    for number, row in enumerate(rows):
        row = rows[number] = _literal(row)
        if not isinstance(row, list):
            raise DataError(
                f"{option}={column}: row {row_of(split, number)} holds {shown(row)}, which should be a list "
                f"of {what}"
            )
        for entry in row:
            if is_missing(entry) or (kind is not None and not isinstance(entry, kind)):
                raise DataError(
                    f"{option}={column}: row {row_of(split, number)} holds {shown(entry)} in its list, "
                    f"which should be one of {what}"
                )
    return rows


def _literal(cell: Any) -> Any:
    """What a cell holds; a list that is written out, as a table of text has it, is that list."""
    if not isinstance(cell, str) or not cell.strip().startswith("["):
        return cell
    try:
        return literal_eval(cell.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return cell


def shown(value: Any) -> str:
    """A value as messages show it: the beginning of a long one."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
