"""Scoring where the predictions are known already: no model, and the same evaluation as with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from soupkitchen.evaluation.examples import Examples, Piece
from soupkitchen.evaluation.outcome import Evaluation, Part
from soupkitchen.metrics import Rows, take
from soupkitchen.tasks import Several


def replayed(
    predicted: Mapping[str, Rows],
    tasks: Several,
    examples: Examples,
    split: str,
    piece: Piece,
    stop: Callable[[Evaluation], Evaluation | None] | None = None,
) -> Evaluation:
    """Goes through a split batch by batch, in the order that it has now, until `stop` says what to end with.

    Args:
        predicted: by task, predictions of all examples in the data's order.
        stop: asked after each batch, with scores at the most that they can still be.
    """
    orders, references, size = examples.order(split), examples.references(split), examples.batch_size

    def part(name: str, done: int) -> Part:
        metric, order = tasks.tasks[name].metric, orders[name]
        return Part.of_first(metric, take(predicted[name], order[:done]), references[name], order)

    bounds = {name: piece.bounds(name, len(order)) for name, order in orders.items()}
    parts = {name: part(name, start) for name, (start, _) in bounds.items()}
    for name, (start, end) in bounds.items():
        for done in (*range(start + size, end, size), end) if start < end else ():
            parts[name] = part(name, done)
            so_far = Evaluation.of(split, parts, tasks)
            if stop is None or parts[name].values is None or so_far.complete:
                continue
            if (ended := stop(so_far)) is not None:
                return ended
    return Evaluation.of(split, parts, tasks)
