"""Embeddings of texts, made as sentence-transformers makes them: what tasks on them share."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import datasets
import torch
from transformers import PreTrainedModel

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.modules import MODULES
from soupkitchen.checkpoints.sentence import POOLINGS, of_all
from soupkitchen.errors import ConfigError
from soupkitchen.options.kinds import AnyText, AtLeast1, SomeTexts
from soupkitchen.tasks.base import Processor
from soupkitchen.tasks.texts import check_tokens, longest, unwrapped
from soupkitchen.tasks.values import texts_of

log = logging.getLogger(__name__)

AnyTask = TypeVar("AnyTask", bound="Embedding")


class Embedding:
    """What a task that is a dataclass with these options has in common with others.

    Attributes:
        pooling: what is made of the tokens' last hidden states: their "mean", that of the first ("cls"), of
            the last ("lasttoken"), "max", "mean_sqrt_len_tokens", "weightedmean", or several of these, side
            by side; None for what runs of sentence-transformers say, and else the mean.
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
        if unknown := [mode for mode in self.modes if mode not in POOLINGS]:
            raise ConfigError(f"task.pooling={unknown[0]}: choose {', '.join(POOLINGS)}")

    @property
    def modes(self) -> tuple[str, ...]:
        """The poolings."""
        if self.pooling is None:
            return ("mean",)
        return (self.pooling,) if isinstance(self.pooling, str) else tuple(self.pooling)

    def fitted_to(self: AnyTask, runs: Sequence[Checkpoint]) -> AnyTask:
        """The task with what sentence-transformers' files beside the runs say, where the options say nothing.

        Raises:
            IncompatibleError: where the runs differ in it.
            ConfigError: for a pooling where the runs have modules that say what an embedding is.
        """
        told = of_all(runs)
        if told is None:
            return self
        if not told.pooling and self.pooling is not None:
            raise ConfigError(
                f"task.pooling={self.pooling}: the modules of the runs ({MODULES}) say what an embedding is; "
                "leave it null"
            )
        log.info(
            "embeddings as the runs say (%s): pooling %s", MODULES, "+".join(told.pooling) or "of their own"
        )
        return replace(  # type: ignore[type-var]
            self,
            pooling=(told.pooling or None) if self.pooling is None else self.pooling,
            prompt=told.prompt if self.prompt is None else self.prompt,
            lower=self.lower or told.lower,
            max_length=told.max_length if self.max_length is None else self.max_length,
        )

    def tokens(
        self, split: datasets.Dataset, option: str, processor: Processor, model: PreTrainedModel
    ) -> list[list[int]]:
        """The tokens of the texts in the column that `option` names."""
        column, inner = getattr(self, option), transformer_in(model)
        if inner is None:  # a table of embeddings
            limit, options = self.max_length or 1 << 30, {"add_special_tokens": False}
        else:
            limit, options = longest(processor, inner, self.max_length), {}
        texts = [f"{self.prompt or ''}{text}" for text in texts_of(split, f"task.{option}", column)]
        texts = [text.lower() for text in texts] if self.lower else texts
        tokens: list[list[int]] = processor(texts, truncation=True, max_length=limit, **options)["input_ids"]
        check_tokens(split, f"task.{option}", column, tokens, inner or model, processor)
        return tokens

    def embedded(self, model: torch.nn.Module, batch: Mapping[str, Any]) -> torch.Tensor:
        """The embeddings of a batch of texts, float32 (texts, width)."""
        if isinstance(unwrapped(model), torch.nn.Sequential):  # of modules of sentence-transformers
            made: torch.Tensor = model(_features(model, batch))["sentence_embedding"]
            return made.to_dense().float()
        hidden = model(**batch).last_hidden_state.float()
        mask = batch["attention_mask"].unsqueeze(-1)
        return torch.cat([_pooled(hidden, mask, mode) for mode in self.modes], dim=-1)


def transformer_in(model: Any) -> PreTrainedModel | None:
    """The model of transformers in one of sentence-transformers, or itself; None where there is none."""
    model = unwrapped(model)
    if not isinstance(model, torch.nn.Sequential):
        return model
    return getattr(model[0], "auto_model", None)


def _features(model: torch.nn.Module, batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch as sentence-transformers' modules take it, which write into it what they make."""
    if transformer_in(model) is not None:
        return dict(batch)
    mask = batch["attention_mask"]
    starts = mask.sum(1).cumsum(0).roll(1)
    starts[0] = 0
    return {"input_ids": batch["input_ids"][mask.bool()], "offsets": starts}


def _pooled(hidden: torch.Tensor, mask: torch.Tensor, mode: str) -> torch.Tensor:
    """An embedding (texts, width) of hidden states (texts, tokens, width), as sentence-transformers makes it.

    Args:
        mask: which tokens are no padding, (texts, tokens, 1); padding is on either side.
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
