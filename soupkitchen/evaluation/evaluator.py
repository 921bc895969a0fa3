"""Scores the live model on the splits of a task."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader

from soupkitchen.evaluation.live import LiveModel
from soupkitchen.metrics import Score
from soupkitchen.tasks.base import Processor, Task

Progress = Callable[[int, int], None]
"""Called with the examples scored so far and the examples that there are."""


@dataclass(frozen=True)
class Evaluation:
    """What scoring one model on one split gave.

    Attributes:
        split: the split's role, "heldout" or "test".
        score: the metric over all examples, higher better.
        predictions, references: one row an example, in the data's order.
        per_example: float64 (examples,), higher better, where the metric is their mean.
        seconds: wall time of the forward passes and the metric.
    """

    split: str
    score: Score
    predictions: np.ndarray = field(repr=False)
    references: np.ndarray = field(repr=False)
    per_example: np.ndarray | None = field(repr=False)
    seconds: float

    @property
    def examples_scored(self) -> int:
        return len(self.references)


@dataclass(frozen=True)
class _Split:
    """A split made ready: batches of examples of like length, and the way back to their order."""

    loader: DataLoader
    order: np.ndarray


class Evaluator:
    """Scores whatever weights the live model holds.

    Each split is tokenised and sorted by length once. Batches are the
    same for every model, so equal weights give equal scores to the last bit.
    """

    def __init__(
        self,
        task: Task,
        live: LiveModel,
        processor: Processor,
        splits: Mapping[str, datasets.Dataset],
        accelerator: Accelerator,
        batch_size: int,
        workers: int = 0,
    ) -> None:
        """Prepares `splits`, by role ("heldout", "test"), for `live`.

        Raises:
            DataError: where their columns or labels are not what task and model need.
        """
        self.task = task
        self.live = live
        self.processor = processor
        self.accelerator = accelerator
        self._model = accelerator.prepare_model(live.model, evaluation_mode=True)
        self._batch_size, self._workers = batch_size, workers
        self._splits = {role: self._prepare(split) for role, split in splits.items()}

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._splits)

    def size(self, split: str) -> int:
        """How many examples the split has."""
        return len(self._splits[split].order)

    @torch.inference_mode()
    def score(self, split: str, progress: Progress = lambda done, total: None) -> Evaluation:
        """Scores the live model on every example of `split`."""
        started = time.perf_counter()
        loader, order = self._splits[split].loader, self._splits[split].order
        predictions, references, done = [], [], 0
        for batch in loader:
            with self.accelerator.autocast():
                outputs = self.task.step(self._model, batch)
            gathered = self.accelerator.gather_for_metrics(tuple(outputs))
            predictions.append(gathered[0].cpu().numpy())
            references.append(gathered[1].cpu().numpy())
            done += len(references[-1])
            progress(done, len(order))
        back = np.argsort(order)
        predicted, actual = np.concatenate(predictions)[back], np.concatenate(references)[back]
        metric = self.task.metric
        return Evaluation(
            split=split,
            score=metric.score(predicted, actual),
            predictions=predicted,
            references=actual,
            per_example=metric.per_example(predicted, actual),
            seconds=time.perf_counter() - started,
        )

    def _prepare(self, split: datasets.Dataset) -> _Split:
        data = self.task.prepare(split, self.processor, self.live.model)
        order = np.arange(len(data))
        if "length" in data.column_names:
            order = np.argsort(-np.asarray(data["length"][:]), kind="stable")
            data = data.select(order).remove_columns("length")
        loader = DataLoader(
            data,
            batch_size=self._batch_size,
            shuffle=False,
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            collate_fn=self.task.collator(self.processor),
        )
        return _Split(self.accelerator.prepare(loader), order)
