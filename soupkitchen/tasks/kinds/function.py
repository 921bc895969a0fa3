"""A function of the user's own as a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
import transformers
from transformers import PreTrainedModel

from soupkitchen.errors import ConfigError, DataError, did_you_mean
from soupkitchen.metrics import TaskMetric
from soupkitchen.metrics.numbers import Mean
from soupkitchen.options.building import users_own
from soupkitchen.store.provenance import source_of
from soupkitchen.tasks.base import Batch, Processor
from soupkitchen.tasks.data import Data
from soupkitchen.tasks.texts import TextTask, unwrapped


@dataclass(frozen=True)
class Function(TextTask):
    """Scores whatever a function says: ``function(model, tokenizer, examples)``.

    The function gets the model in evaluation mode, the tokenizer (with model=function what `model.processor`
    gives), and a list of examples (a
    mapping by column each), and gives one number an example. The score is their mean.

    Attributes:
        data: where the examples are.
        function: where the function is, as ``module.function``.
        model: the name of the transformers class that loads the model; of no use with model=function.
        greater_is_better: False where the numbers are losses.
        best: the best number that an example can get, with which candidates can be stopped
            early; None where there is no such.
        name: what tables call the score.
    """

    takes_any_model: ClassVar[bool] = True
    takes_sentences: ClassVar[bool] = True
    length_column: ClassVar[None] = None
    """A column `length` of the data is the function's, and none that says how long examples are."""

    data: Data
    function: str
    model: str = "AutoModelForCausalLM"
    greater_is_better: bool = True
    best: float | None = None
    name: str = "score"

    def __post_init__(self) -> None:
        self._found()
        if not hasattr(transformers, self.model):
            automatic = [name for name in dir(transformers) if name.startswith("AutoModel")]
            hint = did_you_mean(self.model, automatic) or "; it is called like AutoModelForCausalLM"
            raise ConfigError(f"task.model={self.model}: transformers has no such class{hint}")

    @property
    def metric(self) -> TaskMetric:
        return TaskMetric(self.name, Mean(self.best), "mean", self.greater_is_better, "values")

    @property
    def model_class(self) -> type:
        return getattr(transformers, self.model)

    @property
    def content_columns(self) -> tuple[str, ...]:
        return ()

    def identity(self) -> list[str]:
        """What the numbers depend on beside the options: the function's source, and what it imports."""
        return source_of(self._found(), self.function)

    def prepare(
        self, split: datasets.Dataset, processor: Processor, model: PreTrainedModel
    ) -> datasets.Dataset:
        return split

    def references(self, prepared: datasets.Dataset) -> np.ndarray:
        return np.zeros(len(prepared))

    def collator(self, processor: Processor) -> Callable[[list[dict[str, Any]]], Batch]:
        return lambda examples: {"examples": examples}  # type: ignore[dict-item]

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> list[float]:
        examples: Any = batch["examples"]
        values = list(self._found()(unwrapped(model), processor, examples))
        if len(values) != len(examples):
            raise DataError(f"{self.function} gave {len(values)} numbers for {len(examples)} examples")
        try:
            return [float(value) for value in values]
        except (TypeError, ValueError) as error:
            raise DataError(f"{self.function} gave something that is no number ({error})") from error

    def _found(self) -> Callable[..., Any]:
        return users_own("task.function", self.function)
