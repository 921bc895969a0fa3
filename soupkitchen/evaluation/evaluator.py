"""Scores the live model on the splits of its tasks, no further than a decision needs."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils.memory import find_executable_batch_size, should_reduce_batch_size
from torch.utils.data import DataLoader

from soupkitchen.errors import ConfigError
from soupkitchen.evaluation.boundary import Boundary
from soupkitchen.evaluation.live import LiveModel
from soupkitchen.metrics import Rows, Score, TaskMetric, take
from soupkitchen.tasks.base import Batch, Predictions, Processor, Task
from soupkitchen.tasks.several import Several

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with the examples scored so far and the examples that there are."""

BUCKET = 4
"""Batches of like difficulty that are sorted by length together."""


@dataclass(frozen=True)
class Part:
    """What one task says of a model.

    Attributes:
        metric: the task's.
        score: higher better; the most that it could be where not all is scored.
        values: float64 (examples,), what each example adds to the score, higher better and in
            the data's order; the best possible where an example is not scored yet. None
            for a metric that is no mean.
        predictions: one entry for each example, in the data's order; empty until all are scored.
        references: one entry for each example.
        examples_scored: how many.
    """

    metric: TaskMetric
    score: Score
    values: np.ndarray | None = field(repr=False)
    predictions: Rows = field(repr=False)
    references: Rows = field(repr=False)
    examples_scored: int

    @property
    def examples_total(self) -> int:
        return len(self.references)

    @cached_property
    def weights(self) -> np.ndarray | None:
        """What the examples weigh in the score; None where all weigh the same."""
        return self.metric.weights(self.references)

    @cached_property
    def statistics(self) -> np.ndarray | None:
        """What the score follows from by a sum over the examples; None where it does not."""
        return self.metric.statistics(self.predictions, self.references)


@dataclass(frozen=True)
class Evaluation:
    """What scoring one model on one split gave.

    Attributes:
        split: the split's role, "heldout" or "test".
        score: of all tasks, higher better; the most that it could be where `complete` is false.
        parts: by task.
        complete: whether every example was scored.
        seconds: wall time of the forward passes and the metrics.
    """

    split: str
    score: float
    parts: Mapping[str, Part]
    complete: bool = True
    seconds: float = 0.0

    @property
    def examples_scored(self) -> int:
        return sum(part.examples_scored for part in self.parts.values())

    @property
    def examples_total(self) -> int:
        return sum(part.examples_total for part in self.parts.values())

    @property
    def scores(self) -> dict[str, float]:
        """The tasks' scores, higher better."""
        return {name: part.score for name, part in self.parts.items()}


Stop = Callable[[Evaluation], bool]
"""Asked after each batch, with scores at the most that they can still be: whether to stop there."""


@dataclass
class _Prepared:
    """One task's split, made ready: examples as the model takes them, and the order of scoring."""

    task: Task
    data: datasets.Dataset
    references: Rows
    lengths: np.ndarray | None
    order: np.ndarray
    loader: DataLoader | None = None


