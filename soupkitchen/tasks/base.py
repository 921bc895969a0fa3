"""Tasks: the seam between data and models on one side and evaluation on the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from datasets import Dataset
from transformers import AutoTokenizer, PreTrainedModel

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.errors import CheckpointError, first_line
from soupkitchen.metrics import Rows, TaskMetric
from soupkitchen.options.kinds import check_fields
from soupkitchen.tasks.columns import Wanted, texts_of
from soupkitchen.tasks.data import Data, DataSource

AnyTask = TypeVar("AnyTask", bound="Task")
Batch = Mapping[str, torch.Tensor]
Examples = list[dict[str, Any]]
Processor = Any
"""A tokenizer or an image processor."""

Predictions = torch.Tensor | Sequence[Any]
"""One entry an example of a batch: rows of a tensor, or a list."""


class Task:
    """A task: data, its preprocessing, a forward step and a metric.

    Extend it by a frozen dataclass, which holds options and no state. `prepare`, `collate`, `step` and
    `model_class` have no default.

    Attributes:
        data: the source of the examples.
        metric: the metric of the predictions.
        looked_for: columns that are looked for by well-known names, if the default ones are not there.
        content: the options that name the columns which make two examples the same.
        stratify: the option that names the column whose values a split keeps in proportion; None for none.
        takes_any_model: whether it can score models that are not of transformers.
        takes_sentences: whether it can score models of sentence-transformers with modules of their own.
        length_column: the column of prepared examples with their lengths; None for no column.
        processor_files: file names, one of which lies beside each processor; none for a tokenizer's.
        processor_name: what such files hold, in words.
    """

    data: DataSource
    metric: TaskMetric

    looked_for: ClassVar[tuple[Wanted, ...]] = ()
    content: ClassVar[tuple[str, ...]] = ()
    stratify: ClassVar[str | None] = None
    takes_any_model: ClassVar[bool] = False
    takes_sentences: ClassVar[bool] = False
    length_column: ClassVar[str | None] = "length"
    processor_files: ClassVar[tuple[str, ...]] = ()
    processor_name: ClassVar[str] = "image processor"

    def __post_init__(self) -> None:
        check_fields(self, "task")

    @property
    def model_class(self) -> type:
        """The `AutoModelFor…` class that loads a checkpoint."""
        raise NotImplementedError

    @property
    def content_columns(self) -> tuple[str, ...]:
        """The columns by which examples are the same; none for all."""
        columns = (getattr(self, option) for option in self.content)
        return tuple(column for column in columns if column is not None)

    @property
    def stratify_column(self) -> str | None:
        """The column whose proportions a split keeps; None for none."""
        return None if self.stratify is None else getattr(self, self.stratify)

    def identity(self) -> list[str]:
        """Facts that predictions depend on, besides options and prepared examples."""
        return []

    def fitted_to(self: AnyTask, runs: Sequence[Checkpoint]) -> AnyTask:
        """The task with settings from files beside the runs.

        Raises:
            IncompatibleError: if the runs differ in these.
        """
        return self

    def with_labels(self: AnyTask, splits: Mapping[str, Dataset], model: Any) -> AnyTask:
        """The task with the one reading of labels that fits all `splits`, by role.

        Raises:
            DataError: if none or several fit.
        """
        return self

    def load_processor(self, folder: str, trust_remote_code: bool = False) -> Processor:
        """The tokenizer or image processor in the checkpoint `folder`.

        Its own code runs only if `trust_remote_code`.

        Raises:
            CheckpointError: if there is none.
        """
        return load_tokenizer(folder, trust_remote_code)

    def examples_of(self, split: Dataset) -> Dataset:
        """The split with one row an example."""
        return split

    def compared(self, split: Dataset) -> Dataset:
        """The split with contents as stored, to compare examples."""
        return split

    def prepare(self, split: Dataset, processor: Processor, model: PreTrainedModel) -> Dataset:
        """The model's inputs, in order; `length_column` holds lengths, if they differ.

        Raises:
            DataError: if a column is missing or the model lacks a label.
        """
        raise NotImplementedError

    def references(self, prepared: Dataset) -> Rows:
        """One entry an example, for the metric.

        Prepared rows after these are a corpus, for `ranked`.
        """
        return np.asarray(prepared.with_format("numpy")["labels"][:])

    def ranked(self, outputs: Rows, corpus: Rows, references: Rows) -> Rows:
        """Predictions of a batch, from the model's outputs for it and for the corpus."""
        raise NotImplementedError

    def collate(self, examples: Examples, processor: Processor) -> Batch:
        """A batch of prepared examples."""
        raise NotImplementedError

    def step(self, model: torch.nn.Module, batch: Batch, processor: Processor) -> Predictions:
        """Predictions of one forward pass, as the metric takes them."""
        raise NotImplementedError

    def texts(self, split: Dataset, option: str) -> list[str]:
        """The texts in the column that `option` names.

        Raises:
            DataError: if one is missing or no text.
        """
        return texts_of(split, f"task.{option}", getattr(self, option))


@dataclass(frozen=True)
class DataTask(Task):
    """A task with the options `data` and `metric`."""

    data: Data
    metric: TaskMetric


def decided(logits: torch.Tensor, metric: TaskMetric) -> torch.Tensor:
    """Logits (batch, labels) for `metric`: as float32, or the likeliest label."""
    return logits.float() if metric.inputs == "logits" else logits.argmax(dim=-1)


def without(batch: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A batch or an example without these entries."""
    return {name: value for name, value in batch.items() if name not in names}


def load_tokenizer(folder: str, trust_remote_code: bool = False) -> Processor:
    """The tokenizer in the checkpoint `folder`, with a padding token.

    Raises:
        CheckpointError: if there is none.
    """
    remedy = "copy that of the base model there"
    tokenizer = load_with(AutoTokenizer, folder, trust_remote_code, "tokenizer", remedy)
    check_vocabulary(tokenizer, folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer


def load_with(loader: Any, folder: str, trust_remote_code: bool, what: str, remedy: str) -> Processor:
    """Loads by a class of transformers; `what` and `remedy` are for the message.

    Raises:
        CheckpointError: if loading fails.
    """
    try:
        return loader.from_pretrained(folder, trust_remote_code=trust_remote_code)
    except Exception as error:  # strange files lead to errors of any kind
        raise CheckpointError(
            f"{folder} has no {what} that transformers can load ({first_line(error)}); {remedy}"
        ) from error


def check_vocabulary(tokenizer: Processor, folder: str) -> None:
    """Checks that a tokenizer has a vocabulary file: without one, transformers makes up a few tokens.

    Raises:
        CheckpointError: if it has none, and needs one.
    """
    names = set(getattr(tokenizer, "vocab_files_names", {}).values())
    found = (Path(folder) / name for name in {*names, "tokenizer.json", "tekken.json"})
    if names and not any(file.is_file() for file in found) and not any(Path(folder).glob("*.tiktoken")):
        raise CheckpointError(
            f"{folder} has no file with the vocabulary of its tokenizer ({type(tokenizer).__name__}); copy "
            "the base model's tokenizer files there"
        )
