"""Scores: looks up known evaluations, and sends the rest to the executor; nothing is scored twice.

The lookup goes through memory, the journal of a continued run, and the cache of all runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from soupkitchen.errors import CandidateError, CheckpointError, DataError
from soupkitchen.evaluation import Evaluation, Part, Threshold
from soupkitchen.evaluation.scoring import Examples, Order
from soupkitchen.executors import Executor, Request, Scoring
from soupkitchen.executors.base import Speculation, replayed
from soupkitchen.experiment.ledger import Ledger
from soupkitchen.metrics import Rows
from soupkitchen.search.base import OnError
from soupkitchen.soup import Recipe
from soupkitchen.store.digests import digest
from soupkitchen.store.evaluations import EvaluationCache
from soupkitchen.store.journal import Event
from soupkitchen.tasks import Several

_ROWS, _ORDER = "rows ", "order "
"""Prefixes of task names if not all is scored: predictions, and their example numbers."""


class Keys(Protocol):
    """Cache keys of evaluations; `evaluation.Identity` makes them."""

    def asked(self, recipe: Recipe, split: str) -> str:
        """A digest of the recipe and the data."""
        ...

    def predictions(self, recipe: Recipe, split: str) -> str:
        """A digest of all that predictions depend on."""
        ...

    def check(self, recipe: Recipe) -> None:
        """Raises:
        CheckpointError: if files changed after their digests were made.
        """
        ...


@dataclass(frozen=True)
class Scored:
    """The evaluation of a recipe, and its cost.

    Attributes:
        merge_seconds: for reading, merging and filling the model.
        cached: known before.
        order: of scoring, by task.
        examples_known: from earlier pieces.
    """

    recipe: Recipe
    evaluation: Evaluation
    merge_seconds: float
    cached: bool
    order: Order = field(repr=False)
    examples_known: int = 0

    @property
    def examples_scored(self) -> int:
        return 0 if self.cached else self.evaluation.examples_scored - self.examples_known


@dataclass(frozen=True)
class Unscorable:
    """A recipe that cannot be scored, and why."""

    recipe: Recipe
    reason: str


class Scores:
    """The scores of one pool's recipes.

    Args:
        own: the run's own evaluations; None to store none.
        shared: the cache of all runs.
        on_error: "skip" goes on without a recipe that cannot be scored.
    """

    def __init__(
        self,
        executor: Executor,
        examples: Examples,
        tasks: Several,
        ledger: Ledger,
        keys: Keys,
        own: EvaluationCache | None = None,
        shared: EvaluationCache | None = None,
        on_error: OnError = "stop",
    ) -> None:
        self.executor, self.examples, self.tasks, self.ledger = executor, examples, tasks, ledger
        self.keys = keys
        self._own, self._shared = own, shared
        self._on_error = on_error
        self._memory: dict[tuple[str, str], Scored] = {}

    def score(self, request: Request, anew: bool = False) -> Scored:
        """Scores one request; `anew` even if it was scored, in the present batches.

        Raises:
            CandidateError: if it fails because of the weights, and errors may be skipped.
            CheckpointError: if it fails and errors may not be skipped, or files changed.
            MachineError: if it fails for another reason.
            SaveError, JournalError: if the run's own files cannot be written.
        """
        (scored,) = self.each([request], skips=False, anew=anew)
        assert isinstance(scored, Scored)
        return scored

    def each(
        self,
        requests: Sequence[Request],
        threshold: Callable[[int], Threshold | None] | None = None,
        skips: bool = True,
        anew: bool = False,
    ) -> Iterator[Scored | Unscorable]:
        """Yields the results in order, as if requests were scored one after the other.

        Args:
            threshold: of a request by number; it may rise with results. None for its own.
            skips: note a failure and go on.

        Raises:
            CandidateError: if a recipe cannot be scored, unless `skips`.
            Others: as `score` does.
        """

        def request_of(number: int) -> Request:
            request = requests[number]
            return replace(
                request,
                threshold=request.threshold if threshold is None else threshold(number),
                order=request.order or self.examples.order(request.split),
                batch_size=self.examples.batch_size,
            )

        speculation = Speculation(self.executor, self.tasks, self.examples, len(requests), request_of)
        for number in range(len(requests)):
            request = request_of(number)
            result = self._look_up(request, anew)
            if result is None:
                result = self._noted(request, speculation.take(number, request), skips)
            if isinstance(result, Unscorable) and not skips:
                raise CandidateError(result.reason)
            yield result

    def learn(self, tasks: Several) -> None:
        """Takes tasks whose score depends on the ranking, and updates remembered scores."""
        self.tasks = tasks
        self.executor.learn(tasks)
        for key, scored in self._memory.items():
            evaluation = replace(scored.evaluation, score=tasks.score(scored.evaluation.scores))
            self._memory[key] = replace(scored, evaluation=evaluation)

    def refuse_nan(self, what: str, scored: Scored) -> None:
        """Raises:
        DataError: if the score is NaN, and errors may not be skipped.
        """
        if self._on_error == "stop" and math.isnan(scored.evaluation.score):
            raise DataError(f"{what} scores NaN on the held-out set; search.on_error=skip goes on without it")

    def _look_up(self, request: Request, anew: bool) -> Scored | Unscorable | None:
        key = request.recipe.digest, request.split
        if key in self._memory and not anew:
            remembered = self._memory[key]
            return Scored(request.recipe, remembered.evaluation, 0.0, cached=True, order=remembered.order)
        if self.ledger.replaying:
            return self._recalled(request)
        evaluation = self._cached(request)
        return None if evaluation is None else self._note(request, evaluation, cached=True)

    def _recalled(self, request: Request) -> Scored | Unscorable:
        event = self.ledger.recall_scoring(journal_key(request, self.keys), request.split)
        if event["event"] == "error":
            return Unscorable(request.recipe, event["reason"])
        self._shrink(event["batch_size"])
        if not event["complete"] and request.piece is None:
            evaluation = stopped(event, self.examples)
        elif self._own and (outputs := self._own.get(event["predictions"])) is not None:
            evaluation = evaluation_of(outputs, request.split, self.tasks, self.examples)
        else:
            evaluation = self._repeated(request, event)
        evaluation = replace(
            evaluation,
            seconds=event["eval_seconds"],
            stopped_by=event["stopped_by"],
            explained=event["explained"],
        )
        return self._remember(request, evaluation, event["merge_seconds"], event["cached"])

    def _repeated(self, request: Request, event: Event) -> Evaluation:
        """Scores a request again, equally far, if stored predictions are damaged."""
        limit = {name: number for name, (_, number) in event["parts"].items()}
        piece = request.piece and replace(request.piece, limit=limit)
        (scoring,) = self.executor.score([replace(request, threshold=None, batch_size=0, piece=piece)])
        if scoring.evaluation is None:
            raise CheckpointError(f"{request.what}: {scoring.error}")
        return scoring.evaluation

    def _cached(self, request: Request) -> Evaluation | None:
        if self._shared is None:
            return None
        if request.piece is not None and self.tasks.binary:  # right or wrong does not depend on batches
            outputs = self._shared.get(self.keys.predictions(request.recipe, request.split))
            if outputs is not None:
                return replayed(outputs, request, self.tasks, self.examples)
        outputs = self._shared.get(cache_key(request, self.keys, self.examples))
        if outputs is None:
            return None
        evaluation = evaluation_of(outputs, request.split, self.tasks, self.examples)
        early = request.threshold is not None and not evaluation.complete
        return replace(evaluation, stopped_by="exact") if early else evaluation

    def _noted(self, request: Request, scoring: Scoring, skips: bool) -> Scored | Unscorable:
        if scoring.evaluation is not None:
            self._shrink(scoring.batch_size)
            return self._note(request, scoring.evaluation, scoring.merge_seconds)
        if self._on_error == "stop":
            raise CheckpointError(f"{request.what}: {scoring.error}; search.on_error=skip goes on without it")
        if skips:
            key = journal_key(request, self.keys)
            self.ledger.failed(key, request.split, request.what, scoring.error)
        return Unscorable(request.recipe, scoring.error)

    def _note(
        self, request: Request, evaluation: Evaluation, merge_seconds: float = 0.0, cached: bool = False
    ) -> Scored:
        self.keys.check(request.recipe)
        key = None
        if (evaluation.complete or request.piece) and (self._own or self._shared):
            key, outputs = cache_key(request, self.keys, self.examples), outputs_of(evaluation)
            if self._own:
                self._own.write(key, outputs, f"{request.what}, {request.split}")
            if self._shared and not cached:
                self._shared.put(key, outputs, f"{request.what}, {request.split}")
        self.ledger.scored(
            key=journal_key(request, self.keys),
            split=request.split,
            what=request.what,
            recipe=request.recipe.to_data(),
            score=evaluation.score,
            complete=evaluation.complete,
            stopped_by=evaluation.stopped_by,
            explained=evaluation.explained,
            cached=cached,
            batch_size=self.examples.batch_size,
            merge_seconds=merge_seconds,
            eval_seconds=evaluation.seconds,
            parts={name: [part.score, part.examples_scored] for name, part in evaluation.parts.items()},
            predictions=key,
        )
        return self._remember(request, evaluation, merge_seconds, cached)

    def _remember(
        self, request: Request, evaluation: Evaluation, merge_seconds: float, cached: bool
    ) -> Scored:
        examples_known = request.piece.examples_known if request.piece else 0
        assert request.order is not None
        scored = Scored(request.recipe, evaluation, merge_seconds, cached, request.order, examples_known)
        if evaluation.complete:
            self._memory[request.recipe.digest, request.split] = scored
        return scored

    def _shrink(self, batch_size: int) -> None:
        if 0 < batch_size < self.examples.batch_size:
            self.examples.batch_size = batch_size


def journal_key(request: Request, keys: Keys) -> str:
    key = keys.asked(request.recipe, request.split)
    return key if request.piece is None else digest(key, request.piece.examples_known)


def cache_key(request: Request, keys: Keys, examples: Examples) -> str:
    """The key of a request's predictions.

    A piece's key includes the order, the known examples and the threshold, which decide where scoring stops.
    """
    key, piece, threshold = keys.predictions(request.recipe, request.split), request.piece, request.threshold
    if piece is None:
        return key
    orders = request.order or examples.order(request.split)
    bounds = {name: piece.bounds(name, len(order)) for name, order in orders.items()}
    scored = [(name, orders[name][:end].tolist(), start) for name, (start, end) in bounds.items()]
    reached = threshold and [repr(threshold.rule), repr(threshold.incumbent), repr(threshold.above)]
    return digest(key, scored, examples.batch_size, reached)


def outputs_of(evaluation: Evaluation) -> dict[str, Rows]:
    """Predictions by task and, if not all is scored, their example numbers."""
    if evaluation.complete:
        return {name: part.predictions for name, part in evaluation.parts.items()}
    outputs: dict[str, Rows] = {}
    for name, part in evaluation.parts.items():
        outputs[f"{_ROWS}{name}"] = part.predictions
        outputs[f"{_ORDER}{name}"] = np.arange(part.examples_total) if part.order is None else part.order
    return outputs


def evaluation_of(outputs: Mapping[str, Rows], split: str, tasks: Several, examples: Examples) -> Evaluation:
    """The inverse of `outputs_of`."""
    parts, references = {}, examples.references(split)
    for name, right in references.items():
        metric = tasks.tasks[name].metric
        if len(outputs) == len(references):
            parts[name] = Part.whole(metric, outputs[name], right)
        else:
            order = np.asarray(outputs[f"{_ORDER}{name}"], int)
            parts[name] = Part.of_first(metric, outputs[f"{_ROWS}{name}"], right, order)
    return Evaluation.of(split, parts, tasks)


def stopped(event: Event, examples: Examples) -> Evaluation:
    """The evaluation of an event without stored predictions, after an early stop."""
    sizes = examples.sizes(event["split"])
    parts = {
        name: Part(score, None, (), number, sizes[name]) for name, (score, number) in event["parts"].items()
    }
    seconds, by = event["eval_seconds"], event["stopped_by"]
    return Evaluation(event["split"], event["score"], parts, False, seconds, by)