class Evaluator:
    """Scores whatever weights the live model holds.

    Each split is tokenised once. Examples are scored in batches of like length, until `arrange`
    makes other batches. In the same batches, whatever their order, equal weights give equal
    scores to the last bit.
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
    ) -> None:
        """Prepares `splits`, by role ("heldout", "test", "train") and task, for `live`.

        Raises:
            DataError: where their columns or labels are not what task and model need.
        """
        self.tasks = tasks
        self.live = live
        self.processor = processor
        self.processor_folder: Path | None = None  # whose files it is, where it was chosen for a pool
        self.accelerator = accelerator
        self.batch_size = batch_size
        self._attach()
        self.arranged: set[str] = set()  # splits whose batches are no longer those of like length
        self._workers = workers
        self._training: list[tuple[Task, Batch]] = []
        self._splits = {
            role: {name: self._prepare(tasks.tasks[name], split) for name, split in by_task.items()}
            for role, by_task in splits.items()
        }

    def _attach(self) -> None:
        """Watches the live model, and has accelerate make it ready."""
        live = self.live
        self._boundary = Boundary(live.model)
        self._of = live.model
        self._model: Any = live.model
        if not live.spread:
            self._model = self.accelerator.prepare_model(live.model, evaluation_mode=True)

    def _follow(self) -> None:
        """Takes the live model that there is now, where that is another than before."""
        if self._of is not self.live.model:
            self._model = self._of = None
            self.accelerator.free_memory()
            self._attach()

    def release(self) -> None:
        """Lets the live model go: its memory is free until `live.load` loads one."""
        self._model = self._of = None
        self.accelerator.free_memory()
        for by_task in self._splits.values():
            for prepared in by_task.values():
                prepared.loader = None
        self.live.release()

    def _step(self, task: Task, batch: Batch) -> Predictions:
        """One forward pass of the live model, whichever that is now."""
        self._follow()
        with self.accelerator.autocast():
            return task.step(self._model, batch, self.processor)

    @torch.inference_mode()
    def outputs(self, split: str, examples: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
        """What the model puts out for some examples of each task, in one batch, and what is made of it."""
        told = {}
        for name, chosen in examples.items():
            prepared = self._splits[split][name]
            batch = prepared.task.collator(self.processor)(list(prepared.data.select(chosen)))
            device = self.accelerator.device
            batch = {n: x.to(device) if isinstance(x, torch.Tensor) else x for n, x in batch.items()}
            self._follow()
            with self._boundary.recording() as recorded:
                predictions = self._step(prepared.task, batch)
            told[name] = [*recorded, predictions]
        return told

    @property
    def splits(self) -> tuple[str, ...]:
        """The roles of the splits that are scored."""
        return tuple(role for role in self._splits if role != "train")

    def size(self, split: str) -> int:
        """How many examples the split has."""
        return sum(self.sizes(split).values())

    def sizes(self, split: str) -> dict[str, int]:
        """How many examples each task has in the split."""
        return {name: len(prepared.order) for name, prepared in self._splits[split].items()}

    def order(self, split: str) -> dict[str, np.ndarray]:
        """For each task, the order in which the split's examples are scored."""
        return {name: prepared.order for name, prepared in self._splits[split].items()}

    def reorder(self, split: str, order: Mapping[str, np.ndarray]) -> None:
        """Scores the examples of the split in the given order from now on."""
        for name, prepared in self._splits[split].items():
            prepared.order, prepared.loader = order[name], None

    def prepared(self, split: str) -> dict[str, datasets.Dataset]:
        """For each task, the split's examples as the model takes them, in the data's order."""
        return {name: prepared.data for name, prepared in self._splits[split].items()}

    def references(self, split: str) -> dict[str, Rows]:
        """For each task, what predictions are compared with, in the data's order."""
        return {name: prepared.references for name, prepared in self._splits[split].items()}

    def batches(self, split: str) -> dict[str, list[np.ndarray]]:
        """For each task, the examples of each batch, in the order in which batches are scored.

        What a model makes of an example depends on the others of its batch in the last bits, as
        they decide how it is padded; not on the order of the batches.
        """
        return {
            name: [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
            for name, order in self.order(split).items()
        }

    def arrange(self, split: str, soup: Evaluation, pool: Sequence[Evaluation]) -> None:
        """Makes batches of like difficulty: what `soup` does worst on, and among that what `pool` does.

        A bad candidate then shows early. Examples of like difficulty are sorted by length.
        Metrics that are no means keep their batches.
        """
        order = self.order(split)
        for name, prepared in self._splits[split].items():
            values = [e.parts[name].values for e in pool if not np.isnan(e.score)]
            known = [v for v in values if v is not None]
            by_soup = soup.parts[name].values
            if not known or by_soup is None:
                continue
            hardest = np.argsort(by_soup + np.mean(known, axis=0), kind="stable")
            if prepared.lengths is not None:
                size = BUCKET * self.batch_size
                buckets = [hardest[start : start + size] for start in range(0, len(hardest), size)]
                lengths = prepared.lengths
                hardest = np.concatenate([b[np.argsort(-lengths[b], kind="stable")] for b in buckets])
            order[name] = hardest
            self.arranged.add(split)
        self.reorder(split, order)

    def hardest_first(self, split: str, soup: Evaluation) -> None:
        """Puts the batches first that `soup` does worst on; which examples are scored together stays.

        A last batch that is not full stays the last, so that all others stay whole.
        """
        order = {}
        for name, batches in self.batches(split).items():
            values = soup.parts[name].values
            if values is not None:
                full = [batch for batch in batches if len(batch) == self.batch_size]
                means = [float(values[batch].mean()) for batch in full]
                first = [full[index] for index in np.argsort(means, kind="stable")]
                batches = [*first, *batches[len(full) :]]
            order[name] = np.concatenate(batches)
        self.reorder(split, order)

    def score(
        self, split: str, stop: Stop | None = None, progress: Progress = lambda done, total: None
    ) -> Evaluation:
        """Scores the live model on `split`, until `stop` says that it is enough.

        Where memory runs out, batches are halved from then on.

        Raises:
            ConfigError: where memory runs out with a batch of one.
        """
        started = time.perf_counter()

        def attempt(batch_size: int) -> Evaluation:
            log.warning("out of memory: batches of %d instead of %d", batch_size, self.batch_size)
            self.batch_size = batch_size
            self.reorder(split, self.order(split))
            return self._score(split, stop, progress, started)

        try:
            return self._score(split, stop, progress, started)
        except RuntimeError as error:
            if not should_reduce_batch_size(error):
                raise
        try:
            return find_executable_batch_size(
                attempt,
                starting_batch_size=self.batch_size // 2,
                reduce_batch_size_fn=lambda: self.batch_size // 2,
            )()
        except RuntimeError as error:
            if "No executable batch size" in str(error):
                raise ConfigError(
                    "out of memory with a batch of one example: a shorter task.max_length, "
                    "runtime.dtype=bfloat16 or another runtime.device may help"
                ) from error
            raise

    @torch.inference_mode()
    def _score(self, split: str, stop: Stop | None, progress: Progress, started: float) -> Evaluation:
        prepared = self._splits[split]
        parts = {name: _nothing_scored(one) for name, one in prepared.items()}
        done, total = 0, self.size(split)
        for name, one in prepared.items():
            metric, values, weights = one.task.metric, parts[name].values, parts[name].weights
            predictions: list[Any] = []
            for outputs in self._outputs(one):
                batch = one.order[len(predictions) : len(predictions) + len(outputs)]
                predictions += list(outputs)
                done += len(outputs)
                progress(done, total)
                if values is not None:
                    values[batch] = metric.per_example(outputs, take(one.references, batch))
                if stop is not None and values is not None and done < total:
                    score = metric.of_values(values, weights)
                    parts[name] = Part(metric, score, values, (), one.references, len(predictions))
                    evaluation = self._evaluation(split, parts, False, started)
                    if stop(evaluation):
                        return evaluation
            parts[name] = _all_scored(one, predictions, values)
        return self._evaluation(split, parts, True, started)

    def _evaluation(
        self, split: str, parts: Mapping[str, Part], complete: bool, started: float
    ) -> Evaluation:
        score = self.tasks.score({name: part.score for name, part in parts.items()})
        return Evaluation(split, score, dict(parts), complete, time.perf_counter() - started)

    def _outputs(self, prepared: _Prepared) -> Iterator[Rows]:
        """The predictions, batch by batch, gathered from all processes."""
        if prepared.loader is None:
            prepared.loader = self._loader(prepared)
        for batch in prepared.loader:
            self._boundary.forget()
            predictions = _numbers(self._step(prepared.task, batch), self._boundary.finite)
            if isinstance(predictions, torch.Tensor):
                yield self.accelerator.gather_for_metrics(predictions).cpu().numpy()
            else:
                yield self.accelerator.gather_for_metrics(list(predictions), use_gather_object=True)

    def recalibrate(self, number: int) -> None:
        """Computes the live model's batch-norm statistics anew on the same `number` training batches."""
        if not self._training:
            self._training = list(islice(self._training_batches(), number))
        with torch.no_grad(), self.live.batchnorm_in_training():
            for task, batch in self._training:
                task.step(self.live.model, batch, self.processor)

    def _training_batches(self, seed: int = 0) -> Iterator[tuple[Task, Batch]]:
        """Shuffled training data, one task after the other."""
        for prepared in self._splits["train"].values():
            chosen = np.random.default_rng(seed).permutation(len(prepared.order))
            collate = prepared.task.collator(self.processor)
            for start in range(0, len(chosen), self.batch_size):
                batch = collate(list(prepared.data.select(chosen[start : start + self.batch_size])))
                yield prepared.task, {n: tensor.to(self.accelerator.device) for n, tensor in batch.items()}

    def _prepare(self, task: Task, split: datasets.Dataset) -> _Prepared:
        data = task.prepare(split, self.processor, self.live.model)
        references, lengths, order = task.references(data), None, np.arange(len(data))
        column = getattr(task, "length_column", "length")
        if column in data.column_names:
            lengths = np.asarray(data[column][:])
            order = np.argsort(-lengths, kind="stable")
            data = data.remove_columns(column)
        return _Prepared(task, data, references, lengths, order)

    def _loader(self, prepared: _Prepared) -> DataLoader:
        loader = DataLoader(
            prepared.data.select(prepared.order),
            batch_size=self.batch_size,
            shuffle=False,
            num_workers=self._workers,
            persistent_workers=self._workers > 0,
            pin_memory=self.accelerator.device.type == "cuda",
            collate_fn=prepared.task.collator(self.processor),
        )
        return self.accelerator.prepare(loader)


def _nothing_scored(prepared: _Prepared) -> Part:
    metric, total = prepared.task.metric, len(prepared.order)
    if not metric.is_mean:
        return Part(metric, Score(metric.best), None, (), prepared.references, 0)
    values = np.full(total, metric.best)
    score = metric.of_values(values, metric.weights(prepared.references))
    return Part(metric, score, values, (), prepared.references, 0)


def _all_scored(prepared: _Prepared, predictions: list[Any], values: np.ndarray | None) -> Part:
    metric, references = prepared.task.metric, prepared.references
    back = np.argsort(prepared.order)
    in_order = [predictions[index] for index in back]
    rows = np.stack(in_order) if isinstance(in_order[0], (np.ndarray, np.generic)) else in_order
    if values is None:
        score = metric.score(rows, references)
    else:
        score = metric.of_values(values, metric.weights(references))
    return Part(metric, score, values, rows, references, len(rows))


def _numbers(predictions: Predictions, finite: bool) -> Predictions:
    """Predictions with NaN for what is no finite number, and NaN for all of them where `finite` is false.

    One example that a model has no answer to makes a mean NaN, so those of its batch need not be told apart.
    """
    if isinstance(predictions, torch.Tensor):
        if not finite:
            return torch.full(predictions.shape, math.nan, device=predictions.device)
        if not predictions.is_floating_point():
            return predictions
        return torch.where(predictions.isfinite(), predictions, math.nan)
    if not finite:
        return [math.nan] * len(predictions)
    return [math.nan if isinstance(p, float) and not math.isfinite(p) else p for p in predictions]
