"""Prompts: templates over the columns of the data."""

from __future__ import annotations

import string
from collections.abc import Iterator, Mapping
from typing import Any

import datasets

from soupkitchen.errors import ConfigError
from soupkitchen.tasks.data import check_columns
from soupkitchen.tasks.values import check_filled


def template_columns(option: str, template: str) -> list[str]:
    """The columns that a template such as ``"Sum of {a} and {b}:"`` names.

    Raises:
        ConfigError: where it is no template. `option` is what names it.
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


def check_template(option: str, template: str, split: datasets.Dataset) -> None:
    """Checks that the data has the template's columns.

    Raises:
        ConfigError, DataError: where it has not.
    """
    check_columns(split, {f"{option}: {{{c}}} of {option}": c for c in template_columns(option, template)})


def prompts(template: str, split: datasets.Dataset) -> Iterator[str]:
    """The template of `task.prompt`, filled with each example.

    Raises:
        DataError: where a cell that it needs is empty.
    """
    for column in template_columns("task.prompt", template):
        check_filled(split, "task.prompt, column", column)
    return (filled(template, example) for example in split)


def filled(template: str, example: Mapping[str, Any]) -> str:
    """The template with an example's values. A backslash and an n, as on command lines, is a new line."""
    return template.replace("\\n", "\n").format(**example)
