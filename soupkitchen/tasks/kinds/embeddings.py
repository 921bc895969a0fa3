"""Tasks on the embeddings of two or three texts, made and compared as in sentence-transformers."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoModel, PreTrainedModel

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.compatibility import sentences_of
from soupkitchen.checkpoints.sentence import MODULES, POOLINGS
from soupkitchen.errors import ConfigError, DataError
from soupkitchen.options.kinds import AnyText, AtLeast1, SomeTexts
from soupkitchen.tasks.base import Batch, DataTask, Examples, Processor
from soupkitchen.tasks.columns import LABEL, NUMBER, TEXTS, TRIPLET
from soupkitchen.tasks.labels import Column, Labelled, ModelLabels, Reader, Splits, affirmed, numbers_of
from soupkitchen.tasks.texts import check_tokens, longest, unwrapped

log = logging.getLogger(__name__)

AnyTask = TypeVar("AnyTask", bound="Embedding")


@dataclass(frozen=True, kw_only=True)
class Embedding(DataTask):
    """A task on embeddings.

    Attributes:
        pooling: how the tokens' last hidden states become one embedding: "mean", "cls" (the first),
            "lasttoken", "max", "mean_sqrt_len_tokens", "weightedmean", or several of these, side by side;
            None for what runs of sentence-transformers say, and else the mean.
        prompt: what comes before each text; None for what the runs say.
        lower: whether texts are put in lower case first, as old runs of sentence-transformers say.
        max_length: tokens after which a text is cut; None for what the runs say, and else the model's limit.
    """

    model_class = AutoModel
    takes_sentences: ClassVar[bool] = True

    pooling: SomeTexts | None = None
    prompt: AnyText | None = None
    lower: bool = False
    max_length: AtLeast1 | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [mode for mode in self.modes if mode not in POOLINGS]:
            raise ConfigError(f"task.pooling={unknown[0]}: choose {', '.join(POOLINGS)}")

    @property
    def modes(self) -> tuple[str, ...]:
        return (self.pooling,) if isinstance(self.pooling, str) else tuple(self.pooling or ("mean",))

    def fitted_to(self: AnyTask, runs: Sequence[Checkpoint]) -> AnyTask:
        """The task with settings from sentence-transformers' files beside the runs; options come first.

        Raises:
            IncompatibleError: if the runs differ.
            ConfigError: if `pooling` is set, but the runs' modules define the embedding.
        """
        said = sentences_of(runs, isinstance(self, Searching))
        if said is None:
            return self
        if self.pooling is not None:
            raise ConfigError(
                f"task.pooling={self.pooling}: the modules of the runs ({MODULES}) say what an embedding is; "
                "leave it null"
            )
        log.info("embeddings as the runs say (%s)", MODULES)
        options: dict[str, Any] = {"prompt": said.prompt, "max_length": said.max_length}
        if isinstance(self, Searching):
            options |= {"query_prompt": said.query, "passage_prompt": said.passage}
            options["similarity"] = said.similarity
        unset = {option: value for option, value in options.items() if getattr(self, option) is None}
        return replace(self, lower=self.lower or said.lower, **unset)

    def tokens(
        self, split: Dataset, option: str, processor: Processor, model: PreTrainedModel
    ) -> list[list[int]]:
        """The tokens of the texts in the column that `option` names."""
        inner = transformer_in(model)
        if inner is None:  # a table of embeddings
            limit, options = self.max_length or 1 << 30, {"add_special_tokens": False}
        else:
            limit, options = longest(processor, inner, self.max_length), {}
        texts = [f"{self.prompt or ''}{text}" for text in self.texts(split, option)]
        texts = [text.lower() for text in texts] if self.lower else texts
        tokens: list[list[int]] = processor(texts, truncation=True, max_length=limit, **options)["input_ids"]
        check_tokens(self, split, option, tokens, inner or model, processor)
        return tokens

    def embedded(self, model: torch.nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        """The embeddings of a batch of texts, float32 (texts, width)."""
        if isinstance(_uncompiled(model), torch.nn.Sequential):  # of modules of sentence-transformers
            embeddings: torch.Tensor = model(_features(model, batch))["sentence_embedding"]
            return embeddings.to_dense().float()
        hidden = model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"].unsqueeze(-1)
        return torch.cat([_pooled(hidden, mask, mode) for mode in self.modes], dim=-1)


@dataclass(frozen=True, kw_only=True)
class Searching(Embedding):
    """A task on queries and passages.

    Attributes:
        similarity: "cosine" or "dot"; None for what runs of sentence-transformers say, and else the cosine.
        query_prompt, passage_prompt: what comes before a query and before a passage; None for what the runs
            say, and else for `prompt`.
    """

    similarity: Literal["cosine", "dot"] | None = None
    query_prompt: AnyText | None = None
    passage_prompt: AnyText | None = None

    def tokens_of(
        self, kind: str, split: Dataset, option: str, processor: Processor, model: PreTrainedModel
    ) -> list[list[int]]:
        """The tokens of texts of a `kind`, "query" or "passage"."""
        prompt = getattr(self, f"{kind}_prompt")
        prompted = self if prompt is None else replace(self, prompt=prompt)
        return prompted.tokens(split, option, processor, model)

    def comparable(self, embedded: torch.Tensor) -> torch.Tensor:
        """Embeddings (texts, width) whose products are the similarities."""
        return embedded if self.similarity == "dot" else torch.nn.functional.normalize(embedded)


def ranks(relevant: np.ndarray, others: np.ndarray) -> list[int]:
    """The ranks of relevant passages by score, ascending, from 1.

    Of equal scores the relevant one comes last, so equal scores for all find nothing.

    Args:
        relevant, others: scores, float (passages,).
    """
    above = len(others) - np.searchsorted(np.sort(others), np.sort(relevant)[::-1], "left")
    ascending: list[int] = (above + np.arange(1, len(relevant) + 1)).tolist()
    return ascending


def distinct(texts: Sequence[list[int]]) -> tuple[list[list[int]], list[int]]:
    """The texts (tokens), each once, and each text's number among these.

    Equal texts in two batches differ by rounding, which must not order them.
    """
    numbers: dict[tuple[int, ...], int] = {}
    which = [numbers.setdefault(tuple(text), len(numbers)) for text in texts]
    return [list(text) for text in numbers], which


def transformer_in(model: Any) -> PreTrainedModel | None:
    """The model of transformers in `model`, or `model` itself, or None."""
    model = _uncompiled(model)
    return getattr(model[0], "auto_model", None) if isinstance(model, torch.nn.Sequential) else model


def _uncompiled(model: Any) -> Any:
    model = unwrapped(model)
    return getattr(model, "_orig_mod", model)  # torch.compile's wrapper is of no class of the model


def _features(model: torch.nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    if transformer_in(model) is not None:
        return dict(batch)
    mask = batch["attention_mask"]
    starts = mask.sum(1).cumsum(0).roll(1)
    starts[0] = 0
    return {"input_ids": batch["input_ids"][mask.bool()], "offsets": starts}


def _pooled(hidden: torch.Tensor, mask: torch.Tensor, mode: str) -> torch.Tensor:
    """Embeddings (texts, width) of hidden states (texts, tokens, width).

    Args:
        mask: 0 for padding, on either side: (texts, tokens, 1).
    """
    if mode == "max":
        return hidden.masked_fill(mask == 0, float("-inf")).max(1).values
    first = mask.argmax(1, keepdim=True)
    if mode == "cls":
        return hidden.take_along_dim(first, 1)[:, 0]
    number = mask.sum(1)
    if mode == "lasttoken":
        return hidden.take_along_dim(first + number.unsqueeze(1) - 1, 1)[:, 0]
    weights = mask.float()
    if mode == "weightedmean":
        place = torch.arange(1, hidden.shape[1] + 1, device=hidden.device)[None, :, None]
        weights = weights * (place - first)
    total = (hidden * weights).sum(1)
    return total / (number.sqrt() if mode == "mean_sqrt_len_tokens" else weights.sum(1))


class _Together(Embedding):
    """Examples are the texts in the columns of `content`."""

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        texts = {option: self.tokens(split, option, processor, model) for option in self.content}
        lengths = [sum(map(len, example)) for example in zip(*texts.values(), strict=True)]
        return Dataset.from_dict({**texts, "labels": self.encode_labels(split), "length": lengths})

    def encode_labels(self, split: Dataset) -> list[Any]:
        """The labels, one entry an example."""
        return [1] * len(split)

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        texts = [example[option] for option in self.content for example in examples]
        return dict(processor.pad({"input_ids": texts}, return_tensors="pt"))


@dataclass(frozen=True)
class EmbeddingSimilarity(_Together):
    """Scores encoders. Predictions are cosines; metrics: spearman, pearson, mse.

    Attributes:
        data: the pairs.
        metric: compares cosines with `label`.
        text, text_pair: the columns of the two texts.
        label: the column of how alike they are.
        pooling, prompt, lower, max_length: see `soupkitchen.tasks.kinds.embeddings.Embedding`.

    Source: Reimers and Gurevych 2019, "Sentence-BERT", arXiv 1908.10084.
    """

    looked_for = (TEXTS, NUMBER)
    content = ("text", "text_pair")

    text: str = "text"
    text_pair: str = "text_pair"
    label: str = "label"

    def encode_labels(self, split: Dataset) -> list[Any]:
        return numbers_of(split, self.label)

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        first, second = self.embedded(model, batch).chunk(2)
        return torch.nn.functional.cosine_similarity(first, second)


@dataclass(frozen=True)
class PairClassification(EmbeddingSimilarity, Labelled):
    """Scores encoders. Predictions are cosines.

    For cross-encoders use `TextClassification` with a `text_pair`.

    Attributes:
        metric: average_precision, best_accuracy, best_f1.
        label: the column of labels: 1 if the texts belong together, else 0; or two words, as "yes" and "no".
        labels: "indices", or 0 or 1 by the data's label; None to follow the labels.

    Source: Reimers and Gurevych 2019, "Sentence-BERT", arXiv 1908.10084.
    """

    looked_for = (TEXTS, LABEL)
    stratify = "label"

    def encode_labels(self, split: Dataset) -> list[Any]:
        return self.encoded(split, None)

    def reading(self, splits: Splits, model: Any) -> Any:
        column = Column.of(splits, self.label)
        words = [str(value) for value in column.positions or column.rows]
        if self.labels is None and len(words) == 2 and (yes := affirmed(words)) is not None:
            return {value: int(str(value) == words[yes]) for value in column.rows}
        for value in column.rows if self.labels is None else ():
            if column.positions is not None or column.number(value, 2) is None:
                raise DataError(
                    f"{column.name}: {column.first[value]} holds {value!r}, which should be 0 or 1; "
                    f"task.labels={{{value}: 1, …: 0}} says which label means that the texts belong together"
                )
        return Reader(column, ModelLabels(None, 2)).read(self.labels)


@dataclass(frozen=True)
class Triplets(_Together):
    """Scores encoders. A prediction is whether the cosine with `positive` is above that with `negative`.

    Attributes:
        data: the triplets.
        metric: accuracy.
        anchor, positive, negative: the columns of a text, of one that belongs to it, and of another.
        pooling, prompt, lower, max_length: see `soupkitchen.tasks.kinds.embeddings.Embedding`.

    Source: Schroff et al. 2015, "FaceNet", section 3.1, arXiv 1503.03832.
    """

    looked_for = (TRIPLET,)
    content = ("anchor", "positive", "negative")

    anchor: str = "anchor"
    positive: str = "positive"
    negative: str = "negative"

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> torch.Tensor:
        anchor, positive, negative = self.embedded(model, batch).chunk(3)
        _, *texts = batch["input_ids"].chunk(3)
        differ = (texts[0] != texts[1]).any(1)  # rounding is not to choose between equals
        cosine = torch.nn.functional.cosine_similarity
        return (differ & (cosine(anchor, positive) > cosine(anchor, negative))).long()
