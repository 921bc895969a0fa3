"""The loop that scores predictions batch by batch, no further than a decision needs."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from soupkitchen.evaluation.examples import Examples, Order, Piece
from soupkitchen.evaluation.outcome import Evaluation, Part
from soupkitchen.evaluation.threshold import Threshold
from soupkitchen.metrics import Rows, take
from soupkitchen.stopwatch import stopwatch
from soupkitchen.tasks import Several

Progress = Callable[[int, int], None]
"""Called with the examples scored so far and the examples that there are."""

Forward = Callable[[str, Sequence[np.ndarray]], Iterable[Rows]]
"""Predicts batches of a task's examples, which are numbers."""


def score_batches(
    split: str,
    examples: Examples,
    tasks: Several,
    forward: Forward,
    threshold: Threshold | None = None,
    order: Order | None = None,
    piece: Piece | None = None,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Scores `split`, or a piece of it, until the candidate can no longer reach `threshold`.

    Args:
        threshold: None to score all.
        order: of each task's examples; None for that of `examples`.
    """
    started, piece = time.perf_counter(), piece or Piece()
    orders, references = order or examples.order(split), examples.references(split)
    done, total = 0, examples.size(split) - piece.examples_known

    def part(name: str, predictions: Rows, values: np.ndarray | None = None) -> Part:
        return Part.of_first(tasks.tasks[name].metric, predictions, references[name], orders[name], values)

    def evaluation() -> Evaluation:
        return Evaluation.of(split, parts, tasks, time.perf_counter() - started)

    parts = {name: part(name, piece.known.get(name, ())) for name in references}
    for name, right in references.items():
        metric, values = tasks.tasks[name].metric, parts[name].values
        weights = metric.weights(right)
        predictions = list(piece.known.get(name, ()))
        start, end = piece.bounds(name, len(right))
        size = examples.batch_size
        batches = [orders[name][at : min(at + size, end)] for at in range(start, end, size)]
        for batch, outputs in zip(batches, forward(name, batches), strict=True):
            predictions += list(outputs)
            done += len(outputs)
            with stopwatch.part("bookkeeping"):
                progress(done, total)
            if values is None:
                continue
            values[batch] = metric.per_example(outputs, take(right, batch))
            if threshold is not None and done < total:
                parts[name] = Part.so_far(metric, values, weights, len(predictions), len(right))
                ended = threshold.ended(evaluation(), tasks, references, orders)
                if ended is not None:
                    scored = part(name, predictions, values)
                    last = replace(ended.parts[name], predictions=scored.predictions, order=scored.order)
                    return replace(ended, parts={**ended.parts, name: last})
        parts[name] = part(name, predictions, values)
    return evaluation()
