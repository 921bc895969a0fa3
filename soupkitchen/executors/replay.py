"""Scoring where the predictions are known already: no model, and the same evaluation as with one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from soupkitchen.evaluation import Evaluation, Part, Stopping
from soupkitchen.evaluation.examples import Examples, Piece
from soupkitchen.executors.base import Request
from soupkitchen.metrics import Rows, take
from soupkitchen.tasks import Several


def replayed(
    predicted: Mapping[str, Rows], request: Request, tasks: Several, examples: Examples
) -> Evaluation:
    """What a request comes to, batch by batch, until its bar says that it is enough.

    Args:
        predicted: by task, predictions of all examples in the data's order.
    """
    with examples.ordered(request.split, request.order):
        return _replayed(predicted, request, tasks, examples)


def ended(evaluation: Evaluation, request: Request, tasks: Several, examples: Examples) -> Evaluation:
    """What an evaluation would have ended with where the bar of `request` had been its own.

    Args:
        evaluation: scored as the request says, but for the bar, which was easier to reach, or the same.
    """
    if request.bar is None:
        return evaluation
    predicted = {name: _in_the_datas_order(part) for name, part in evaluation.parts.items()}
    return replace(replayed(predicted, request, tasks, examples), seconds=evaluation.seconds)


def _in_the_datas_order(part: Part) -> Rows:
    """The predictions of a part, and whatever else where there are none."""
    if part.order is None:
        return part.predictions
    if not len(part.predictions):
        return np.zeros(part.examples_total)
    places = np.zeros(part.examples_total, int)
    places[part.order] = np.arange(len(part.order))
    return take(part.predictions, places)


def _replayed(
    predicted: Mapping[str, Rows], request: Request, tasks: Several, examples: Examples
) -> Evaluation:
    split, bar, piece, size = request.split, request.bar, request.piece or Piece(), examples.batch_size
    orders, references = examples.order(split), examples.references(split)
    stop = None if bar is None else Stopping.of(bar, tasks, examples, split)

    def part(name: str, before: Part | None, done: int) -> Part:
        metric, order, right = tasks.tasks[name].metric, orders[name], references[name]
        known, values = (0, None) if before is None else (before.examples_scored, before.values)
        if values is not None:
            batch = order[known:done]
            values[batch] = metric.per_example(take(predicted[name], batch), take(right, batch))
        return Part.of_first(metric, take(predicted[name], order[:done]), right, order, values)

    bounds = {name: piece.bounds(name, len(order)) for name, order in orders.items()}
    parts = {name: part(name, None, start) for name, (start, _) in bounds.items()}
    for name, (start, end) in bounds.items():
        for done in (*range(start + size, end, size), end) if start < end else ():
            parts[name] = part(name, parts[name], done)
            so_far = Evaluation.of(split, parts, tasks)
            if stop is None or parts[name].values is None or so_far.complete:
                continue
            if (ended := stop(so_far)) is not None:
                return ended
    return Evaluation.of(split, parts, tasks)
