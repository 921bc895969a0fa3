"""Speculation: several requests are scored at once, and all is as if one had been scored after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from soupkitchen.evaluation import Evaluation, Part
from soupkitchen.evaluation.examples import Examples
from soupkitchen.evaluation.scoring import score_batches
from soupkitchen.executors.base import Executor, Request, Scoring
from soupkitchen.metrics import Rows, take
from soupkitchen.tasks import Several


class Speculation:
    """Gives requests to an executor, as many at once as it has workers; results not taken are thrown away.

    Args:
        number: of requests.
        request_of: makes the request of a number, with the threshold of now; it never falls.
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
        """The result of the request at `place`, as if `request` had been sent, with the threshold of now."""
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
    """The evaluation of a request, of known predictions.

    Args:
        predicted: by task, predictions of all examples in the data's order.
    """

    def forward(name: str, batches: Sequence[np.ndarray]) -> Iterator[Rows]:
        return (take(predicted[name], batch) for batch in batches)

    evaluation = score_batches(
        request.split, examples, tasks, forward, request.threshold, request.order, request.piece
    )
    return replace(evaluation, seconds=0.0)


def _in_the_datas_order(part: Part) -> Rows:
    """The predictions of a part; anything for examples that were not scored."""
    if part.order is None:
        return part.predictions
    if not len(part.predictions):
        return np.zeros(part.examples_total)
    places = np.zeros(part.examples_total, int)
    places[part.order] = np.arange(len(part.order))
    return take(part.predictions, places)
