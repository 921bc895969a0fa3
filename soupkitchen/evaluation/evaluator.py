"""Scores the live model on its tasks' splits, no further than a decision needs.

Outputs are checked before a task sees them: argmax of NaN is 0, so a broken model would pass for one that
always says the first label. Batches are kept if there is room: a search scores them often.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
from torch.utils.data import DataLoader

from soupkitchen.errors import ConfigError
from soupkitchen.evaluation.live import LiveModel
from soupkitchen.evaluation.outcome import Evaluation
from soupkitchen.evaluation.scoring import Examples, Listed, Order, Piece, Progress, Threshold, score_batches
from soupkitchen.metrics import Rows, take
from soupkitchen.process import stopwatch
from soupkitchen.soup.memory import StateMemory
from soupkitchen.tasks import Several
from soupkitchen.tasks.base import Batch, Predictions, Processor, Task

log = logging.getLogger(__name__)


class Batches:
    """The batches of one task's split; `memory` bounds the stored ones."""

    def __init__(
        self,
        data: datasets.Dataset,
        collate: Callable[[list[dict[str, Any]]], Batch],
        device: torch.device,
        memory: StateMemory,
        workers: int = 0,
    ) -> None:
        self._data, self._collate, self._device, self._workers = data, collate, device, workers
        self._memory = memory
        self._stored: dict[bytes, Batch] = {}
        self._reserved: list[tuple[int, torch.device]] = []

    def forget(self) -> None:
        self._stored.clear()
        for size, place in self._reserved:
            self._memory.give_back(size, place)
        self._reserved.clear()

    def of(self, numbers: Sequence[np.ndarray]) -> Iterator[Batch]:
        keys = [one.tobytes() for one in numbers]
        if self._stored and not any(key in self._stored for key in keys):
            self.forget()  # batches have changed for good
        missing = [one.tolist() for one, key in zip(numbers, keys, strict=True) if key not in self._stored]
        made = iter(self._loader(missing)) if missing else iter(())
        for key in keys:
            with stopwatch.part("batches"):
                batch = self._stored.get(key)
                if batch is None:
                    batch = self._store(key, next(made))
                batch = send_to_device(batch, self._device, non_blocking=True)
            yield batch

    def _loader(self, numbers: list[list[int]]) -> DataLoader:
        return DataLoader(
            self._data,
            batch_sampler=numbers,
            num_workers=self._workers,
            pin_memory=self._device.type == "cuda",
            collate_fn=self._collate,
        )

    def _store(self, key: bytes, batch: Batch) -> Batch:
        if not all(isinstance(x, torch.Tensor) for x in batch.values()):
            return batch  # a task's own objects are not copied
        size = sum(x.nbytes for x in batch.values())
        if (place := self._memory.room(size)) is None:
            return batch
        self._reserved.append((size, place))
        self._stored[key] = batch = send_to_device(dict(batch), place, non_blocking=True)
        return batch


