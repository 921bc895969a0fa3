"""Loads the splits of data, and makes an evaluator for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from itertools import chain
from typing import Any

import datasets
import torch

from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.errors import ConfigError
from soupkitchen.evaluation.evaluator import Evaluator
from soupkitchen.evaluation.live import LiveModel
from soupkitchen.evaluation.runtime import Runtime
from soupkitchen.models import Maker, Transformers
from soupkitchen.soup.memory import StateMemory
from soupkitchen.tasks import Several
from soupkitchen.tasks.columns import is_unknown, template_columns, with_columns
from soupkitchen.tasks.files import count_overlap

log = logging.getLogger(__name__)

Splits = Mapping[str, Mapping[str, datasets.Dataset]]
"""By role ("heldout", "test", "train"), then by task."""


def find_columns(tasks: Several) -> Several:
    """Fills in columns with well-known names, and drops test splits that cannot be scored.

    Raises:
        DataError: if several columns fit, or data is missing.
    """
    found = {
        name: _with_answers(with_columns(task, task.data.features, name))
        for name, task in tasks.tasks.items()
    }
    return (
        tasks
        if all(found[name] is task for name, task in tasks.tasks.items())
        else replace(tasks, tasks=found)
    )


def _with_answers(task: Any) -> Any:
    """Drops a test split that lacks a column, or has it empty or -1 throughout, as published test splits
    often do.
    """
    if (test := task.data.found_test()) is None:
        return task
    needed = _columns_of(task) & set(task.data.features())
    missing = sorted(needed - set(test.column_names))
    empty = sorted(column for column in needed - set(missing) if is_unknown(test, column))
    if not missing and not empty:
        return task
    log.warning(
        "the test split of task.data.path=%s is left out: %s; task.data.test=null says that there is none",
        task.data.path,
        f"it has no column {', '.join(missing)}" if missing else f"its {', '.join(empty)} is empty or -1",
    )
    return replace(task, data=replace(task.data, test=None))


def _columns_of(task: Any) -> set[str]:
    named = [
        (wanted, getattr(task, option)) for wanted in task.looked_for for option in wanted.options.split()
    ]
    parts = [
        template_columns("", name) if wanted.template else [name]
        for wanted, name in named
        if name is not None
    ]
    return set(chain.from_iterable(parts))


def fit_to(tasks: Several, pool: Pool) -> Several:
    """Adapts the tasks to files beside the runs that say how their models are used.

    Raises:
        IncompatibleError: if runs differ in these.
    """
    fitted = {name: task.fitted_to(pool.runs) for name, task in tasks.tasks.items()}
    return replace(tasks, tasks=fitted)


def load_splits(tasks: Several, training: bool = False) -> Splits:
    """Loads held-out, test if all tasks have it, and on demand training data.

    Raises:
        DataError: if a split is missing.
    """
    loaded = {
        name: {role: task.examples_of(split) for role, split in splits.items()}
        for name, task in tasks.tasks.items()
        for splits in [task.data.load_splits(task.stratify_column)]
    }
    roles = [role for role in ("heldout", "test") if all(role in splits for splits in loaded.values())]
    splits = {role: {name: loaded[name][role] for name in loaded} for role in roles}
    if training:
        splits["train"] = {
            name: task.examples_of(task.data.load_training(task.stratify_column))
            for name, task in tasks.tasks.items()
        }
    return splits


def evaluator_of(
    run: Checkpoint,
    tasks: Several,
    splits: Splits,
    runtime: Runtime,
    dtype: torch.dtype | None = None,
    accelerator: Any = None,
    pool: Pool | None = None,
    live: LiveModel | None = None,
    maker: Maker | None = None,
) -> Evaluator:
    """Makes an evaluator of models of the architecture of `run`.

    Args:
        pool: its processor files serve if `run` has none.
        dtype: of the weights; None for that of the files.
        accelerator, live: to reuse.
        maker: None for the tasks' transformers class.
    """
    accelerator = accelerator or runtime.accelerator()
    first = next(iter(tasks.tasks.values()))
    maker = maker or (live.maker if live else Transformers(first.model_class))
    live = live or LiveModel(run, maker, accelerator.device, runtime.loading(dtype))
    processor, folder = maker.processor(run, first, pool, live.model, runtime.trust_remote_code)
    device = accelerator.device
    memory = StateMemory(device, *runtime.batch_budget(device))
    size, workers = runtime.batch_size, runtime.workers
    evaluator = Evaluator(tasks, live, processor, splits, accelerator, size, workers, memory)
    evaluator.processor_folder, evaluator.dtype = folder, dtype
    return evaluator


def check_batchnorm(evaluator: Evaluator, recalibrate: int) -> None:
    """Warns if batch-norm statistics will be merged instead of recomputed.

    Raises:
        ConfigError: if there are none to recompute.
    """
    has = bool(evaluator.live.batchnorms())
    if recalibrate and not has:
        raise ConfigError(
            "method.recalibrate_batchnorm: this model has no batch norm to recalibrate; leave it at 0"
        )
    if has and not recalibrate:
        log.warning(
            "The models have batch norm, whose running statistics are merged as weights are: "
            "method.recalibrate_batchnorm=20 computes them anew on training data, which is often far better"
        )


def warn_of_splits(tasks: Several, splits: Splits) -> None:
    """Warns if scores will look better than they are."""
    if "test" not in splits:
        log.warning("No test split (task.data.test): the soup's held-out score is somewhat optimistic")
    for name, task in tasks.tasks.items():
        told, heldout = f"{name}: " if name else "", splits["heldout"][name]
        columns = task.content_columns or heldout.column_names
        if "test" in splits:
            test = splits["test"][name]
            if overlap := count_overlap(task.compared(heldout), task.compared(test), columns):
                log.warning(
                    "%s%d of %d test examples are held-out examples too: test scores will look too good",
                    told,
                    overlap,
                    len(test),
                )
        training = task.data.training_beside()
        if training is None or not set(columns) <= set(training.column_names):
            continue
        if overlap := count_overlap(task.compared(training), task.compared(heldout), columns):
            log.warning(
                "%s%d of %d held-out examples are training examples too: scores will look too good, and runs "
                "that learnt them by heart will be preferred",
                told,
                overlap,
                len(heldout),
            )
