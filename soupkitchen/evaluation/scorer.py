"""Scores weights: fills the live model, runs the tasks, and never scores the same weights twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from importlib.metadata import version
from typing import Any

import datasets
import numpy as np
import pyarrow
import xxhash

from soupkitchen.cache import EvaluationCache, digest
from soupkitchen.checkpoints.reader import Tensors
from soupkitchen.evaluation.evaluator import Evaluation, Evaluator, Part, Progress, Stop
from soupkitchen.metrics import Rows
from soupkitchen.tasks.base import Task
from soupkitchen.tasks.several import Several

Announce = Callable[[str], Progress]
"""Told what is about to be scored; returns what is called as examples are done."""

_PACKAGES = ("soupkitchen", "torch", "transformers")


@dataclass(frozen=True)
class Recipe:
    """What weights are made of.

    Attributes:
        ingredients: in merge order.
        variant: which of the method's variants.
        weights: yields them.
        content: what else identifies them across runs: whatever merging depends on.
        recalibrate: training batches on which batch norm is computed anew.
    """

    ingredients: tuple[str, ...]
    variant: str = ""
    weights: Callable[[], Tensors] = field(repr=False, compare=False, default=lambda: iter(()))
    content: Callable[[], Any] = field(repr=False, compare=False, default=lambda: None)
    recalibrate: int = 0


@dataclass(frozen=True)
class Scored:
    """An evaluation and what it took.

    Attributes:
        recipe: what was scored.
        merge_seconds: reading, merging and filling the model.
        cached: whether it was known from before.
        order: for each task, the order in which the examples were scored.
    """

    recipe: Recipe
    evaluation: Evaluation
    merge_seconds: float
    cached: bool
    order: Mapping[str, np.ndarray] = field(repr=False)


class Scorer:
    """Scores the weights of one pool, each recipe once for each split."""

    def __init__(
        self, evaluator: Evaluator, announce: Announce, cache: EvaluationCache | None = None
    ) -> None:
        self.evaluator = evaluator
        self._announce = announce
        self._cache = cache
        self._scored: dict[tuple[str, Recipe], Scored] = {}
        self._examples: dict[str, str] = {}

    def score(self, what: str, recipe: Recipe, split: str = "heldout", stop: Stop | None = None) -> Scored:
        """Scores what `recipe` gives, no further than `stop` asks; `what` is for the progress bar."""
        if seen := self._scored.get((split, recipe)):
            return Scored(recipe, seen.evaluation, 0.0, cached=True, order=seen.order)
        progress = self._announce(what)
        order = self.evaluator.order(split)
        key = self._key(recipe, split) if self._cache else ""
        if self._cache and (outputs := self._cache.get(key)):
            scored = Scored(recipe, self._evaluation(split, outputs), 0.0, cached=True, order=order)
        else:
            started = time.perf_counter()
            self.fill(recipe)
            seconds = time.perf_counter() - started
            evaluation = self.evaluator.score(split, stop, progress)
            scored = Scored(recipe, evaluation, seconds, cached=False, order=order)
            if not evaluation.complete:
                return scored
            if self._cache:
                outputs = {name: part.predictions for name, part in evaluation.parts.items()}
                self._cache.put(key, outputs, f"{what}, {split}")
        self._scored[split, recipe] = scored
        return scored

    def rank_tasks(self, tasks: Several) -> None:
        """Takes tasks whose score follows from the ranking, and turns what was scored to them."""
        self.evaluator.tasks = tasks
        for key, scored in self._scored.items():
            evaluation = replace(scored.evaluation, score=tasks.score(scored.evaluation.scores))
            self._scored[key] = replace(scored, evaluation=evaluation)

    def fill(self, recipe: Recipe) -> None:
        """Makes the live model's weights those of `recipe`."""
        self.evaluator.live.fill(recipe.weights())
        if recipe.recalibrate and len(recipe.ingredients) > 1:
            self.evaluator.recalibrate(recipe.recalibrate)

    def _evaluation(self, split: str, outputs: Mapping[str, Rows]) -> Evaluation:
        parts = {}
        for name, references in self.evaluator.references(split).items():
            metric, predictions = self.evaluator.tasks.tasks[name].metric, outputs[name]
            values = metric.per_example(predictions, references)
            score = metric.score(predictions, references)
            parts[name] = Part(metric, score, values, predictions, references, len(references))
        scores = {name: part.score for name, part in parts.items()}
        return Evaluation(split, self.evaluator.tasks.score(scores), parts)

    def _key(self, recipe: Recipe, split: str) -> str:
        """A digest of everything that the predictions depend on."""
        evaluator = self.evaluator
        return digest(
            [recipe.content(), recipe.variant, recipe.recalibrate],
            self._examples_of("train") if recipe.recalibrate else "",
            self._examples_of(split),
            {name: digest(order.tobytes()) for name, order in evaluator.order(split).items()},
            {name: _settings(task) for name, task in evaluator.tasks.tasks.items()},
            [
                evaluator.batch_size,
                str(evaluator.accelerator.device.type),
                evaluator.accelerator.mixed_precision,
            ],
            [f"{package} {version(package)}" for package in _PACKAGES],
        )

    def _examples_of(self, split: str) -> str:
        if split not in self._examples:
            self._examples[split] = digest(*map(_content, self.evaluator.prepared(split).values()))
        return self._examples[split]


def _content(examples: datasets.Dataset) -> str:
    """A digest of prepared examples."""
    state = xxhash.xxh3_128()
    for table in examples.with_format("arrow").iter(batch_size=1000):
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema.remove_metadata()) as writer:
            writer.write_table(table.combine_chunks().replace_schema_metadata())
        state.update(sink.getvalue())
    return state.hexdigest()


def _settings(task: Task) -> list[str]:
    """The options of a task that its predictions may depend on."""
    assert is_dataclass(task)
    options = [
        f"{option.name}={getattr(task, option.name)!r}"
        for option in fields(task)
        if option.repr and option.name not in ("data", "metric")
    ]
    return [type(task).__qualname__, task.metric.inputs, *options]
