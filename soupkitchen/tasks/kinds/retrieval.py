"""Retrieval: how far up a query's relevant passages are among all passages of a corpus."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from transformers import PreTrainedModel

from soupkitchen.metrics import Rows, TaskMetric
from soupkitchen.options.kinds import AnyText, AtLeast1, SomeTexts
from soupkitchen.tasks import relevance
from soupkitchen.tasks.base import Batch, Collate, Processor, without
from soupkitchen.tasks.cells import check_template, filled, is_missing
from soupkitchen.tasks.columns import QUERY
from soupkitchen.tasks.data import Data
from soupkitchen.tasks.embedding import Searching


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
        similarity, query_prompt, passage_prompt: see `soupkitchen.tasks.embedding.Searching`.
        pooling, prompt, lower, max_length: how an embedding is made; see `soupkitchen.tasks.embedding`.

    Source: Thakur et al. 2021, "BEIR", arXiv 2104.08663.
    """

    looked_for = (QUERY,)
    content = ("query",)

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

    def examples_of(self, split: Dataset) -> Dataset:
        """The queries of a split: judgements are put together by query."""
        if self.query in split.column_names or not set(relevance.JUDGEMENTS) <= set(split.column_names):
            return split
        table = relevance.read_beside("task.queries", self.queries, self.data)
        queries = relevance.queries_of(split, table, relevance.ids_of(table, self.id))
        return queries.rename_columns({"text": self.query, "relevant": self.relevant})

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        self.check_columns(split, "query", "relevant")
        corpus = relevance.read_beside("task.corpus", self.corpus, self.data)
        relevant = relevance.places_of(split, self.relevant, relevance.ids_of(corpus, self.id))
        check_template("task.passage", self.passage, corpus)
        queries = self.tokens_of("query", split, "query", processor, model)
        rows = [{name: "" if is_missing(cell) else cell for name, cell in row.items()} for row in corpus]
        texts = Dataset.from_dict({self.passage: [filled(self.passage, row).strip() for row in rows]})
        passages, which = relevance.distinct(self.tokens_of("passage", texts, "passage", processor, model))
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

    def collator(self, processor: Processor) -> Collate:
        def collate(examples: list[dict[str, Any]]) -> Batch:
            padded = processor.pad({"input_ids": [e["input_ids"] for e in examples]}, return_tensors="pt")
            return {**padded, "copies": torch.tensor([[example["copies"]] for example in examples])}

        return collate

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        """Embeddings; beside each, how many passages of the corpus have that text."""
        embeddings = self.comparable(self.embedded(model, without(batch, "copies")))
        return torch.cat([embeddings, batch["copies"].float()], dim=1)

    def ranked(self, outputs: Rows, corpus: Rows, references: Rows) -> Rows:
        """The ranks of the passages that are relevant to each query."""
        passages, copies = np.split(np.asarray(corpus), [-1], axis=1)
        copies = np.nan_to_num(copies[:, 0]).astype(int)
        predictions: list[Any] = []
        for scores, relevant in zip(np.asarray(outputs)[:, :-1] @ passages.T, references, strict=True):
            others = copies.copy()
            np.subtract.at(others, relevant, 1)
            is_lost = np.isnan(scores).any()
            predictions.append(
                math.nan if is_lost else relevance.ranks(scores[relevant], np.repeat(scores, others))
            )
        return predictions
