"""The seam: requests go in, scorings come out in order; both are data. A bench scores one request here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from accelerate.utils.memory import should_reduce_batch_size

from soupkitchen.errors import CheckpointError, MachineError, SoupkitchenError
from soupkitchen.evaluation import Evaluation, Evaluator, Identity, Part, Threshold
from soupkitchen.evaluation.identity import own_code, versions
from soupkitchen.evaluation.scoring import Examples, Order, Piece, Progress, score_batches
from soupkitchen.metrics import Rows, take
from soupkitchen.process import stopwatch
from soupkitchen.soup import Mixer, Recipe, check_unchanged
from soupkitchen.store.digests import digest
from soupkitchen.tasks import Several


@dataclass(frozen=True)
class Request:
    """A recipe to be scored.

    Attributes:
        what: the request in words.
        run: the run that is ranked or merged in, or "".
        threshold: None to score all.
        order: of scoring; None for the present one.
        batch_size: 0 for the present one.
        growing: requests follow that share all ingredients but the last.
        piece: None for the whole split.
    """

    what: str
    recipe: Recipe
    split: str = "heldout"
    run: str = ""
    threshold: Threshold | None = None
    order: Order | None = field(default=None, repr=False, compare=False)
    batch_size: int = 0
    growing: bool = False
    piece: Piece | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Scoring:
    """The result of a request.

    Attributes:
        evaluation: None if the weights cannot be scored.
        merge_seconds: for reading, merging and filling the model.
        batch_size: at the end; it is halved if memory runs out.
        error: why there is no evaluation.
    """

    evaluation: Evaluation | None
    merge_seconds: float = 0.0
    batch_size: int = 0
    error: str = ""


class Executor:
    """Scores requests, on this process's bench or elsewhere.

    A subclass needs `score`, and `workers` if it takes several requests at once. `bench.score(request)`
    scores one here.
    """

    workers: int = 1
    """The number of requests scored at once."""
    bench: Any

    def start(self, bench: Any) -> None:
        """Is called once, before the first request; `bench` holds the model and the pool."""
        self.bench = bench

    def score(self, requests: Sequence[Request]) -> Iterator[Scoring]:
        """Yields the results in order; the caller may stop iterating at any point.

        Raises:
            MachineError: if scoring fails for a reason other than the weights.
        """
        raise NotImplementedError

    def learn(self, tasks: Several) -> None:
        """Takes tasks whose score depends on the ranking, for all later requests."""
        self.bench.evaluator.tasks = tasks

    def stop(self) -> None:
        """Is called at the end, even after an error; releases the model."""
        self.bench = None


@dataclass
class Local(Executor):
    def score(self, requests: Sequence[Request]) -> Iterator[Scoring]:
        return map(self.bench.score, requests)


class Speculation:
    """Sends ahead as many requests as there are workers; drops unused results, so all is as if scored one by
    one.

    Args:
        request_of: makes a request by number, with the present threshold, which never falls.
    """

    def __init__(
        self,
        executor: Executor,
        tasks: Several,
        examples: Examples,
        number: int,
        request_of: Callable[[int], Request],
    ) -> None:
        self._executor, self._tasks, self._examples = executor, tasks, examples
        self._number, self._request_of = number, request_of
        self._sent: dict[int, Request] = {}
        self._results: Iterator[tuple[int, Scoring]] = iter(())

    def take(self, place: int, request: Request) -> Scoring:
        """The result at `place`, cut off at the threshold of `request`, which may have risen meanwhile."""
        if place not in self._sent:
            places = range(place, min(place + self._executor.workers, self._number))
            self._sent = {at: request if at == place else self._request_of(at) for at in places}
            self._results = zip(places, self._executor.score(list(self._sent.values())), strict=False)
        scoring = next(result for at, result in self._results if at == place)
        evaluation, threshold = scoring.evaluation, request.threshold
        if evaluation is None or threshold is None or threshold is self._sent[place].threshold:
            return scoring
        predicted = {name: _in_the_datas_order(part) for name, part in evaluation.parts.items()}
        ended = replayed(predicted, request, self._tasks, self._examples)
        return replace(scoring, evaluation=replace(ended, seconds=evaluation.seconds))


def replayed(
    predicted: Mapping[str, Rows], request: Request, tasks: Several, examples: Examples
) -> Evaluation:
    """Scores a request from known predictions: by task, of all examples in the data's order."""

    def forward(name: str, batches: Sequence[np.ndarray]) -> Iterator[Rows]:
        return (take(predicted[name], batch) for batch in batches)

    evaluation = score_batches(
        request.split, examples, tasks, forward, request.threshold, request.order, request.piece
    )
    return replace(evaluation, seconds=0.0)


