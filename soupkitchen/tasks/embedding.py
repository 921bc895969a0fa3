"""Embeddings of texts, made as sentence-transformers makes them, and how they are compared."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from datasets import Dataset
from transformers import AutoModel, PreTrainedModel

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.modules import MODULES
from soupkitchen.checkpoints.sentence import POOLINGS, Prompts, of_all
from soupkitchen.errors import ConfigError
from soupkitchen.options.kinds import AnyText, AtLeast1, SomeTexts
from soupkitchen.tasks.base import Processor, Task
from soupkitchen.tasks.texts import check_tokens, longest, unwrapped

log = logging.getLogger(__name__)

AnyTask = TypeVar("AnyTask", bound="Embedding")


class Embedding(Task):
    """A task on embeddings; its subclasses are dataclasses with these options.

    Attributes:
        pooling: how the tokens' last hidden states become one embedding: "mean", "cls" (the first),
            "lasttoken", "max", "mean_sqrt_len_tokens", "weightedmean", or several of these, side by side;
            None for what runs of sentence-transformers say, and else the mean.
        prompt: what comes before each text; None for what the runs say.
        lower: whether texts are put in lower case first, as old runs of sentence-transformers say.
        max_length: tokens after which a text is cut; None for what the runs say, and else the model's limit.
    """

    takes_sentences: ClassVar[bool] = True

    pooling: SomeTexts | None
    prompt: AnyText | None
    lower: bool
    max_length: AtLeast1 | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if unknown := [mode for mode in self.modes if mode not in POOLINGS]:
            raise ConfigError(f"task.pooling={unknown[0]}: choose {', '.join(POOLINGS)}")

    @property
    def model_class(self) -> type:
        return AutoModel

    @property
    def modes(self) -> tuple[str, ...]:
        """The poolings."""
        return (self.pooling,) if isinstance(self.pooling, str) else tuple(self.pooling or ("mean",))

    def fitted_to(self: AnyTask, runs: Sequence[Checkpoint]) -> AnyTask:
        """The task with what sentence-transformers' files beside the runs say, if the options do not.

        Raises:
            IncompatibleError: if the runs differ in it.
            ConfigError: for a pooling, if the runs have modules that say what an embedding is.
        """
        settings = of_all(runs)
        if settings is None:
            return self
        if not settings.pooling and self.pooling is not None:
            raise ConfigError(
                f"task.pooling={self.pooling}: the modules of the runs ({MODULES}) say what an embedding is; "
                "leave it null"
            )
        poolings = "+".join(settings.pooling) or "of their own"
        log.info("embeddings as the runs say (%s): pooling %s", MODULES, poolings)
        options = {"pooling": settings.pooling or None, "prompt": settings.prompt}
        return self._with(lower=self.lower or settings.lower, max_length=settings.max_length, **options)

    def _with(self: AnyTask, lower: bool, **options: Any) -> AnyTask:
        """The task with `lower`, and with the other options if they are None in it."""
        unset = {option: value for option, value in options.items() if getattr(self, option) is None}
        return replace(self, lower=lower, **unset)  # type: ignore[type-var]

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
        if isinstance(unwrapped(model), torch.nn.Sequential):  # of modules of sentence-transformers
            embeddings: torch.Tensor = model(_features(model, batch))["sentence_embedding"]
            return embeddings.to_dense().float()
        hidden = model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"].unsqueeze(-1)
        return torch.cat([_pooled(hidden, mask, mode) for mode in self.modes], dim=-1)


class Searching(Embedding):
    """A task on queries and passages; its subclasses are dataclasses with these options, too.

    Attributes:
        similarity: "cosine" or "dot"; None for what runs of sentence-transformers say, and else the cosine.
        query_prompt, passage_prompt: what comes before a query and before a passage; None for what the runs
            say, and else for `prompt`.
    """

    similarity: Literal["cosine", "dot"] | None
    query_prompt: AnyText | None
    passage_prompt: AnyText | None

    def fitted_to(self: AnyTask, runs: Sequence[Checkpoint]) -> AnyTask:
        fitted, prompts = super().fitted_to(runs), Prompts.of(runs[0].path)
        options = {"query_prompt": prompts.query, "passage_prompt": prompts.passage}
        return fitted._with(fitted.lower, similarity=prompts.similarity, **options)

    def tokens_of(
        self, kind: str, split: Dataset, option: str, processor: Processor, model: PreTrainedModel
    ) -> list[list[int]]:
        """The tokens of texts of a `kind`, "query" or "passage", with the prompt of that kind."""
        prompt = getattr(self, f"{kind}_prompt")
        prompted = self if prompt is None else replace(self, prompt=prompt)  # type: ignore[type-var]
        return prompted.tokens(split, option, processor, model)

    def comparable(self, embedded: torch.Tensor) -> torch.Tensor:
        """Embeddings (texts, width) whose products are the similarities."""
        return embedded if self.similarity == "dot" else torch.nn.functional.normalize(embedded)


def transformer_in(model: Any) -> PreTrainedModel | None:
    """The model of transformers in one of sentence-transformers, or itself; None if there is none."""
    model = unwrapped(model)
    return getattr(model[0], "auto_model", None) if isinstance(model, torch.nn.Sequential) else model


def _features(model: torch.nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch as sentence-transformers' modules take it, which add to it."""
    if transformer_in(model) is not None:
        return dict(batch)
    mask = batch["attention_mask"]
    starts = mask.sum(1).cumsum(0).roll(1)
    starts[0] = 0
    return {"input_ids": batch["input_ids"][mask.bool()], "offsets": starts}


def _pooled(hidden: torch.Tensor, mask: torch.Tensor, mode: str) -> torch.Tensor:
    """An embedding (texts, width) of hidden states (texts, tokens, width), as sentence-transformers makes it.

    Args:
        mask: 0 for padding, which is on either side: (texts, tokens, 1).
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
