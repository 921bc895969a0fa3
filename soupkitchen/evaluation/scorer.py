"""Scores weights: fills the live model, runs the tasks, and never scores the same weights twice."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from soupkitchen.cache import EvaluationCache, digest
from soupkitchen.checkpoints.reader import Tensors
from soupkitchen.errors import CandidateError, CheckpointError, MachineError, SoupkitchenError
from soupkitchen.evaluation import identity
from soupkitchen.evaluation.evaluator import Evaluation, Evaluator, Part, Progress, Stop
from soupkitchen.journal import Journal
from soupkitchen.metrics import Rows
from soupkitchen.tasks.several import Several

Announce = Callable[[str], Progress]
"""Told what is about to be scored; returns what is called as examples are done."""


@dataclass(frozen=True)
class Recipe:
    """What weights are made of.

    Attributes:
        ingredients: in merge order.
        variant: which of the method's variants.
        weights: yields them.
        content: what else identifies them across runs: whatever merging depends on.
        recalibrate: training batches on which batch norm is computed anew.
        changed: the weight files that are not what they were when the pool was opened.
    """

    ingredients: tuple[str, ...]
    variant: str = ""
    weights: Callable[[], Tensors] = field(repr=False, compare=False, default=lambda: iter(()))
    content: Callable[[], Any] = field(repr=False, compare=False, default=lambda: None)
    recalibrate: int = 0
    changed: Callable[[], Sequence[Path]] = field(repr=False, compare=False, default=list)


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
        self._scored: dict[tuple[Any, ...], tuple[Evaluation, Mapping[str, np.ndarray]]] = {}
        self._examples: dict[str, str] = {}

    def score(
        self, what: str, recipe: Recipe, split: str = "heldout", stop: Stop | None = None, anew: bool = False
    ) -> Scored:
        """Scores what `recipe` gives, no further than `stop` asks; `what` is for the progress bar.

        Args:
            anew: score it although it was scored, in the batches that there are now.

        Raises:
            CandidateError: where that fails for a reason that lies in the weights, and errors may be skipped.
            MachineError: where it fails for another reason.
            CheckpointError: where files of the pool have changed meanwhile.
            SaveError: where the run's own files cannot be written.
        """
        known = (split, recipe.ingredients, recipe.variant, recipe.recalibrate)
        if known in self._scored and not anew:
            evaluation, order = self._scored[known]
            return Scored(recipe, evaluation, 0.0, cached=True, order=order)
        progress = self._announce(what)
        told = self._identity(recipe, split) if self._journal or self._cache else ""
        scored = self._recalled(recipe, split, told)
        if scored is None:
            order = self.evaluator.order(split)
            key = self._key(told, split) if self._cache else ""
            outputs = self._cache.get(key) if self._cache else None
            if outputs is not None:
                scored = Scored(recipe, self._evaluation(split, outputs), 0.0, cached=True, order=order)
            else:
                scored = self._score(recipe, split, stop, progress, told, what)
            _check_unchanged(recipe)
            self._note(scored, split, told, what)
            if self._cache and scored.evaluation.complete and not scored.cached:
                self._cache.put(key, _outputs(scored), f"{what}, {split}")
        if scored.evaluation.complete:
            self._scored[known] = scored.evaluation, scored.order
        return scored

    def _score(
        self, recipe: Recipe, split: str, stop: Stop | None, progress: Progress, told: str, what: str
    ) -> Scored:
        order = self.evaluator.order(split)
        try:
            started = time.perf_counter()
            self.fill(recipe)
            seconds = time.perf_counter() - started
            evaluation = self.evaluator.score(split, stop, progress)
        except Exception as error:  # a forward pass may raise anything
            _check_unchanged(recipe)
            if _of_the_machine(error):
                raise MachineError(
                    f"{what}: {_first_line(error)}. Nothing is lost: when that is put right, the "
                    "same command continues"
                ) from error
            if isinstance(error, SoupkitchenError) and not isinstance(error, CheckpointError):
                raise
            reason = _first_line(error)
            if not self._skip_errors:
                raise CheckpointError(f"{what}: {reason}; search.on_error=skip goes on without it") from error
            event = {"event": "error", "key": told, "split": split, "what": what, "reason": reason}
            raise CandidateError(reason, event) from error
        return Scored(recipe, evaluation, seconds, cached=False, order=order)

    def _note(self, scored: Scored, split: str, told: str, what: str) -> None:
        """Has the journal say what was scored, and keeps the predictions that it refers to."""
        if self._journal is None or self._kept is None:
            return
        evaluation = scored.evaluation
        if evaluation.complete:
            self._kept.write(told, _outputs(scored), f"{what}, {split}")
        self._journal.add(
            event="score",
            key=told,
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

    def _recalled(self, recipe: Recipe, split: str, told: str) -> Scored | None:
        """What the journal says of an earlier scoring; None where that has not happened yet."""
        if self._journal is None or self._kept is None or not self._journal.replaying:
            return None
        failed = (self._journal.peek() or {}).get("event") == "error"
        event = self._journal.recall(event="error" if failed else "score", key=told, split=split)
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
        elif (outputs := self._kept.get(told)) is not None:
            evaluation = replace(self._evaluation(split, outputs), seconds=event["eval_seconds"])
        else:  # damaged: scored again, as it was scored before
            self.fill(recipe)
            evaluation = replace(self.evaluator.score(split), seconds=event["eval_seconds"])
        return Scored(recipe, evaluation, event["merge_seconds"], event["cached"], order)

    def rank_tasks(self, tasks: Several) -> None:
        """Takes tasks whose score follows from the ranking, and turns what was scored to them."""
        self.evaluator.tasks = tasks
        for key, (evaluation, order) in self._scored.items():
            self._scored[key] = replace(evaluation, score=tasks.score(evaluation.scores)), order

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
        """A digest of what is scored, on what, in which batches of examples."""
        evaluator = self.evaluator
        return digest(
            [recipe.content(), recipe.variant, recipe.recalibrate],
            self.examples_of("train") if recipe.recalibrate else "",
            self.examples_of(split),
            split in evaluator.arranged,
            self.model(),
            {name: identity.task(task) for name, task in evaluator.tasks.tasks.items()},
        )

    def _key(self, told: str, split: str) -> str:
        """A digest of everything that the predictions depend on; the order of batches has no part in it."""
        evaluator = self.evaluator
        batches = {
            name: sorted(digest(batch.tobytes()) for batch in batches)
            for name, batches in evaluator.batches(split).items()
        }
        return digest(
            told,
            batches,
            [str(evaluator.accelerator.device.type), evaluator.accelerator.mixed_precision],
            identity.versions(),
            identity.own_code(),
        )

    def model(self) -> str:
        """A digest of the model's configuration."""
        return identity.model(self.evaluator.live.model)

    def examples_of(self, split: str) -> str:
        """A digest of the split's examples, as the model takes them."""
        if split not in self._examples:
            self._examples[split] = identity.examples(list(self.evaluator.prepared(split).values()))
        return self._examples[split]


def _outputs(scored: Scored) -> dict[str, Rows]:
    return {name: part.predictions for name, part in scored.evaluation.parts.items()}


def _check_unchanged(recipe: Recipe) -> None:
    """Raises:
    CheckpointError: where files of what was merged are not what they were when the pool was opened.
    """
    if changed := recipe.changed():
        names = ", ".join(map(str, changed[:3])) + (" and more" if len(changed) > 3 else "")
        raise CheckpointError(
            f"{names} changed while this run read it: is training or a copy still going on? Nothing that was "
            "read of it is kept. When it is done, start anew with overwrite=true"
        )


def _of_the_machine(error: BaseException) -> bool:
    """Whether an error says nothing of the weights: a disk, a device or the memory failed."""
    if isinstance(error, (OSError, MemoryError, torch.OutOfMemoryError)):
        return True
    accelerator = getattr(torch, "AcceleratorError", None)  # since torch 2.8
    return (accelerator is not None and isinstance(error, accelerator)) or "CUDA error" in str(error)


def _first_line(error: BaseException) -> str:
    message = str(error).strip().split("\n")[0]
    own = isinstance(error, (SoupkitchenError, OSError))
    return message if message and own else f"{type(error).__name__}: {message}".rstrip(": ")
