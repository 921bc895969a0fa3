"""Reranking: how far up the right ones of a query's passages are put, by embeddings or by a cross-encoder."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, ClassVar, Literal

import datasets
import numpy as np
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, PreTrainedModel

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.errors import ConfigError, DataError
from soupkitchen.metrics import TaskMetric
from soupkitchen.options.kinds import AnyText, AtLeast1, SomeTexts
from soupkitchen.tasks.base import Batch, Processor
from soupkitchen.tasks.columns import RANKED, Wanted
from soupkitchen.tasks.data import Data, check_columns
from soupkitchen.tasks.relevance import distinct, ranks
from soupkitchen.tasks.searching import Searching
from soupkitchen.tasks.texts import TextTask, at_once, check_tokens, longest, pad_alike
from soupkitchen.tasks.values import check_filled, row_of, texts_of

Texts = list[dict[str, list[int]]]
"""Of texts, what the model takes of each."""


@dataclass(frozen=True)
class Reranking(TextTask, Searching):
    """Scores encoders, or cross-encoders, by the ranks of the right passages among those of a query.

    Metrics: ndcg_at_10, mrr_at_10, recall_at_10, map_at_100. Of passages with the same score the right ones
    come last.

    Attributes:
        data: where the queries are, each with its passages.
        metric: what is made of the ranks.
        query: the column of queries.
        positive, negative: the columns of the passages that are right and of those that are not: one, or a
            list.
        architecture: "bi" for encoders, which embed queries and passages each for itself; "cross" for
            sequence classification with one output, which reads both at once.
        similarity, query_prompt, passage_prompt: how encoders search; see `soupkitchen.tasks.searching`.
        pooling, prompt, lower: how an embedding is made; see `soupkitchen.tasks.embedding`.
        max_length: tokens after which a text, or query and passage together, is cut; None for what runs of
            sentence-transformers say, and else the model's limit.

    Source: Nogueira and Cho 2019, "Passage Re-ranking with BERT", arXiv 1901.04085.
    """

    looked_for: ClassVar[tuple[Wanted, ...]] = (RANKED,)

    data: Data
    metric: TaskMetric
    query: str = "query"
    positive: str = "positive"
    negative: str = "negative"
    architecture: Literal["bi", "cross"] = "bi"
    similarity: Literal["cosine", "dot"] | None = None
    query_prompt: AnyText | None = None
    passage_prompt: AnyText | None = None
    pooling: SomeTexts | None = None
    prompt: AnyText | None = None
    lower: bool = False
    max_length: AtLeast1 | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.architecture not in ("bi", "cross"):
            raise ConfigError(f"task.architecture={self.architecture}: choose bi or cross")

    @property
    def model_class(self) -> type:
        return AutoModel if self.architecture == "bi" else AutoModelForSequenceClassification

    @property
    def content_columns(self) -> tuple[str, ...]:
        return self.query, self.positive, self.negative

    def fitted_to(self, runs: Sequence[Checkpoint]) -> Reranking:
        """The task with what sentence-transformers' files beside encoders say, where the options say nothing.

        Raises:
            IncompatibleError: where the runs differ in it.
            ConfigError: where they compare embeddings in a way that is not known here.
        """
        return super().fitted_to(runs) if self.architecture == "bi" else self

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        check_columns(split, {f"task.{o}": getattr(self, o) for o in ("query", "positive", "negative")})
        right, wrong = self._passages(split, "positive"), self._passages(split, "negative")
        passages = [[*some, *others] for some, others in zip(right, wrong, strict=True)]
        read = self._for_encoder if self.architecture == "bi" else self._for_cross_encoder
        texts: list[Texts] = []
        which: list[list[int]] = []
        for some in read(split, passages, processor, model):
            query = len(some) - len(passages[len(texts)])
            _, places = distinct([text["input_ids"] for text in some[query:]])
            firsts = [places.index(number) for number in range(max(places) + 1)]
            texts.append([*some[:query], *(some[query + first] for first in firsts)])
            which.append(places)
        return datasets.Dataset.from_dict(
            {
                "texts": texts,
                "which": which,
                "right": [len(some) for some in right],
                "length": [max(len(one["input_ids"]) for one in some) for some in texts],
            }
        )

    def references(self, prepared: datasets.Dataset) -> list[list[int]]:
        return [list(range(number)) for number in prepared["right"][:]]

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        def collate(examples: list[dict[str, Any]]) -> Batch:
            texts = [text for example in examples for text in example["texts"]]
            sizes = [[len(e["texts"]), len(e["which"]), e["right"]] for e in examples]
            which = [number for example in examples for number in example["which"]]
            told = {"sizes": torch.tensor(sizes), "which": torch.tensor(which)}
            return {**processor.pad(texts, return_tensors="pt"), **told}

        return collate

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> list[Any]:
        """For each query the ranks of its right passages."""
        inputs = {name: value for name, value in batch.items() if name not in ("sizes", "which")}
        sizes, numbers, right = batch["sizes"].T.tolist()
        if self.architecture == "cross":
            scores = model(**inputs, **at_once(model)).logits.float().squeeze(-1).split(sizes)
        else:
            embedded = self.comparable(self.embedded(model, inputs)).split(sizes)
            scores = tuple((some[1:] * some[0]).sum(-1) for some in embedded)  # mixed precision rounds no sum
        rows = np.split(torch.cat(scores).cpu().numpy(), np.cumsum([len(some) for some in scores])[:-1])
        which = (some.tolist() for some in batch["which"].split(numbers))
        passages = [(row[places], number) for row, places, number in zip(rows, which, right, strict=True)]
        return [math.nan if np.isnan(row).any() else ranks(row[:n], row[n:]) for row, n in passages]

    def _for_encoder(
        self,
        split: datasets.Dataset,
        passages: list[list[str]],
        processor: Processor,
        model: PreTrainedModel,
    ) -> list[Texts]:
        """Each query, and its passages after it."""
        table = datasets.Dataset.from_dict({self.positive: list(chain.from_iterable(passages))})
        queries = self.with_prompt(self.query_prompt).tokens(split, "query", processor, model)
        tokens = iter(self.with_prompt(self.passage_prompt).tokens(table, "positive", processor, model))
        return [
            [{"input_ids": query}, *({"input_ids": next(tokens)} for _ in some)]
            for query, some in zip(queries, passages, strict=True)
        ]

    def _for_cross_encoder(
        self,
        split: datasets.Dataset,
        passages: list[list[str]],
        processor: Processor,
        model: PreTrainedModel,
    ) -> list[Texts]:
        """Each query with each of its passages."""
        if model.config.num_labels != 1:
            raise DataError(
                f"the model has {model.config.num_labels} outputs; a cross-encoder needs one (num_labels=1)"
            )
        pad_alike(processor, model)
        limit, read = longest(processor, model, self.max_length), []
        for query, some in zip(texts_of(split, "task.query", self.query), passages, strict=True):
            told = processor([query] * len(some), some, truncation=True, max_length=limit)
            read.append([dict(zip(told, values, strict=True)) for values in zip(*told.values(), strict=True)])
        tokens = [[token for one in some for token in one["input_ids"]] for some in read]
        check_tokens(split, "task.query", self.query, tokens, model, processor)
        return read

    def _passages(self, split: datasets.Dataset, option: str) -> list[list[str]]:
        """The texts in the column that `option` names, of which a cell holds one or a list."""
        column, rows = getattr(self, option), []
        for number, told in enumerate(check_filled(split, f"task.{option}", getattr(self, option))):
            texts = told if isinstance(told, list) else [told]
            if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
                raise DataError(
                    f"task.{option}={column}: row {row_of(split, number)} should hold a text or a list of "
                    "texts, none of them empty; fill it, or leave the row out"
                )
            rows.append(texts)
        return rows
