"""A user's function as a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import transformers
from datasets import Dataset
from transformers import PreTrainedModel

from soupkitchen.errors import ConfigError, DataError, did_you_mean
from soupkitchen.metrics import TaskMetric
from soupkitchen.metrics.numbers import Mean
from soupkitchen.options.building import users_own
from soupkitchen.store.digests import source_of
from soupkitchen.tasks.base import Batch, Examples, Processor, Task
from soupkitchen.tasks.data import Data
from soupkitchen.tasks.texts import unwrapped


@dataclass(frozen=True)
class Function(Task):
    """Scores by the mean of ``function(model, tokenizer, examples)``, which returns one number an example.

    The model is in evaluation mode; examples are mappings by column. If model=function, `model.processor`
    makes the tokenizer.

    Attributes:
        data: the examples.
        function: as ``module.function``.
        model: the transformers class that loads the model; unused if model=function.
        greater_is_better: False for losses.
        best: the best number of an example, for early stopping, or None.
        name: the score's name in tables.
    """

    takes_any_model = True
    takes_sentences = True
    length_column = None  # a column `length` is the function's

    data: Data
    function: str
    model: str = "AutoModelForCausalLM"
    greater_is_better: bool = True
    best: float | None = None
    name: str = "score"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._function()
        if not hasattr(transformers, self.model):
            automatic = [name for name in dir(transformers) if name.startswith("AutoModel")]
            hint = did_you_mean(self.model, automatic) or "; it is called like AutoModelForCausalLM"
            raise ConfigError(f"task.model={self.model}: transformers has no such class{hint}")

    @property
    def metric(self) -> TaskMetric:  # type: ignore[override]
        return TaskMetric(self.name, Mean(self.best), "mean", self.greater_is_better, "values")

    @property
    def model_class(self) -> type:
        return getattr(transformers, self.model)

    def identity(self) -> list[str]:
        return source_of(self._function(), self.function)

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        return split

    def references(self, prepared: Dataset) -> np.ndarray:
        return np.zeros(len(prepared))

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        return {"examples": examples}  # type: ignore[dict-item]

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> list[float]:
        examples: Any = batch["examples"]
        values = list(self._function()(unwrapped(model), processor, examples))
        if len(values) != len(examples):
            raise DataError(f"{self.function} gave {len(values)} numbers for {len(examples)} examples")
        try:
            return [float(value) for value in values]
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.function} gave something that is no number ({error})") from error

    def _function(self) -> Callable[..., Any]:
        return users_own("task.function", self.function)
