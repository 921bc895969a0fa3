"""Nothing is scored twice: what is known is taken from where it is known, the rest goes to the executor.

Known are, in this order, what this process has scored, what the journal of a run that is continued
says, and what the cache of all runs holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from soupkitchen.errors import CandidateError, CheckpointError, DataError
from soupkitchen.evaluation import Bar, Evaluation
from soupkitchen.evaluation.examples import Examples, Order
from soupkitchen.executors import Executor, Request, Scoring
from soupkitchen.executors.replay import ended, replayed
from soupkitchen.experiment.kept import Known, asked, entry, evaluation_of, outputs_of, stopped
from soupkitchen.experiment.ledger import Ledger
from soupkitchen.metrics import Rows
from soupkitchen.search.rules import OnError
from soupkitchen.soup import Recipe
from soupkitchen.store.evaluations import EvaluationCache
from soupkitchen.store.events import Event
from soupkitchen.tasks import Several


@dataclass(frozen=True)
class Scored:
    """An evaluation and what it took.

    Attributes:
        recipe: what was scored.
        merge_seconds: reading, merging and filling the model.
        cached: whether it was known from before.
        order: for each task, the order in which the examples were scored.
        known: how many examples were known before, of a split that is scored in pieces.
    """

    recipe: Recipe
    evaluation: Evaluation
    merge_seconds: float
    cached: bool
    order: Order = field(repr=False)
    known: int = 0

    @property
    def examples_scored(self) -> int:
        """How many examples were scored for it."""
        return 0 if self.cached else self.evaluation.examples_scored - self.known


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

    def each(
        self,
        requests: Sequence[Request],
        anew: bool = False,
        bar: Callable[[], Bar | None] | None = None,
    ) -> Iterator[Scored | CandidateError]:
        """Yields what comes of each request, in order; those that are not asked for are not scored.

        Where the executor works on several at once, so many are given to it, and what is not asked for
        is thrown away. So is what a bar that has risen meanwhile makes needless: all is as if one had been
        scored after the other.

        Args:
            bar: what has to be reached now, which may rise with what was yielded; None for that of each
                request.
        """
        at_once = self.executor.workers
        for start in range(0, len(requests), at_once):
            some = requests[start : start + at_once]
            running: Iterator[Scoring] | None = None
            easiest: Bar | None = None
            for number, asked_for in enumerate(some):
                request = asked_for if bar is None else replace(asked_for, bar=bar())
                remembered = None if anew else self._remembered(request)
                known = remembered or self._recalled(request) or self._cached(request)
                if known is None and running is None:
                    now = self.examples.order(request.split), self.examples.batch_size
                    wanted = [
                        replace(
                            one,
                            order=one.order or now[0],
                            batch_size=now[1],
                            bar=one.bar if bar is None else request.bar,
                        )
                        for one in some[number:]
                    ]
                    easiest = request.bar
                    running = self.executor.score(wanted)
                scoring = None if running is None else next(running)
                if bar is not None and known is None and request.bar is not easiest:
                    scoring = self._ended(scoring, replace(request, order=request.order or now[0]))
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
        event = self.ledger.recall_scoring(asked(request, self.identity), request.split)
        if event["event"] == "error":
            return CandidateError(event["reason"])
        self._shrink(event["batch_size"])
        evaluation = self._evaluation_of(event, request)
        return self._remember(self._scored(request, evaluation, event["merge_seconds"], event["cached"]))

    def _evaluation_of(self, event: Event, request: Request) -> Evaluation:
        split = request.split
        told = {"seconds": event["eval_seconds"], "stopped_by": event.get("stopped_by", "")}
        if not event["complete"] and request.piece is None:
            return stopped(event, split, self.examples.sizes(split))
        outputs = self._own.get(event["predictions"]) if self._own else None
        if outputs is not None:
            return replace(self._evaluation(split, outputs), **told)
        limit = {name: number for name, (_, number) in event["parts"].items()}
        piece = request.piece and replace(request.piece, limit=limit)
        again = replace(request, bar=None, order=request.order or self.examples.order(split), piece=piece)
        (scoring,) = self.executor.score([again])  # damaged: scored again, as it was scored before
        if scoring.evaluation is None:
            raise CheckpointError(f"{request.what}: {scoring.error}")
        return replace(scoring.evaluation, **told)

    def _cached(self, request: Request) -> Scored | None:
        if self._shared is None:
            return None
        evaluation = self._in_pieces(request)
        if evaluation is None:
            outputs = self._shared.get(entry(request, self.identity, self.examples))
            if outputs is None:
                return None
            evaluation = self._evaluation(request.split, outputs)
            if request.bar and not evaluation.complete:
                evaluation = replace(evaluation, stopped_by="exact")
        return self._note(self._scored(request, evaluation, cached=True), request)

    def _in_pieces(self, request: Request) -> Evaluation | None:
        """What scoring a piece comes to, where all was scored at once before.

        That was in other batches: only what is right or wrong is taken from there.
        """
        if self._shared is None or request.piece is None or not self.tasks.binary:
            return None
        outputs = self._shared.get(self.identity.predictions(request.recipe, request.split))
        return None if outputs is None else replayed(outputs, request, self.tasks, self.examples)

    def _ended(self, scoring: Scoring | None, request: Request) -> Scoring | None:
        """What scoring would have come to with the bar that there is now."""
        if scoring is None or scoring.evaluation is None:
            return scoring
        evaluation = ended(scoring.evaluation, request, self.tasks, self.examples)
        return replace(scoring, evaluation=evaluation)

    def _taken(self, request: Request, scoring: Scoring | None) -> Scored | CandidateError:
        assert scoring is not None
        if scoring.evaluation is None:
            if self._on_error == "stop":
                raise CheckpointError(
                    f"{request.what}: {scoring.error}; search.on_error=skip goes on without it"
                )
            event = {"key": asked(request, self.identity), "split": request.split, "what": request.what}
            return CandidateError(scoring.error, event)
        scored = self._scored(request, scoring.evaluation, scoring.merge_seconds)
        self._shrink(scoring.batch_size)
        return self._note(scored, request)

    def _scored(
        self, request: Request, evaluation: Evaluation, merge_seconds: float = 0.0, cached: bool = False
    ) -> Scored:
        order = request.order or self.examples.order(request.split)
        known = request.piece.examples_known if request.piece else 0
        return Scored(request.recipe, evaluation, merge_seconds, cached, order, known)

    def _note(self, scored: Scored, request: Request) -> Scored:
        """Has the journal say what was scored, and keeps the predictions that it refers to."""
        recipe, evaluation, what = scored.recipe, scored.evaluation, request.what
        self.identity.check(recipe)
        split, kept_as = evaluation.split, None
        if (evaluation.complete or request.piece) and (self._own or self._shared):
            kept_as = entry(request, self.identity, self.examples)
            outputs = outputs_of(evaluation)
            if self._own:
                self._own.write(kept_as, outputs, f"{what}, {split}")
            if self._shared and not scored.cached:
                self._shared.put(kept_as, outputs, f"{what}, {split}")
        self.ledger.scored(
            key=asked(request, self.identity),
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
            predictions=kept_as,
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
        return evaluation_of(outputs, split, self.tasks, self.examples.references(split))
