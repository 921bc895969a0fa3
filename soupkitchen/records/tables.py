"""Writes files whole or not at all, so that a reader never sees half of one."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pandas as pd

INGREDIENT_SEPARATOR = ";"
DIGITS = 10
"""Decimals of differences: enough for any score, and 0.0425 is not shown as 0.04250000000000009."""


def write_text(file: Path, text: str) -> None:
    """Writes `text` beside `file`, syncs it to disk, and renames it into place."""
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    beside = Path(name)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as handle:
            handle.write(text)
            handle.flush()
            os.fsync(handle.fileno())
        beside.chmod(0o644)
        beside.replace(file)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def write_csv(file: Path, table: pd.DataFrame) -> None:
    """Writes `table` as CSV, whole or not at all."""
    write_text(file, table.to_csv(index=False, lineterminator="\n"))


def joined(ingredients: tuple[str, ...]) -> str:
    """Names of ingredients in one cell."""
    return INGREDIENT_SEPARATOR.join(ingredients)


def remove_unfinished(file: Path) -> None:
    """Removes what kills in the middle of writing `file` left beside it; nobody else may be writing it."""
    for left in file.parent.glob(f".{file.name}.????????"):
        left.unlink(missing_ok=True)
