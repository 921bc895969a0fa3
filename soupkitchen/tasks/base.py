"""What a task is: the seam between data and models on one side, evaluation on the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import datasets
import numpy as np
import torch
from transformers import PreTrainedModel

from soupkitchen.metrics import Rows, TaskMetric

Batch = Mapping[str, torch.Tensor]
Processor = Any
"""A tokenizer or an image processor: what transformers calls a processing class."""

Predictions = torch.Tensor | Sequence[Any]
"""One entry an example of a batch: rows of a tensor, or anything else in a list."""


class Source(Protocol):
    """Where a task's examples come from."""

    def load_splits(self, stratify: str | None = None) -> dict[str, datasets.Dataset]:
        """The held-out split and, where there is one, the test split, by role ("heldout", "test")."""
        ...

    def load_training(self, stratify: str | None = None) -> datasets.Dataset:
        """The training data."""
        ...

    def training_beside(self) -> datasets.Dataset | None:
        """Training data that lies beside the splits and that none was drawn from, if there is any."""
        ...


class Task(Protocol):
    """A task. Frozen dataclasses implement it; they hold options and no state."""

    @property
    def data(self) -> Source: ...

    @property
    def metric(self) -> TaskMetric: ...

    @property
    def model_class(self) -> type:
        """The `AutoModelFor…` class that a checkpoint is loaded with."""
        ...

    @property
    def content_columns(self) -> tuple[str, ...]:
        """The columns that make two examples the same example."""
        ...

    @property
    def stratify_column(self) -> str | None:
        """The column whose values a split of the data should keep in proportion; None for none."""
        ...

    def load_processor(self, folder: str, trust_remote_code: bool = False) -> Processor:
        """The tokenizer or image processor that lies in the checkpoint `folder`.

        Code that comes with it is run only if `trust_remote_code`.
        """
        ...

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        """The split's examples as the model takes them; order unchanged.

        Where examples differ in length, a column `length` says it, or that which the task names as
        `length_column` (None for no column).

        Raises:
            DataError: for a column that is missing or a label that the model does not know.
        """
        ...

    def references(self, prepared: datasets.Dataset) -> Rows:
        """What the metric compares predictions with: one entry for each prepared example.

        Prepared rows after the last of these are no examples but a corpus. What the model puts out for it is
        told to the task's ``ranked(outputs, corpus, references)``, which makes predictions of each batch.
        """
        ...

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        """What makes a batch of a list of prepared examples."""
        ...

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> Predictions:
        """One forward pass: predictions of the kind that the metric takes."""
        ...


def labels(prepared: datasets.Dataset) -> np.ndarray:
    """The column `labels` as an array."""
    return np.asarray(prepared.with_format("numpy")["labels"][:])


def decided(logits: torch.Tensor, metric: TaskMetric) -> torch.Tensor:
    """Logits of shape (batch, labels) as `metric` takes them: float32, or the likeliest label."""
    return logits.float() if metric.inputs == "logits" else logits.argmax(dim=-1)
