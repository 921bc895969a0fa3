"""Searching by embeddings: what comes before queries and passages, and how the two are compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, TypeVar

import torch

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.prompts import Prompts
from soupkitchen.errors import ConfigError
from soupkitchen.options.kinds import AnyText
from soupkitchen.tasks.embedding import Embedding

SIMILARITIES = ("cosine", "dot")

AnyTask = TypeVar("AnyTask", bound="Searching")


class Searching(Embedding):
    """What a task that is a dataclass with these options has in common with others.

    Attributes:
        similarity: "cosine" or "dot"; None for what runs of sentence-transformers say, and else the cosine.
        query_prompt, passage_prompt: what comes before a query and before a passage; None for what the runs
            say, and else for `prompt`.
    """

    similarity: Literal["cosine", "dot"] | None
    query_prompt: AnyText | None
    passage_prompt: AnyText | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.similarity not in (None, *SIMILARITIES):
            raise ConfigError(f"task.similarity={self.similarity}: choose {' or '.join(SIMILARITIES)}")

    def fitted_to(self: AnyTask, runs: Sequence[Checkpoint]) -> AnyTask:
        """The task with what sentence-transformers' files beside the runs say, where the options say nothing.

        Raises:
            IncompatibleError: where the runs differ in it.
            ConfigError: where they compare embeddings in a way that is not known here.
        """
        fitted, told = super().fitted_to(runs), Prompts.of(runs[0].path)
        return replace(  # type: ignore[type-var]
            fitted,
            similarity=told.similarity if self.similarity is None else self.similarity,
            query_prompt=told.query if self.query_prompt is None else self.query_prompt,
            passage_prompt=told.passage if self.passage_prompt is None else self.passage_prompt,
        )

    def with_prompt(self: AnyTask, prompt: str | None) -> AnyTask:
        """The task that puts `prompt` before texts; None for what it does already."""
        return self if prompt is None else replace(self, prompt=prompt)  # type: ignore[type-var]

    def comparable(self, embedded: torch.Tensor) -> torch.Tensor:
        """Embeddings (texts, width) whose products are the similarities."""
        return embedded if self.similarity == "dot" else torch.nn.functional.normalize(embedded)