def _in_the_datas_order(part: Part) -> Rows:
    """A part's predictions in the data's order, with fillers for unscored examples."""
    if part.order is None:
        return part.predictions
    if not len(part.predictions):
        return np.zeros(part.examples_total)
    places = np.zeros(part.examples_total, int)
    places[part.order] = np.arange(len(part.order))
    return take(part.predictions, places)


Announce = Callable[[str, str], Progress]
"""Gets a request in words and its run; returns a progress callback."""


def _silent(what: str, run: str) -> Progress:
    return lambda done, total: None


class Bench:
    """Merges recipes into the live model and scores them.

    Attributes:
        announce: is called before each scoring.
        elsewhere: makes such a bench in another process; can be pickled, or is None.
    """

    def __init__(
        self,
        evaluator: Evaluator,
        mixer: Mixer,
        announce: Announce = _silent,
        elsewhere: Callable[[], Bench] | None = None,
    ) -> None:
        self.evaluator = evaluator
        self.mixer = mixer
        self.announce = announce
        self.elsewhere = elsewhere

    def fill(self, recipe: Recipe, growing: bool = False) -> None:
        """Fills the live model with the weights of `recipe`.

        Args:
            growing: as in `Request`.

        Raises:
            CheckpointError: if files of the pool have changed.
        """
        with stopwatch.part("merging"):
            self.evaluator.live.fill(self.mixer.tensors(recipe, growing))
        if recipe.recalibrate:
            self.evaluator.recalibrate(recipe.recalibrate)
        check_unchanged(recipe, self.mixer.pool)

    def predictions(self, split: str, name: str, batches: Sequence[np.ndarray]) -> Iterator[Rows]:
        return self.evaluator.predictions(split, name, batches)

    def sees(self) -> dict[str, str]:
        """Digests of runs, data, model and packages; equal in processes that can share work."""
        evaluator, pool = self.evaluator, self.mixer.pool
        identity = Identity(evaluator, pool)
        headers = {
            run.name: {name: [*info.shape, info.dtype] for name, info in run.header.items()} for run in pool
        }
        others = [str(file) for run in pool for file in run.changed_files()]  # if files were replaced
        return {
            "runs": digest([headers, others]),
            "data": digest([identity.examples(split) for split in evaluator.examples.splits]),
            "model": identity.model(),
            "packages": digest(versions(), own_code()),
        }

    def check_alike(self, others: Mapping[str, Mapping[str, str]]) -> None:
        """Compares the results of `sees` of other processes with this one's.

        Raises:
            MachineError: if one differs.
        """
        here = self.sees()
        for who, theirs in others.items():
            if different := [what for what, value in theirs.items() if value != here[what]]:
                raise MachineError(
                    f"{who} has other {' and '.join(different)} than this process: all have to see the same "
                    "files, on storage that they share"
                )

    def score(self, request: Request) -> Scoring:
        """Scores a request.

        Raises:
            MachineError: if it fails for a reason other than the weights.
            CheckpointError: if files of the pool have changed.
            SoupkitchenError: if something is wrong that the user can put right.
        """
        evaluator, recipe, started = self.evaluator, request.recipe, time.perf_counter()
        evaluator.examples.batch_size = request.batch_size or evaluator.examples.batch_size
        try:
            self.fill(recipe, request.growing)
            seconds = time.perf_counter() - started
            progress = self.announce(request.what, request.run)
            evaluation = evaluator.score(
                request.split, request.threshold, progress, request.order, request.piece, self.predictions
            )
        except Exception as error:  # a forward pass may raise anything
            check_unchanged(recipe, self.mixer.pool)
            if _of_the_machine(error):
                raise MachineError(
                    f"{request.what}: {_first_line(error)}. Nothing is lost: when that is put right, the "
                    "same command continues"
                ) from error
            if isinstance(error, SoupkitchenError) and not isinstance(error, CheckpointError):
                raise
            return Scoring(None, error=_first_line(error), batch_size=evaluator.examples.batch_size)
        return Scoring(evaluation, seconds, evaluator.examples.batch_size)


def _of_the_machine(error: BaseException) -> bool:
    """Tells whether disk, device or memory failed, and not the weights."""
    if isinstance(error, (OSError, MemoryError)) or should_reduce_batch_size(error):
        return True
    accelerator = getattr(torch, "AcceleratorError", None)  # since torch 2.8
    return (accelerator is not None and isinstance(error, accelerator)) or "CUDA error" in str(error)


def _first_line(error: BaseException) -> str:
    message = str(error).strip().split("\n")[0]
    own = isinstance(error, (SoupkitchenError, OSError))
    return message if message and own else f"{type(error).__name__}: {message}".rstrip(": ")
