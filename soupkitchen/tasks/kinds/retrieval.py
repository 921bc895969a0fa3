"""Retrieval: the ranks of a query's relevant passages in a corpus."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from soupkitchen.errors import DataError
from soupkitchen.metrics import Rows
from soupkitchen.tasks import columns
from soupkitchen.tasks.base import Batch, Examples, Processor, without
from soupkitchen.tasks.data import Data, folders_of
from soupkitchen.tasks.kinds.embeddings import Searching, distinct, ranks

_JUDGEMENTS = ("query-id", "corpus-id", "score")
"""The columns of BEIR's files of judgements: a query, a passage, and above 0 if that is relevant."""


@dataclass(frozen=True)
class Retrieval(Searching):
    """Scores encoders by the ranks of relevant passages. Examples are queries.

    Metrics: ndcg_at_10, mrr_at_10, recall_at_10, map_at_100. All passages of the corpus are embedded before
    the first query, anew for each candidate; equal ones once. Of passages with the same score the relevant
    ones come last.

    Attributes:
        data: the queries; or, in the layout of BEIR, the judgements (``qrels/test.tsv``).
        metric: makes a number of the ranks.
        query: the column of queries.
        relevant: the column of the ids of relevant passages: one, or a list.
        corpus: the file of all passages, beside the data or anywhere.
        id: the column of ids in it; ``_id`` is found, too.
        passage: a template over its columns, such as ``"{title} {text}"``.
        queries: the file of the queries' texts, if the data is judgements.
        similarity, query_prompt, passage_prompt: see `soupkitchen.tasks.kinds.embeddings.Searching`.
        pooling, prompt, lower, max_length: see `soupkitchen.tasks.kinds.embeddings.Embedding`.

    Source: Thakur et al. 2021, "BEIR", arXiv 2104.08663.
    """

    looked_for = (columns.QUERY,)
    content = ("query",)

    query: str = "query"
    relevant: str = "relevant"
    corpus: str = "corpus.jsonl"
    id: str = "id"
    passage: str = "{text}"
    queries: str = "queries.jsonl"

    def examples_of(self, split: Dataset) -> Dataset:
        """The queries; judgements are grouped by query."""
        if self.query in split.column_names or not set(_JUDGEMENTS) <= set(split.column_names):
            return split
        table = read_beside("task.queries", self.queries, self.data)
        queries = queries_of(split, table, ids_of(table, self.id))
        return queries.rename_columns({"text": self.query, "relevant": self.relevant})

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        corpus = read_beside("task.corpus", self.corpus, self.data)
        relevant = places_of(split, self.relevant, ids_of(corpus, self.id))
        columns.check_template("task.passage", self.passage, corpus)
        queries = self.tokens_of("query", split, "query", processor, model)
        rows = ({n: "" if columns.is_missing(cell) else cell for n, cell in row.items()} for row in corpus)
        texts = Dataset.from_dict({self.passage: [columns.filled(self.passage, row).strip() for row in rows]})
        passages, which = distinct(self.tokens_of("passage", texts, "passage", processor, model))
        return Dataset.from_dict(
            {
                "input_ids": queries + passages,
                "relevant": [[which[n] for n in places] for places in relevant] + [[]] * len(passages),
                "copies": [1] * len(queries) + np.bincount(which).tolist(),
                "length": [len(tokens) for tokens in queries + passages],
            }
        )

    def references(self, prepared: Dataset) -> list[list[int]]:
        return [places for places in prepared["relevant"][:] if places]

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        padded = processor.pad({"input_ids": [e["input_ids"] for e in examples]}, return_tensors="pt")
        return {**padded, "copies": torch.tensor([[example["copies"]] for example in examples])}

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        """Embeddings, each with the number of corpus passages that have its text."""
        embeddings = self.comparable(self.embedded(model, without(batch, "copies")))
        return torch.cat([embeddings, batch["copies"].float()], dim=1)

    def ranked(self, outputs: Rows, corpus: Rows, references: Rows) -> Rows:
        passages, copies = np.split(np.asarray(corpus), [-1], axis=1)
        copies = np.nan_to_num(copies[:, 0]).astype(int)
        predictions: list[Any] = []
        for scores, relevant in zip(np.asarray(outputs)[:, :-1] @ passages.T, references, strict=True):
            others = copies.copy()
            np.subtract.at(others, relevant, 1)
            is_lost = np.isnan(scores).any()
            predictions.append(math.nan if is_lost else ranks(scores[relevant], np.repeat(scores, others)))
        return predictions


def read_beside(option: str, name: str, data: Data) -> Dataset:
    """The table in a file beside the data, or at its own path.

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
    """The row of each id in the column of `task.id`, or in BEIR's ``_id``.

    Raises:
        DataError: if an id is missing, or there twice.
    """
    if column not in table.column_names and "_id" in table.column_names:
        column = "_id"
    rows: dict[str, int] = {}
    for number, value in enumerate(columns.check_filled(table, "task.id", column)):
        if rows.setdefault(str(value), number) != number:
            raise DataError(
                f"task.id={column}: rows {rows[str(value)] + 1} and {number + 1} have the same id {value!r}"
            )
    return rows


def queries_of(judgements: Dataset, queries: Dataset, ids: Mapping[str, int]) -> Dataset:
    """The queries of BEIR's judgements: `text`, and `relevant` with passage ids, at least one.

    Args:
        queries: has a column `text`.
        ids: rows of queries by id.

    Raises:
        DataError: if a query is missing, or judgements are a drawn share.
    """
    if judgements._indices is not None:
        raise DataError(
            "task.data: a share of the training judgements was drawn to decide, and with it only some of "
            "what is relevant to a query; task.data.heldout=train, or another split, has all of it"
        )
    columns.check_column(queries, "task.queries: its text", "text")
    texts, relevant = queries["text"][:], dict[str, list[str]]()
    table = (judgements[column][:] for column in _JUDGEMENTS)
    for number, (query, passage, score) in enumerate(zip(*table, strict=True)):
        if str(query) not in ids:
            raise DataError(
                f"task.data: row {columns.row_of(judgements, number)} judges the query {query!r}, whose id "
                "is not in the file that task.queries names"
            )
        if score > 0:
            relevant.setdefault(str(query), []).append(str(passage))
    return Dataset.from_dict(
        {"text": [texts[ids[query]] for query in relevant], "relevant": list(relevant.values())}
    )


def places_of(split: Dataset, column: str, ids: Mapping[str, int]) -> list[list[int]]:
    """The rows of each query's relevant passages; a cell holds one id, or a list.

    Raises:
        DataError: if a query has none, or an unknown one.
    """
    rows = []
    for number, cell in enumerate(columns.check_filled(split, "task.relevant", column)):
        named = [str(id) for id in (cell if isinstance(cell, list) else [cell]) if not columns.is_missing(id)]
        where = f"task.relevant={column}: row {columns.row_of(split, number)}"
        if not named:
            raise DataError(f"{where} names no relevant passage; leave the row out")
        if unknown := [id for id in named if id not in ids]:
            raise DataError(
                f"{where} names the passage {unknown[0]!r}, whose id is not in the corpus; is task.id the "
                "right column of it?"
            )
        rows.append(sorted({ids[id] for id in named}))
    return rows
