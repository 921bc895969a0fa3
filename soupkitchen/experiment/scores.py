"""Nothing is scored twice: what is known is taken from where it is known, the rest goes to the executor.

Known are, in this order, what this process has scored, what the journal of a run that is continued
says, and what the cache of all runs holds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from soupkitchen.errors import CandidateError, CheckpointError, DataError
from soupkitchen.evaluation import Evaluation, Part
from soupkitchen.evaluation.examples import Examples, Order
from soupkitchen.executors import Executor, Request, Scoring
from soupkitchen.experiment.ledger import Ledger
from soupkitchen.metrics import Rows
from soupkitchen.search.rules import OnError
from soupkitchen.soup import Recipe
from soupkitchen.store.evaluations import EvaluationCache
from soupkitchen.store.journal import Event
from soupkitchen.tasks import Several


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
    order: Order = field(repr=False)


class Known(Protocol):
    """What evaluations are known by; `evaluation.Identity` is one."""

    def asked(self, recipe: Recipe, split: str) -> str:
        """A digest of what is scored, on what."""
        ...

    def predictions(self, recipe: Recipe, split: str) -> str:
        """A digest of all that predictions depend on."""
        ...

    def check(self, recipe: Recipe) -> None:
        """Raises:
        CheckpointError: where the files that a recipe is known by have changed since.
        """
        ...


class Scores:
    """The scores of one pool's recipes.

    Args:
        ledger: is told what was scored, and knows what was before the run was interrupted.
        identity: what evaluations are known by.
        own: the run's own evaluations, which its journal refers to; None to keep none.
        shared: those of other runs, which this one adds to.
        on_error: what becomes of a recipe that cannot be scored.
    """

    def __init__(
        self,
        executor: Executor,
        examples: Examples,
        tasks: Several,
        ledger: Ledger,
        identity: Known,
        own: EvaluationCache | None = None,
        shared: EvaluationCache | None = None,
        on_error: OnError = "stop",
    ) -> None:
        self.executor, self.examples, self.tasks, self.ledger = executor, examples, tasks, ledger
        self.identity = identity
        self._own, self._shared = own, shared
        self._on_error = on_error
        self._memo: dict[tuple[str, str], tuple[Evaluation, Order]] = {}

    def score(self, request: Request, anew: bool = False) -> Scored:
        """Scores one request.

        Args:
            anew: score it although it was scored, in the batches that there are now.

        Raises:
            CandidateError: where that fails for a reason that lies in the weights, and errors may be skipped.
            CheckpointError: the same, where they may not; and where files have changed meanwhile.
            MachineError: where it fails for another reason.
            SaveError, JournalError: where the run's own files cannot be written.
        """
        (result,) = self.each([request], anew)
        if isinstance(result, CandidateError):
            raise result
        return result

    def each(self, requests: Sequence[Request], anew: bool = False) -> Iterator[Scored | CandidateError]:
        """Yields what comes of each request, in order; those that are not asked for are not scored.

        Where the executor works on several at once, so many are given to it, and what is not asked for
        is thrown away.
        """
        at_once = self.executor.workers
        for start in range(0, len(requests), at_once):
            some = requests[start : start + at_once]
            running: Iterator[Scoring] | None = None
            for number, request in enumerate(some):
                remembered = None if anew else self._remembered(request)
                known = remembered or self._recalled(request) or self._cached(request)
                if known is None and running is None:
                    now = self.examples.order(request.split), self.examples.batch_size
                    asked = [replace(one, order=now[0], batch_size=now[1]) for one in some[number:]]
                    running = self.executor.score(asked)
                scoring = None if running is None else next(running)
                yield known or self._taken(request, scoring)

    def learn(self, tasks: Several) -> None:
        """Takes tasks whose score follows from the ranking, and turns what was scored to them."""
        self.tasks = tasks
        self.executor.learn(tasks)
        for key, (evaluation, order) in self._memo.items():
            self._memo[key] = replace(evaluation, score=tasks.score(evaluation.scores)), order

    def failed(self, error: CandidateError) -> CandidateError:
        """Notes that something cannot be scored, now that the run goes on without it."""
        if error.event is not None:
            self.ledger.failed(**error.event, reason=str(error))
        return CandidateError(str(error))

    def refuse_nan(self, what: str, scored: Scored) -> None:
        """Raises:
        DataError: where a score is NaN, and errors may not be skipped.
        """
        if self._on_error == "stop" and math.isnan(scored.evaluation.score):
            raise DataError(f"{what} scores NaN on the held-out set; search.on_error=skip goes on without it")

    def _remembered(self, request: Request) -> Scored | None:
        known = self._memo.get((request.recipe.digest, request.split))
        return known and Scored(request.recipe, known[0], 0.0, cached=True, order=known[1])

    def _recalled(self, request: Request) -> Scored | CandidateError | None:
        """What the journal says of an earlier scoring; None where that has not happened yet."""
        if not self.ledger.replaying:
            return None
        recipe, split = request.recipe, request.split
        event = self.ledger.recall_scoring(self.identity.asked(recipe, split), split)
        if event["event"] == "error":
            return CandidateError(event["reason"])
        order = self.examples.order(split)
        self._shrink(event["batch_size"])
        evaluation = self._evaluation_of(event, request)
        scored = Scored(recipe, evaluation, event["merge_seconds"], event["cached"], order)
        return self._remember(scored)

    def _evaluation_of(self, event: Event, request: Request) -> Evaluation:
        split, seconds = request.split, event["eval_seconds"]
        if not event["complete"]:
            sizes = self.examples.sizes(split)
            parts = {
                name: Part(score, None, (), number, sizes[name])
                for name, (score, number) in event["parts"].items()
            }
            return Evaluation(split, event["score"], parts, False, seconds, event.get("stopped_by", "exact"))
        outputs = self._own.get(event["predictions"]) if self._own else None
        if outputs is not None:
            return replace(self._evaluation(split, outputs), seconds=seconds)
        again = replace(request, bar=None, order=self.examples.order(split))
        (scoring,) = self.executor.score([again])  # damaged: scored again, as it was scored before
        if scoring.evaluation is None:
            raise CheckpointError(f"{request.what}: {scoring.error}")
        return replace(scoring.evaluation, seconds=seconds)

    def _cached(self, request: Request) -> Scored | None:
        if self._shared is None:
            return None
        outputs = self._shared.get(self.identity.predictions(request.recipe, request.split))
        if outputs is None:
            return None
        order = self.examples.order(request.split)
        evaluation = self._evaluation(request.split, outputs)
        return self._note(Scored(request.recipe, evaluation, 0.0, cached=True, order=order), request.what)

    def _taken(self, request: Request, scoring: Scoring | None) -> Scored | CandidateError:
        assert scoring is not None
        if scoring.evaluation is None:
            if self._on_error == "stop":
                raise CheckpointError(
                    f"{request.what}: {scoring.error}; search.on_error=skip goes on without it"
                )
            key = self.identity.asked(request.recipe, request.split)
            event = {"key": key, "split": request.split, "what": request.what}
            return CandidateError(scoring.error, event)
        order = self.examples.order(request.split)
        self._shrink(scoring.batch_size)
        scored = Scored(request.recipe, scoring.evaluation, scoring.merge_seconds, False, order)
        return self._note(scored, request.what)

    def _note(self, scored: Scored, what: str) -> Scored:
        """Has the journal say what was scored, and keeps the predictions that it refers to."""
        recipe, evaluation = scored.recipe, scored.evaluation
        self.identity.check(recipe)
        split, entry = evaluation.split, None
        if evaluation.complete and (self._own or self._shared):
            entry = self.identity.predictions(recipe, split)
            outputs = {name: part.predictions for name, part in evaluation.parts.items()}
            if self._own:
                self._own.write(entry, outputs, f"{what}, {split}")
            if self._shared and not scored.cached:
                self._shared.put(entry, outputs, f"{what}, {split}")
        self.ledger.scored(
            key=self.identity.asked(recipe, split),
            split=split,
            what=what,
            recipe=recipe.to_data(),
            score=evaluation.score,
            complete=evaluation.complete,
            stopped_by=evaluation.stopped_by,
            cached=scored.cached,
            batch_size=self.examples.batch_size,
            merge_seconds=scored.merge_seconds,
            eval_seconds=evaluation.seconds,
            parts={name: [part.score, part.examples_scored] for name, part in evaluation.parts.items()},
            predictions=entry,
        )
        return self._remember(scored)

    def _remember(self, scored: Scored) -> Scored:
        if scored.evaluation.complete:
            key = scored.recipe.digest, scored.evaluation.split
            self._memo[key] = scored.evaluation, scored.order
        return scored

    def _shrink(self, batch_size: int) -> None:
        """Takes the batches that memory was enough for."""
        if 0 < batch_size < self.examples.batch_size:
            self.examples.batch_size = batch_size

    def _evaluation(self, split: str, outputs: Mapping[str, Rows]) -> Evaluation:
        parts = {}
        for name, references in self.examples.references(split).items():
            parts[name] = Part.whole(self.tasks.tasks[name].metric, outputs[name], references)
        return Evaluation(split, self.tasks.score({name: p.score for name, p in parts.items()}), parts)
