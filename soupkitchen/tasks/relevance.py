"""Queries, the passages that are relevant to them, and where these stand among all others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from soupkitchen.errors import DataError
from soupkitchen.tasks.data import Data, check_columns, folders_of
from soupkitchen.tasks.values import check_filled, is_missing, row_of

JUDGEMENTS = ("query-id", "corpus-id", "score")
"""The columns of BEIR's files of judgements: a query, a passage, and above 0 where that is relevant."""
_ID = "_id"
"""What BEIR calls the column of ids."""


def ranks(relevant: np.ndarray, others: np.ndarray) -> list[int]:
    """The ranks of relevant passages by score, ascending, 1 for the first.

    Of equals the relevant one comes last: a model that finds all passages alike finds nothing.

    Args:
        relevant, others: scores, float (passages,).
    """
    above = len(others) - np.searchsorted(np.sort(others), np.sort(relevant)[::-1], "left")
    found: list[int] = (above + np.arange(1, len(relevant) + 1)).tolist()
    return found


def distinct(texts: Sequence[list[int]]) -> tuple[list[list[int]], list[int]]:
    """The texts, of tokens, each once; and for each text, which of these it is.

    A model answers the same text in two batches with a difference of rounding, which would order equals.
    """
    numbers: dict[tuple[int, ...], int] = {}
    which = [numbers.setdefault(tuple(text), len(numbers)) for text in texts]
    return [list(text) for text in numbers], which


def read_beside(option: str, name: str, data: Data) -> datasets.Dataset:
    """The table in a file that lies beside the data, or wherever its path says.

    Raises:
        DataError: where it is not there. `option` is what names it.
    """
    folders = folders_of(data)
    for folder in folders:
        if (file := folder / Path(name).expanduser()).is_file():
            return Data(str(file)).load("train")
    raise DataError(
        f"{option}={name}: there is no such file in {' or '.join(map(str, folders))}; name one, of csv, json "
        "lines or parquet"
    )


def ids_of(table: datasets.Dataset, option: str, column: str) -> dict[str, int]:
    """The row of each id.

    Raises:
        DataError: where an id is missing, or there twice.
    """
    if column not in table.column_names and _ID in table.column_names:
        column = _ID
    check_columns(table, {option: column})
    rows: dict[str, int] = {}
    for number, value in enumerate(check_filled(table, option, column)):
        if rows.setdefault(str(value), number) != number:
            raise DataError(
                f"{option}={column}: rows {rows[str(value)] + 1} and {number + 1} have the same id {value!r}"
            )
    return rows


def queries_of(judgements: datasets.Dataset, queries: datasets.Dataset, ids: Mapping[str, int]) -> Any:
    """Judgements as BEIR has them by query: its text, and the ids of what is relevant to it.

    Queries without anything relevant are left out.

    Args:
        queries: with a column of their texts.
        ids: of queries, with their rows.

    Raises:
        DataError: where a query is not there, or where only a share of the judgements is.
    """
    if getattr(judgements, "_indices", None) is not None:
        raise DataError(
            "task.data: a share of the training judgements was drawn to decide, and with it only some of "
            "what is relevant to a query; task.data.heldout=train, or another split, has all of it"
        )
    check_columns(queries, {"task.queries: its text": "text"})
    texts, relevant = queries["text"][:], dict[str, list[str]]()
    for number, (query, passage, score) in enumerate(
        zip(*(judgements[c][:] for c in JUDGEMENTS), strict=True)
    ):
        if str(query) not in ids:
            raise DataError(
                f"task.data: row {row_of(judgements, number)} judges the query {query!r}, whose id is not in "
                "the file that task.queries names"
            )
        if score > 0:
            relevant.setdefault(str(query), []).append(str(passage))
    return datasets.Dataset.from_dict(
        {"text": [texts[ids[query]] for query in relevant], "relevant": list(relevant.values())}
    )


def places_of(split: datasets.Dataset, option: str, column: str, ids: Mapping[str, int]) -> list[list[int]]:
    """For each query, the rows of the passages that are relevant to it: a cell holds one id, or a list.

    Raises:
        DataError: where a query has none, or one that is not in the corpus.
    """
    rows = []
    for number, told in enumerate(check_filled(split, option, column)):
        named = [str(one) for one in (told if isinstance(told, list) else [told]) if not is_missing(one)]
        where = f"{option}={column}: row {row_of(split, number)}"
        if not named:
            raise DataError(f"{where} names no relevant passage; leave the row out")
        if unknown := [one for one in named if one not in ids]:
            raise DataError(
                f"{where} names the passage {unknown[0]!r}, whose id is not in the corpus; is task.id the "
                "right column of it?"
            )
        rows.append(sorted({ids[one] for one in named}))
    return rows
