"""Cells of data: checks of columns and of what they hold, and templates over them.

Each message names the option, the column and the row.
"""

from __future__ import annotations

import string
from ast import literal_eval
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import datasets
from datasets import Dataset

from soupkitchen.errors import ConfigError, DataError, did_you_mean


def row_of(split: Dataset, number: int) -> int:
    """The row in the source of the example `number`; the first is 1, and a share may have been drawn."""
    drawn = split._indices
    return 1 + (number if drawn is None else drawn.column(0)[number].as_py())


def is_missing(value: Any) -> bool:
    """Tells whether a cell is empty: null, or the NaN that stands for it among numbers."""
    return value is None or (isinstance(value, float) and value != value)


def is_unknown(split: Dataset, column: str) -> bool:
    """Tells whether all cells of a column are empty, or -1, which stands for a label that is kept secret."""
    if not isinstance(split.features[column], (datasets.Value, datasets.ClassLabel)):
        return False
    return all(is_missing(value) or value in (-1, "") for value in split[column])


def check_columns(split: Dataset, columns: Mapping[str, str]) -> None:
    """Checks that each column exists; `columns` maps the option that names it to its name.

    Raises:
        DataError: naming the option, the column and the columns of the data.
    """
    for option, column in columns.items():
        if column not in split.column_names:
            raise DataError(
                f"{option}={column}: the data has no such column; it has {', '.join(split.column_names)}"
                f"{did_you_mean(column, split.column_names)}"
            )


def check_filled(split: Dataset, option: str, column: str) -> list[Any]:
    """The values of the column that `option` names.

    Raises:
        DataError: for the first that is missing.
    """
    values: list[Any] = split[column][:]
    for number, value in enumerate(values):
        if is_missing(value):
            raise DataError(
                f"{option}={column}: row {row_of(split, number)} is empty; fill it, or leave the row out"
            )
    return values


def texts_of(split: Dataset, option: str, column: str) -> list[str]:
    """The texts in the column that `option` names.

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


def lists_of(split: Dataset, option: str, column: str, kind: type, what: str) -> list[Any]:
    """The lists in the column that `option` names, with entries of type `kind`.

    A list that is written out, as in a table of texts, is read as that list.

    Raises:
        DataError: for the first cell that is missing or no list of `what`.
    """
    rows = check_filled(split, option, column)
    for number, row in enumerate(rows):
        if isinstance(row, str) and row.strip().startswith("["):
            with suppress(ValueError, SyntaxError, RecursionError, MemoryError):
                row = rows[number] = literal_eval(row.strip())
        where = f"{option}={column}: row {row_of(split, number)} holds"
        if not isinstance(row, list):
            raise DataError(f"{where} {shown(row)}, which should be a list of {what}")
        for entry in row:
            if is_missing(entry) or not isinstance(entry, kind):
                raise DataError(f"{where} {shown(entry)} in its list, which should be one of {what}")
    return rows


def template_columns(option: str, template: str) -> list[str]:
    """The columns in a template such as ``"Sum of {a} and {b}:"``.

    Raises:
        ConfigError: if it is no template. `option` names it.
    """
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ConfigError(
            f"{option}={template!r} is no template ({error}); write {{{{ for a brace"
        ) from error
    if wrong := [field for field in fields if not field.isidentifier()]:
        raise ConfigError(f"{option}={template!r}: {{{wrong[0]}}} should be the plain name of a column")
    return fields


def check_template(option: str, template: str, split: Dataset) -> list[str]:
    """The columns in a template; checks that the data has them.

    Raises:
        ConfigError, DataError: if it has not.
    """
    columns = template_columns(option, template)
    check_columns(split, {f"{option}: {{{column}}} of {option}": column for column in columns})
    return columns


def prompts(template: str, split: Dataset) -> Iterator[str]:
    """The template of `task.prompt`, filled with each example.

    Raises:
        ConfigError, DataError: if a column is not there, or a cell of it is empty.
    """
    for column in check_template("task.prompt", template, split):
        check_filled(split, "task.prompt, column", column)
    return (filled(template, example) for example in split)


def filled(template: str, example: Mapping[str, Any]) -> str:
    """The template with an example's values. A backslash and an n, as on command lines, is a new line."""
    return template.replace("\\n", "\n").format(**example)


def shown(value: Any) -> str:
    """A value as messages show it: the beginning of a long one."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


def first_line(error: BaseException) -> str:
    """The first line of an error's message; its name if it has none."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return (text.strip().splitlines() or [type(error).__name__])[0]
