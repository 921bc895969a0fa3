"""Scores weights: fills the live model, runs the tasks, and never scores the same weights twice."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import xxhash
from safetensors import SafetensorError

from soupkitchen.cache import EvaluationCache, digest
from soupkitchen.checkpoints.reader import Tensors
from soupkitchen.errors import CandidateError, CheckpointError
from soupkitchen.evaluation.evaluator import Evaluation, Evaluator, Part, Progress, Stop
from soupkitchen.journal import Journal
from soupkitchen.metrics import Rows
from soupkitchen.tasks.base import Task
from soupkitchen.tasks.several import Several

Announce = Callable[[str], Progress]
"""Told what is about to be scored; returns what is called as examples are done."""

PACKAGES = ("soupkitchen", "torch", "transformers")


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
    """Scores the weights of one pool, each recipe once for each split.

    Args:
        announce: is told what is about to be scored.
        cache: evaluations of other runs, which this one adds to.
        journal: what was scored before this run was interrupted is taken from there.
        kept: the run's own evaluations, which its journal refers to.
        skip_errors: whether what cannot be scored is a `CandidateError`.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        announce: Announce,
        cache: EvaluationCache | None = None,
        journal: Journal | None = None,
        kept: EvaluationCache | None = None,
        skip_errors: bool = False,
    ) -> None:
        self.evaluator = evaluator
        self._announce = announce
        self._cache = cache
        self._journal = journal
        self._kept = kept
        self._skip_errors = skip_errors
        self._scored: dict[tuple[str, Recipe], Scored] = {}
        self._examples: dict[str, str] = {}

    def score(self, what: str, recipe: Recipe, split: str = "heldout", stop: Stop | None = None) -> Scored:
        """Scores what `recipe` gives, no further than `stop` asks; `what` is for the progress bar.

        Raises:
            CandidateError: where that fails, and errors may be skipped.
            SaveError: where the run's own files cannot be written.
        """
        if seen := self._scored.get((split, recipe)):
            return Scored(recipe, seen.evaluation, 0.0, cached=True, order=seen.order)
        progress = self._announce(what)
        identity = self._identity(recipe, split) if self._journal or self._cache else ""
        scored = self._recalled(recipe, split, identity)
        if scored is None:
            order = self.evaluator.order(split)
            key = self._key(identity, split) if self._cache else ""
            outputs = self._cache.get(key) if self._cache else None
            if outputs is not None:
                scored = Scored(recipe, self._evaluation(split, outputs), 0.0, cached=True, order=order)
            else:
                scored = self._score(recipe, split, stop, progress, identity, what)
            self._note(scored, split, identity, what)
            if self._cache and scored.evaluation.complete and not scored.cached:
                self._cache.put(key, _outputs(scored), f"{what}, {split}")
        if scored.evaluation.complete:
            self._scored[split, recipe] = scored
        return scored

    def _score(
        self, recipe: Recipe, split: str, stop: Stop | None, progress: Progress, identity: str, what: str
    ) -> Scored:
        order = self.evaluator.order(split)
        try:
            started = time.perf_counter()
            self.fill(recipe)
            seconds = time.perf_counter() - started
            evaluation = self.evaluator.score(split, stop, progress)
        except (CheckpointError, SafetensorError, OSError, RuntimeError) as error:
            if not self._skip_errors:
                raise
            reason = str(error).strip().split("\n")[0] or type(error).__name__
            event = {"event": "error", "key": identity, "split": split, "what": what, "reason": reason}
            raise CandidateError(reason, event) from error
        return Scored(recipe, evaluation, seconds, cached=False, order=order)

    def _note(self, scored: Scored, split: str, identity: str, what: str) -> None:
        """Has the journal say what was scored, and keeps the predictions that it refers to."""
        if self._journal is None or self._kept is None:
            return
        evaluation = scored.evaluation
        if evaluation.complete:
            self._kept.write(identity, _outputs(scored), f"{what}, {split}")
        self._journal.add(
            event="score",
            key=identity,
            split=split,
            what=what,
            score=evaluation.score,
            complete=evaluation.complete,
            cached=scored.cached,
            batch_size=self.evaluator.batch_size,
            merge_seconds=scored.merge_seconds,
            eval_seconds=evaluation.seconds,
            parts={name: [part.score, part.examples_scored] for name, part in evaluation.parts.items()},
        )

    def _recalled(self, recipe: Recipe, split: str, identity: str) -> Scored | None:
        """What the journal says of an earlier scoring; None where that has not happened yet."""
        if self._journal is None or self._kept is None or not self._journal.replaying:
            return None
        failed = (self._journal.peek() or {}).get("event") == "error"
        event = self._journal.recall(event="error" if failed else "score", key=identity, split=split)
        assert event is not None
        if failed:
            raise CandidateError(event["reason"])
        order = self.evaluator.order(split)
        if event["batch_size"] < self.evaluator.batch_size:  # memory had run out
            self.evaluator.batch_size = event["batch_size"]
            self.evaluator.reorder(split, order)
        if not event["complete"]:
            references = self.evaluator.references(split)
            metrics = {name: task.metric for name, task in self.evaluator.tasks.tasks.items()}
            parts = {
                name: Part(metrics[name], score, None, (), references[name], number)
                for name, (score, number) in event["parts"].items()
            }
            evaluation = Evaluation(split, event["score"], parts, False, event["eval_seconds"])
        elif (outputs := self._kept.get(identity)) is not None:
            evaluation = replace(self._evaluation(split, outputs), seconds=event["eval_seconds"])
        else:  # damaged: scored again, as it was scored before
            self.fill(recipe)
            evaluation = replace(self.evaluator.score(split), seconds=event["eval_seconds"])
        return Scored(recipe, evaluation, event["merge_seconds"], event["cached"], order)

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

    def _identity(self, recipe: Recipe, split: str) -> str:
        """A digest of what is scored, on what."""
        evaluator = self.evaluator
        return digest(
            [recipe.content(), recipe.variant, recipe.recalibrate],
            self.examples_of("train") if recipe.recalibrate else "",
            self.examples_of(split),
            self.model(),
            {name: _settings(task) for name, task in evaluator.tasks.tasks.items()},
        )

    def _key(self, identity: str, split: str) -> str:
        """A digest of everything that the predictions depend on."""
        evaluator = self.evaluator
        return digest(
            identity,
            {name: digest(order.tobytes()) for name, order in evaluator.order(split).items()},
            [
                evaluator.batch_size,
                str(evaluator.accelerator.device.type),
                evaluator.accelerator.mixed_precision,
            ],
            [f"{package} {version(package)}" for package in PACKAGES],
            _own_code(),
        )

    def model(self) -> str:
        """A digest of the model's configuration."""
        return digest(_configuration(self.evaluator.live.model))

    def examples_of(self, split: str) -> str:
        """A digest of the split's examples, as the model takes them."""
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


@cache
def _own_code() -> str:
    """A digest of soupkitchen's source: a version number does not tell one checkout from the next."""
    package = Path(__file__).parents[1]
    files = sorted(package.rglob("*.py"))
    return digest(*(part for file in files for part in (file.name, file.read_bytes())))


def _outputs(scored: Scored) -> dict[str, Rows]:
    return {name: part.predictions for name, part in scored.evaluation.parts.items()}


def _configuration(model: Any) -> list[str]:
    """What the model is, but for its weights, that its predictions may depend on."""
    parts = [getattr(model, name, None) for name in ("config", "generation_config")]
    told = [part.to_dict() for part in parts if part is not None]
    ignored = ("_name_or_path", "transformers_version")
    return [
        json.dumps({k: v for k, v in one.items() if k not in ignored}, sort_keys=True, default=str)
        for one in told
    ]