class FiniteCheck:
    """Checks a model's outputs, and casts floating-point inputs to its dtype."""

    def __init__(self, model: torch.nn.Module) -> None:
        self._dtype = _dtype_of(model)
        self._not_finite: list[torch.Tensor] = []
        self._recorded: list[torch.Tensor] | None = None
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.register_forward_hook(self._after, with_kwargs=True)

    def forget(self) -> None:
        self._not_finite = []

    @property
    def finite(self) -> torch.Tensor | None:
        """Tells whether the largest output at each place is finite since `forget`; padding is ignored.

        0-dimensional, on the device; None without outputs. Smaller outputs may be minus infinity, as for
        tokens that a model never says.
        """
        flags, self._not_finite = self._not_finite, []
        return ~torch.stack([flag.to(flags[0].device) for flag in flags]).any() if flags else None

    @contextmanager
    def recording(self) -> Iterator[list[torch.Tensor]]:
        recorded = self._recorded = []
        try:
            yield recorded
        finally:
            self._recorded = None

    def _before(self, model: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        return tuple(map(self._cast, args)), {name: self._cast(value) for name, value in kwargs.items()}

    def _cast(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or self._dtype is None:
            return value
        if torch.is_autocast_enabled(value.device.type):
            return value
        return value.to(self._dtype)

    def _after(self, model: torch.nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        mask = kwargs.get("attention_mask")
        for values in _outputs(output):
            if self._recorded is not None:
                self._recorded.append(values.detach().cpu().clone())
            if not values.numel():
                continue
            top = values.amax(-1) if values.dim() else values  # amax returns NaN if there is one
            strange = ~top.isfinite()
            if isinstance(mask, torch.Tensor) and mask.shape == strange.shape:
                strange &= mask != 0
            self._not_finite.append(strange.any())


class PendingRows:
    """Predictions on their way to the host; `finite` is 0-dimensional."""

    def __init__(self, predictions: Predictions, finite: torch.Tensor | None) -> None:
        self._predictions = _sent(predictions) if isinstance(predictions, torch.Tensor) else predictions
        self._finite = None if finite is None else _sent(finite)
        on_cuda = any(isinstance(x, torch.Tensor) and x.device.type == "cuda" for x in (predictions, finite))
        self._event = torch.cuda.current_stream().record_event() if on_cuda else None

    def arrived(self) -> Rows:
        """Waits for the predictions; non-finite ones become NaN, or all if an output is not finite.

        One NaN makes the mean NaN, so it does not matter which example it was.
        """
        with stopwatch.part("forward"):
            if self._event is not None:
                self._event.synchronize()
            finite, predictions = self._finite is None or bool(self._finite), self._predictions
        if isinstance(predictions, torch.Tensor):
            rows: np.ndarray = predictions.cpu().numpy()
            if not finite:
                return np.full(rows.shape, np.nan, np.float32)
            return np.where(np.isfinite(rows), rows, np.nan) if rows.dtype.kind == "f" else rows
        if not finite:
            return [math.nan] * len(predictions)
        plain = [p.item() if getattr(p, "ndim", None) == 0 else p for p in predictions]
        return [math.nan if isinstance(p, float) and not math.isfinite(p) else p for p in plain]


def _outputs(output: Any) -> Iterator[torch.Tensor]:
    """The logits, or else all floating-point tensors of an output."""
    if isinstance(output, torch.Tensor):
        output = (output,)
    elif isinstance(output, Mapping):
        logits = output.get("logits")
        output = tuple(output.values()) if logits is None else (logits,)
    elif not isinstance(output, tuple):
        return
    yield from (x for x in output if isinstance(x, torch.Tensor) and x.is_floating_point())


def _dtype_of(model: torch.nn.Module) -> torch.dtype | None:
    elements: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        if parameter.is_floating_point():
            elements[parameter.dtype] += parameter.numel()
    return elements.most_common(1)[0][0] if elements else None


def _sent(x: torch.Tensor) -> torch.Tensor:
    if x.device.type != "cuda":
        return x
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)


Predict = Callable[[str, str, Sequence[np.ndarray]], Iterator[Rows]]


@dataclass
class _Prepared:
    task: Task
    data: datasets.Dataset
    listed: Listed
    batches: Batches


class Evaluator:
    """Scores the live model. Each split is tokenised once; `examples` holds its batches and order."""

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
        """Prepares `splits`, by role ("heldout", "test", "train") and task.

        Raises:
            DataError: if columns or labels do not fit task and model.
        """
        self.tasks = tasks.with_labels(splits, live.model)
        self.live = live
        self.processor = processor
        self.processor_folder: Path | None = None  # of the processor's files
        self.dtype: torch.dtype | None = None  # of the loaded model; None for that of its files
        self.accelerator = accelerator
        self._model: Any = None
        self._source: Any = None  # the live model behind `_model`
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
        self._follow()
        return is_compiled_module(self._model)

    def _follow(self) -> None:
        live = self.live
        if self._source is live.model:
            return
        self._detach()
        self._check = FiniteCheck(live.model)
        self._source = self._model = live.model
        if not live.spread:
            self._model = self.accelerator.prepare_model(live.model, evaluation_mode=True)

    def _detach(self) -> None:
        """Forgets the model, in accelerate too, which is slow: it collects garbage."""
        if self._source is not None:
            self._model = self._source = None
            self.accelerator.free_memory()

    def release(self) -> None:
        """Frees the live model until `live.load`."""
        self._detach()
        for by_task in self._splits.values():
            for prepared in by_task.values():
                prepared.batches.forget()
        self.live.release()

    def _step(self, task: Task, batch: Batch, plain: bool = False) -> Predictions:
        self._follow()
        with stopwatch.part("forward"), self.accelerator.autocast():
            return task.step(self._source if plain else self._model, batch, self.processor)

    @torch.inference_mode()
    def outputs(self, split: str, examples: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
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
        batch = prepared.task.collate(list(prepared.data.select(numbers)), self.processor)
        return send_to_device(dict(batch), self.accelerator.device)

    def prepared(self, split: str) -> dict[str, datasets.Dataset]:
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
        """Scores the live model on `split`, or a piece of it, until it cannot reach `threshold` any more.

        If memory runs out, the batch size is halved for good.

        Args:
            order: by task; None for that of `examples`.
            predict: replaces `predictions`.

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
        """Yields predictions batch by batch; on an accelerator the next batch starts before the host reads
        the last one.
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
        """Recomputes batch-norm statistics on `number` training batches, always the same.

        Raises:
            ConfigError: if no forward pass updates them.
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
        collate, device = partial(task.collate, processor=self.processor), self.accelerator.device
        batches = Batches(data, collate, device, self._memory, self._workers)
        return _Prepared(task, data, Listed(references, lengths, corpus), batches)
