"""Retrieval: how far up a query's relevant passages are among all passages of a corpus."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import datasets
import numpy as np
import torch
from transformers import AutoModel, PreTrainedModel

from soupkitchen.metrics import Rows, TaskMetric
from soupkitchen.options.kinds import AnyText, AtLeast1, SomeTexts
from soupkitchen.tasks.base import Batch, Processor
from soupkitchen.tasks.columns import QUERY, Wanted
from soupkitchen.tasks.data import Data, check_columns
from soupkitchen.tasks.prompts import check_template, filled
from soupkitchen.tasks.relevance import (
    JUDGEMENTS,
    distinct,
    ids_of,
    places_of,
    queries_of,
    ranks,
    read_beside,
)
from soupkitchen.tasks.searching import Searching
from soupkitchen.tasks.texts import TextTask
from soupkitchen.tasks.values import is_missing


@dataclass(frozen=True)
class Retrieval(TextTask, Searching):
    """Scores encoders by the ranks of relevant passages. Examples are queries.

    Metrics: ndcg_at_10, mrr_at_10, recall_at_10, map_at_100. All passages of the corpus are embedded before
    the first query, anew for each candidate; equal ones once. Of passages with the same score the relevant
    ones come last.

    Attributes:
        data: where the queries are; or, in the layout of BEIR, the judgements (``qrels/test.tsv``).
        metric: what is made of the ranks.
        query: the column of queries.
        relevant: the column of the ids of what is relevant: one, or a list.
        corpus: the file of all passages, beside the data or anywhere.
        id: the column of ids in it; ``_id`` is found, too.
        passage: a template over its columns, such as ``"{title} {text}"``.
        queries: the file of the queries' texts, where the data is judgements.
        similarity, query_prompt, passage_prompt: how it is searched; see `soupkitchen.tasks.searching`.
        pooling, prompt, lower, max_length: how an embedding is made; see `soupkitchen.tasks.embedding`.

    Source: Thakur et al. 2021, "BEIR", arXiv 2104.08663.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (QUERY,)

    data: Data
    metric: TaskMetric
    query: str = "query"
    relevant: str = "relevant"
    corpus: str = "corpus.jsonl"
    id: str = "id"
    passage: str = "{text}"
    queries: str = "queries.jsonl"
    similarity: Literal["cosine", "dot"] | None = None
    query_prompt: AnyText | None = None
    passage_prompt: AnyText | None = None
    pooling: SomeTexts | None = None
    prompt: AnyText | None = None
    lower: bool = False
    max_length: AtLeast1 | None = None

    @property
    def model_class(self) -> type:
        return AutoModel

    @property
    def content_columns(self) -> tuple[str, ...]:
        return (self.query,)

    def examples_of(self, split: datasets.Dataset) -> datasets.Dataset:
        """The queries of a split: judgements are put together by query."""
        if self.query in split.column_names or not set(JUDGEMENTS) <= set(split.column_names):
            return split
        queries = read_beside("task.queries", self.queries, self.data)
        found = queries_of(split, queries, ids_of(queries, "task.id", self.id))
        return found.rename_columns({"text": self.query, "relevant": self.relevant})

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        check_columns(split, {"task.query": self.query, "task.relevant": self.relevant})
        corpus = read_beside("task.corpus", self.corpus, self.data)
        relevant = places_of(split, "task.relevant", self.relevant, ids_of(corpus, "task.id", self.id))
        check_template("task.passage", self.passage, corpus)
        queries = self.with_prompt(self.query_prompt).tokens(split, "query", processor, model)
        texts = [
            filled(self.passage, {n: "" if is_missing(v) else v for n, v in row.items()}).strip()
            for row in corpus
        ]
        table = datasets.Dataset.from_dict({self.passage: texts})
        tokens = self.with_prompt(self.passage_prompt).tokens(table, "passage", processor, model)
        passages, which = distinct(tokens)
        return datasets.Dataset.from_dict(
            {
                "input_ids": queries + passages,
                "relevant": [[which[place] for place in some] for some in relevant] + [[]] * len(passages),
                "copies": [1] * len(queries) + np.bincount(which).tolist(),
                "length": [len(tokens) for tokens in queries + passages],
            }
        )

    def references(self, prepared: datasets.Dataset) -> list[list[int]]:
        return [places for places in prepared["relevant"][:] if places]

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        def collate(examples: list[dict[str, Any]]) -> Batch:
            padded = processor.pad({"input_ids": [e["input_ids"] for e in examples]}, return_tensors="pt")
            return {**padded, "copies": torch.tensor([[example["copies"]] for example in examples])}

        return collate

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        """Embeddings; beside each, how many passages of the corpus have that text."""
        inputs = {name: value for name, value in batch.items() if name != "copies"}
        return torch.cat([self.comparable(self.embedded(model, inputs)), batch["copies"].float()], dim=1)

    def ranked(self, outputs: Rows, corpus: Rows, references: Rows) -> Rows:
        """The ranks of what is relevant to each query, by their embeddings and those of the corpus."""
        passages, copies = np.split(np.asarray(corpus), [-1], axis=1)
        copies = np.nan_to_num(copies[:, 0]).astype(int)
        told: list[Any] = []
        for scores, relevant in zip(np.asarray(outputs)[:, :-1] @ passages.T, references, strict=True):
            others = copies.copy()
            np.subtract.at(others, relevant, 1)
            known = not np.isnan(scores).any()
            told.append(ranks(scores[relevant], np.repeat(scores, others)) if known else math.nan)
        return told
