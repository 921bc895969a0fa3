"""What a task is: the seam between data and models on one side, evaluation on the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import datasets
import torch
from transformers import PreTrainedModel

from soupkitchen.metrics import TaskMetric
from soupkitchen.tasks.data import Data

Batch = Mapping[str, torch.Tensor]
Processor = Any
"""A tokenizer or an image processor: what transformers calls a processing class."""


class Outputs(NamedTuple):
    """One batch's predictions, of the kind that the metric takes, and its references."""

    predictions: torch.Tensor
    references: torch.Tensor


class Task(Protocol):
    """A task. Frozen dataclasses implement it; they hold options and no state."""

    @property
    def data(self) -> Data: ...

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

    def load_processor(self, folder: str) -> Processor:
        """The tokenizer or image processor that lies in the checkpoint `folder`."""
        ...

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        """The split's examples as the model takes them, each with its `labels`; order unchanged.

        Where examples differ in length, a column `length` says it.

        Raises:
            DataError: for a column that is missing or a label that the model does not know.
        """
        ...

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        """What makes a batch of a list of prepared examples."""
        ...

    def step(self, model: torch.nn.Module, batch: Batch) -> Outputs:
        """One forward pass."""
        ...
