"""Scoring where the predictions are known already: no model, and the same evaluation as with one."""

from __future__ import annotations

from collections.abc import Mapping

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
