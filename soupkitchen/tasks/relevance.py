"""Queries, the passages that are relevant to them, and their ranks among all passages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from datasets import Dataset

from soupkitchen.errors import DataError
from soupkitchen.tasks.cells import check_columns, check_filled, is_missing, row_of
from soupkitchen.tasks.data import Data, folders_of

JUDGEMENTS = ("query-id", "corpus-id", "score")
"""The columns of BEIR's files of judgements: a query, a passage, and above 0 if that is relevant."""


def ranks(relevant: np.ndarray, others: np.ndarray) -> list[int]:
    """The ranks of relevant passages by score, ascending, 1 for the first.

    Of equals the relevant one comes last: a model that finds all passages alike finds nothing.

    Args:
        relevant, others: scores, float (passages,).
    """
    above = len(others) - np.searchsorted(np.sort(others), np.sort(relevant)[::-1], "left")
    ascending: list[int] = (above + np.arange(1, len(relevant) + 1)).tolist()
    return ascending


def distinct(texts: Sequence[list[int]]) -> tuple[list[list[int]], list[int]]:
    """The texts, of tokens, each once; and for each text, which of these it is.

    A model answers the same text in two batches with a difference of rounding, which would order equals.
    """
    numbers: dict[tuple[int, ...], int] = {}
    which = [numbers.setdefault(tuple(text), len(numbers)) for text in texts]
    return [list(text) for text in numbers], which


def read_beside(option: str, name: str, data: Data) -> Dataset:
    """The table in a file that lies beside the data, or at its own path; `option` names it.

    Raises:
        DataError: if it is not there.
    """
    folders = folders_of(data)
    for folder in folders:
        if (file := folder / Path(name).expanduser()).is_file():
            return Data(str(file)).load("train")
    raise DataError(
        f"{option}={name}: there is no such file in {' or '.join(map(str, folders))}; name one, of csv, json "
        "lines or parquet"
    )


def ids_of(table: Dataset, column: str) -> dict[str, int]:
    """The row of each id in the column that `task.id` names, or in BEIR's ``_id``.

    Raises:
        DataError: if an id is missing, or there twice.
    """
    if column not in table.column_names and "_id" in table.column_names:
        column = "_id"
    check_columns(table, {"task.id": column})
    rows: dict[str, int] = {}
    for number, value in enumerate(check_filled(table, "task.id", column)):
        if rows.setdefault(str(value), number) != number:
            raise DataError(
                f"task.id={column}: rows {rows[str(value)] + 1} and {number + 1} have the same id {value!r}"
            )
    return rows


def queries_of(judgements: Dataset, queries: Dataset, ids: Mapping[str, int]) -> Dataset:
    """The queries of BEIR's judgements: the columns `text` and `relevant`, ids of passages.

    Queries without anything relevant are left out.

    Args:
        queries: with a column of their texts.
        ids: of queries, with their rows.

    Raises:
        DataError: if a query is not there, or if only a share of the judgements is.
    """
    if judgements._indices is not None:
        raise DataError(
            "task.data: a share of the training judgements was drawn to decide, and with it only some of "
            "what is relevant to a query; task.data.heldout=train, or another split, has all of it"
        )
    check_columns(queries, {"task.queries: its text": "text"})
    texts, relevant = queries["text"][:], dict[str, list[str]]()
    columns = (judgements[column][:] for column in JUDGEMENTS)
    for number, (query, passage, score) in enumerate(zip(*columns, strict=True)):
        if str(query) not in ids:
            raise DataError(
                f"task.data: row {row_of(judgements, number)} judges the query {query!r}, whose id is not in "
                "the file that task.queries names"
            )
        if score > 0:
            relevant.setdefault(str(query), []).append(str(passage))
    return Dataset.from_dict(
        {"text": [texts[ids[query]] for query in relevant], "relevant": list(relevant.values())}
    )


def places_of(split: Dataset, column: str, ids: Mapping[str, int]) -> list[list[int]]:
    """The rows of the passages that are relevant to each query: a cell holds one id, or a list.

    Raises:
        DataError: if a query has none, or one that is not in the corpus.
    """
    rows = []
    for number, cell in enumerate(check_filled(split, "task.relevant", column)):
        named = [str(id) for id in (cell if isinstance(cell, list) else [cell]) if not is_missing(id)]
        where = f"task.relevant={column}: row {row_of(split, number)}"
        if not named:
            raise DataError(f"{where} names no relevant passage; leave the row out")
        if unknown := [id for id in named if id not in ids]:
            raise DataError(
                f"{where} names the passage {unknown[0]!r}, whose id is not in the corpus; is task.id the "
                "right column of it?"
            )
        rows.append(sorted({ids[id] for id in named}))
    return rows
