"""Scores the live model on the splits of its tasks, no further than a decision needs."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import is_compiled_module, send_to_device
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

from soupkitchen.errors import ConfigError
from soupkitchen.evaluation.examples import Examples, Listed, Order, Piece
from soupkitchen.evaluation.forward import Batches, FiniteCheck, PendingRows
from soupkitchen.evaluation.live import LiveModel
from soupkitchen.evaluation.outcome import Evaluation
from soupkitchen.evaluation.scoring import Progress, Threshold, score_batches
from soupkitchen.metrics import Rows, take
from soupkitchen.process import stopwatch
from soupkitchen.soup.memory import StateMemory
from soupkitchen.tasks import Several
from soupkitchen.tasks.base import Batch, Predictions, Processor, Task

log = logging.getLogger(__name__)

Predict = Callable[[str, str, Sequence[np.ndarray]], Iterator[Rows]]
"""Predicts batches of a split's and a task's examples, as `Evaluator.predictions` does."""


@dataclass
class _Prepared:
    """One task's split: examples as the model takes them, and their batches."""

    task: Task
    data: datasets.Dataset
    listed: Listed
    batches: Batches


class Evaluator:
    """Scores whatever weights the live model holds.

    Each split is tokenised once. `examples` says in which batches it is scored, and in which order.
    """

    def __init__(
        self,
        tasks: Several,
        live: LiveModel,
        processor: Processor,
        splits: Mapping[str, Mapping[str, datasets.Dataset]],
        accelerator: Accelerator,
        batch_size: int,
        workers: int = 0,
        memory: StateMemory | None = None,
    ) -> None:
        """Prepares `splits`, by role ("heldout", "test", "train") and task, for `live`.

        `memory` is for batches that are made, to be used again; by default there is none.

        Raises:
            DataError: where their columns or labels are not what task and model need.
        """
        self.tasks = tasks.with_labels(splits, live.model)
        self.live = live
        self.processor = processor
        self.processor_folder: Path | None = None  # whose files it is, where it was chosen for a pool
        self.dtype: torch.dtype | None = None  # that the model is loaded in; None for that of its files
        self.accelerator = accelerator
        self._model: Any = None
        self._source: Any = None  # the live model that `_model` is made of
        self._follow()
        self._workers = workers
        self._memory = memory or StateMemory(accelerator.device, 0, 0)
        self._training: list[tuple[Task, Batch]] = []
        self._splits = {
            role: {name: self._prepare(self.tasks.tasks[name], split) for name, split in by_task.items()}
            for role, by_task in splits.items()
        }
        self.examples = Examples(
            {
                role: {name: prepared.listed for name, prepared in by_task.items()}
                for role, by_task in self._splits.items()
            },
            batch_size,
        )

    @property
    def compiled(self) -> bool:
        """Tells whether ``torch.compile`` makes the model's forward pass."""
        self._follow()
        return is_compiled_module(self._model)

    def _follow(self) -> None:
        """Takes the live model that there is now, if that is another than before."""
        live = self.live
        if self._source is live.model:
            return
        self._detach()
        self._check = FiniteCheck(live.model)
        self._source = self._model = live.model
        if not live.spread:
            self._model = self.accelerator.prepare_model(live.model, evaluation_mode=True)

    def _detach(self) -> None:
        """Forgets the model, and has accelerate forget it, which collects garbage and so takes a while."""
        if self._source is not None:
            self._model = self._source = None
            self.accelerator.free_memory()

    def release(self) -> None:
        """Lets the live model go: its memory is free until `live.load` loads one."""
        self._detach()
        for by_task in self._splits.values():
            for prepared in by_task.values():
                prepared.batches.forget()
        self.live.release()

    def _step(self, task: Task, batch: Batch, plain: bool = False) -> Predictions:
        """One forward pass of the live model, whichever that is now; `plain` if it is not to be compiled."""
        self._follow()
        with stopwatch.part("forward"), self.accelerator.autocast():
            return task.step(self._source if plain else self._model, batch, self.processor)

    @torch.inference_mode()
    def outputs(self, split: str, examples: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        """The model's outputs for some examples of each task, in one batch, and the predictions."""
        outputs = {}
        for name, numbers in examples.items():
            prepared = self._splits[split][name]
            batch = self._batch(prepared, numbers)
            self._follow()
            with self._check.recording() as recorded:
                predictions = self._step(prepared.task, batch, plain=True)
            outputs[name] = [*recorded, predictions]
        return outputs

    def _batch(self, prepared: _Prepared, numbers: np.ndarray) -> Batch:
        """A batch of the examples with these numbers, on the device, that is not kept."""
        batch = prepared.task.collator(self.processor)(list(prepared.data.select(numbers)))
        return send_to_device(dict(batch), self.accelerator.device)

    def prepared(self, split: str) -> dict[str, datasets.Dataset]:
        """For each task, the split's examples as the model takes them, in the data's order."""
        return {name: prepared.data for name, prepared in self._splits[split].items()}

    def score(
        self,
        split: str,
        threshold: Threshold | None = None,
        progress: Progress = lambda done, total: None,
        order: Order | None = None,
        piece: Piece | None = None,
        predict: Predict | None = None,
    ) -> Evaluation:
        """Scores the live model on `split`, or a piece of it, until it can no longer reach `threshold`.

        If memory runs out, batches are halved from then on.

        Args:
            order: of each task's examples; None for that of `examples`.
            predict: predicts in another way than by this model alone.

        Raises:
            ConfigError: if memory runs out with a batch of one.
        """
        forward = partial(self._predicted, predict or self.predictions, split)

        @torch.inference_mode()
        def scored() -> Evaluation:
            with stopwatch.part("metric"):
                return score_batches(
                    split, self.examples, self.tasks, forward, threshold, order, piece, progress
                )

        while True:
            try:
                return scored()
            except RuntimeError as error:
                if not should_reduce_batch_size(error):
                    raise
                if (size := self.examples.batch_size) == 1:
                    raise ConfigError(
                        "out of memory with a batch of one example: a shorter task.max_length, "
                        "runtime.dtype=bfloat16 or another runtime.device may help"
                    ) from error
            clear_device_cache(garbage_collection=True)
            log.warning("out of memory: batches of %d instead of %d", size // 2, size)
            self.examples.batch_size = size // 2

    def _predicted(
        self, predict: Predict, split: str, name: str, batches: Sequence[np.ndarray]
    ) -> Iterator[Rows]:
        """The predictions of each batch. A corpus comes before all that is compared with it."""
        corpus = self.examples.corpus(split)[name]
        if not (corpus and batches):
            yield from predict(split, name, batches)
            return
        prepared = self._splits[split][name]
        outputs = predict(split, name, [*corpus, *batches])
        rows = np.concatenate([np.asarray(next(outputs)) for _ in corpus])
        embedded = rows[np.argsort(np.concatenate(corpus))]
        ranked = prepared.task.ranked
        for batch, some in zip(batches, outputs, strict=True):
            yield ranked(some, embedded, take(prepared.listed.references, batch))

    @torch.inference_mode()
    def predictions(self, split: str, name: str, batches: Sequence[np.ndarray]) -> Iterator[Rows]:
        """The live model's predictions, batch by batch, of a task's examples with these numbers.

        The next batch is on its way before an accelerator's host looks at the last one's.
        """
        prepared = self._splits[split][name]
        ahead = 0 if self.accelerator.device.type == "cpu" else 1
        pending: deque[PendingRows] = deque()
        self._follow()
        for batch in prepared.batches.of(batches):
            self._check.forget()
            pending.append(PendingRows(self._step(prepared.task, batch), self._check.finite))
            if len(pending) > ahead:
                yield pending.popleft().arrived()
        while pending:
            yield pending.popleft().arrived()

    def recalibrate(self, number: int) -> None:
        """Computes the live model's batch-norm statistics anew on the same `number` training batches.

        Raises:
            ConfigError: if the forward passes leave them as they are reset.
        """
        if not self._training:
            self._training = list(islice(self._training_batches(), number))
        with torch.no_grad(), self.live.batchnorm_in_training():
            for task, batch in self._training:
                task.step(self.live.model, batch, self.processor)
        counts = [layer.num_batches_tracked for layer in self.live.batchnorms()]
        if not any(count is None or bool(count) for count in counts):
            raise ConfigError(
                "method.recalibrate_batchnorm: no forward pass of the task reached batch norm in training "
                "mode: does its function call model.eval(), or copy the model? It gets it ready for use"
            )

    def _training_batches(self, seed: int = 0) -> Iterator[tuple[Task, Batch]]:
        """Shuffled training data, one task after the other."""
        size = self.examples.batch_size
        for prepared in self._splits["train"].values():
            shuffled = np.random.default_rng(seed).permutation(len(prepared.data))
            for start in range(0, len(shuffled), size):
                yield prepared.task, self._batch(prepared, shuffled[start : start + size])

    def _prepare(self, task: Task, split: datasets.Dataset) -> _Prepared:
        data = task.prepare(split, self.processor, self.live.model)
        references, lengths = task.references(data), None
        size, corpus = len(references), np.arange(len(references), len(data))
        if (column := task.length_column) in data.column_names:
            every = np.asarray(data[column][:])
            lengths, corpus = every[:size], corpus[np.argsort(-every[size:], kind="stable")]
            data = data.remove_columns(column)
        collate, device = task.collator(self.processor), self.accelerator.device
        batches = Batches(data, collate, device, self._memory, self._workers)
        return _Prepared(task, data, Listed(references, lengths, corpus), batches)
