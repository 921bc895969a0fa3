"""What is kept of evaluations, and what it is known by: predictions, from which all else follows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from soupkitchen.evaluation import Evaluation, Part
from soupkitchen.evaluation.examples import Examples
from soupkitchen.executors import Request
from soupkitchen.metrics import Rows
from soupkitchen.soup import Recipe
from soupkitchen.store.digests import digest
from soupkitchen.store.events import Event
from soupkitchen.tasks import Several

_ROWS, _ORDER = "rows ", "order "
"""Before a task's name, where not all is scored: its predictions, and which examples they are of."""


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


def asked(request: Request, identity: Known) -> str:
    """What the journal knows a request by."""
    key = identity.asked(request.recipe, request.split)
    return key if request.piece is None else digest(key, request.piece.examples_known)


def entry(request: Request, identity: Known, examples: Examples) -> str:
    """What predictions are known by that come of a request.

    Of a piece that depends on the order, on what was known and on the bar: where scoring stops follows
    from these.
    """
    key, piece, bar = identity.predictions(request.recipe, request.split), request.piece, request.bar
    if piece is None:
        return key
    orders = request.order or examples.order(request.split)
    bounds = {name: piece.bounds(name, len(order)) for name, order in orders.items()}
    scored = [(name, orders[name][:end].tolist(), start) for name, (start, end) in bounds.items()]
    reached = None if bar is None else [bar.rule.text, repr(bar.incumbent), repr(bar.above)]
    return digest(key, scored, examples.batch_size, reached)


def outputs_of(evaluation: Evaluation) -> dict[str, Rows]:
    """Predictions by task and, where not all is scored, which examples they are of."""
    if evaluation.complete:
        return {name: part.predictions for name, part in evaluation.parts.items()}
    outputs: dict[str, Rows] = {}
    for name, part in evaluation.parts.items():
        outputs[f"{_ROWS}{name}"] = part.predictions
        outputs[f"{_ORDER}{name}"] = np.arange(part.examples_total) if part.order is None else part.order
    return outputs


def evaluation_of(
    outputs: Mapping[str, Rows], split: str, tasks: Several, references: Mapping[str, Rows]
) -> Evaluation:
    """The evaluation that `outputs` are of."""
    parts = {}
    for name, right in references.items():
        metric = tasks.tasks[name].metric
        if len(outputs) == len(references):
            parts[name] = Part.whole(metric, outputs[name], right)
        else:
            order = np.asarray(outputs[f"{_ORDER}{name}"], int)
            parts[name] = Part.of_first(metric, outputs[f"{_ROWS}{name}"], right, order)
    return Evaluation.of(split, parts, tasks)


def stopped(event: Event, split: str, sizes: Mapping[str, int]) -> Evaluation:
    """What a journal says of an evaluation that was stopped early, of which nothing else is kept."""
    parts = {
        name: Part(score, None, (), number, sizes[name]) for name, (score, number) in event["parts"].items()
    }
    by = event.get("stopped_by", "exact")
    return Evaluation(split, event["score"], parts, False, event["eval_seconds"], by)
