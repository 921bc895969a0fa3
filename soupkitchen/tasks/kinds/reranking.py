"""Reranking: the ranks of the right ones among a query's passages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.errors import DataError
from soupkitchen.tasks.base import Batch, Examples, Processor, without
from soupkitchen.tasks.columns import RANKED, check_filled, row_of
from soupkitchen.tasks.kinds.embeddings import Searching, distinct, ranks
from soupkitchen.tasks.texts import at_once, check_tokens, longest, pad_alike

Texts = list[dict[str, list[int]]]


@dataclass(frozen=True)
class Reranking(Searching):
    """Scores encoders, or cross-encoders, by the ranks of the right passages among those of a query.

    Metrics: ndcg_at_10, mrr_at_10, recall_at_10, map_at_100. Of passages with the same score the right ones
    come last.

    Attributes:
        data: the queries, each with its passages.
        metric: makes a number of the ranks.
        query: the column of queries.
        positive, negative: the columns of right and of wrong passages: one, or a list.
        architecture: "bi" for encoders, which embed queries and passages each for itself; "cross" for
            sequence classification with one output, which reads both at once.
        similarity, query_prompt, passage_prompt: see `soupkitchen.tasks.kinds.embeddings.Searching`.
        pooling, prompt, lower: see `soupkitchen.tasks.kinds.embeddings.Embedding`.
        max_length: tokens after which a text, or query and passage together, is cut; None for what runs of
            sentence-transformers say, and else the model's limit.

    Source: Nogueira and Cho 2019, "Passage Re-ranking with BERT", arXiv 1901.04085.
    """

    looked_for = (RANKED,)
    content = ("query", "positive", "negative")

    query: str = "query"
    positive: str = "positive"
    negative: str = "negative"
    architecture: Literal["bi", "cross"] = "bi"

    @property
    def model_class(self) -> type:
        return AutoModel if self.architecture == "bi" else AutoModelForSequenceClassification

    @property
    def takes_sentences(self) -> bool:  # type: ignore[override]
        return self.architecture == "bi"

    def fitted_to(self, runs: Sequence[Checkpoint]) -> Reranking:
        return super().fitted_to(runs) if self.architecture == "bi" else self

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        right, wrong = self._passages(split, "positive"), self._passages(split, "negative")
        passages = [first + second for first, second in zip(right, wrong, strict=True)]
        if self.architecture == "bi":
            queries: list[Texts] = [
                [{"input_ids": tokens}]
                for tokens in self.tokens_of("query", split, "query", processor, model)
            ]
            table = Dataset.from_dict({self.positive: list(chain.from_iterable(passages))})
            tokens = iter(self.tokens_of("passage", table, "positive", processor, model))
            inputs = [[{"input_ids": next(tokens)} for _ in group] for group in passages]
        else:
            queries = [[] for _ in passages]
            inputs = self._pairs(split, passages, processor, model)
        texts, which = [], []
        for query, group in zip(queries, inputs, strict=True):
            _, places = distinct([text["input_ids"] for text in group])
            firsts = [places.index(number) for number in range(max(places) + 1)]
            texts.append([*query, *(group[first] for first in firsts)])
            which.append(places)
        lengths = [max(len(text["input_ids"]) for text in group) for group in texts]
        return Dataset.from_dict(
            {"texts": texts, "which": which, "right": [len(group) for group in right], "length": lengths}
        )

    def references(self, prepared: Dataset) -> list[list[int]]:
        return [list(range(number)) for number in prepared["right"][:]]

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        texts = [text for example in examples for text in example["texts"]]
        sizes = torch.tensor([[len(e["texts"]), len(e["which"]), e["right"]] for e in examples])
        which = torch.tensor([number for example in examples for number in example["which"]])
        return {**processor.pad(texts, return_tensors="pt"), "sizes": sizes, "which": which}

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> list[Any]:
        inputs = without(batch, "sizes", "which")
        sizes, numbers, right = batch["sizes"].T.tolist()
        if self.architecture == "cross":
            scores = model(**inputs, **at_once(model)).logits.float().squeeze(-1).split(sizes)
        else:
            embedded = self.comparable(self.embedded(model, inputs)).split(sizes)
            scores = tuple(
                (group[1:] * group[0]).sum(-1) for group in embedded
            )  # mixed precision rounds no sum
        every = torch.cat(scores).cpu().numpy()  # at once: each copy would wait for the device
        rows = np.split(every, np.cumsum([len(group) for group in scores])[:-1])
        which = (places.tolist() for places in batch["which"].split(numbers))
        passages = [(row[places], number) for row, places, number in zip(rows, which, right, strict=True)]
        return [math.nan if np.isnan(row).any() else ranks(row[:n], row[n:]) for row, n in passages]

    def _pairs(
        self, split: Dataset, passages: list[list[str]], processor: Processor, model: PreTrainedModel
    ) -> list[Texts]:
        if model.config.num_labels != 1:
            raise DataError(
                f"the model has {model.config.num_labels} outputs; a cross-encoder needs one (num_labels=1)"
            )
        pad_alike(processor, model)
        limit, pairs = longest(processor, model, self.max_length), []
        for query, group in zip(self.texts(split, "query"), passages, strict=True):
            encoded = processor([query] * len(group), group, truncation=True, max_length=limit)
            rows = zip(*encoded.values(), strict=True)
            pairs.append([dict(zip(encoded, row, strict=True)) for row in rows])
        tokens = [[token for text in group for token in text["input_ids"]] for group in pairs]
        check_tokens(self, split, "query", tokens, model, processor)
        return pairs

    def _passages(self, split: Dataset, option: str) -> list[list[str]]:
        column, rows = getattr(self, option), []
        for number, cell in enumerate(check_filled(split, f"task.{option}", column)):
            texts = cell if isinstance(cell, list) else [cell]
            if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
                raise DataError(
                    f"task.{option}={column}: row {row_of(split, number)} should hold a text or a list of "
                    "texts, none of them empty; fill it, or leave the row out"
                )
            rows.append(texts)
        return rows
