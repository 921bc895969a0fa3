"""The stored form of evaluations: keys, and predictions, from which all else follows."""

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
"""Before a task's name, if not all is scored: its predictions, and the numbers of their examples."""


class Keys(Protocol):
    """Digests that evaluations are found by; `evaluation.Identity` makes them."""

    def asked(self, recipe: Recipe, split: str) -> str:
        """A digest of what is scored, on what."""
        ...

    def predictions(self, recipe: Recipe, split: str) -> str:
        """A digest of all that predictions depend on."""
        ...

    def check(self, recipe: Recipe) -> None:
        """Raises:
        CheckpointError: if the files that the digests are of have changed since.
        """
        ...


def journal_key(request: Request, keys: Keys) -> str:
    """The key of a request in the journal."""
    key = keys.asked(request.recipe, request.split)
    return key if request.piece is None else digest(key, request.piece.examples_known)


def cache_key(request: Request, keys: Keys, examples: Examples) -> str:
    """The key of a request's predictions.

    For a piece it depends on the order, on what was known and on the threshold, too: where scoring stops
    follows from these.
    """
    key, piece, threshold = keys.predictions(request.recipe, request.split), request.piece, request.threshold
    if piece is None:
        return key
    orders = request.order or examples.order(request.split)
    bounds = {name: piece.bounds(name, len(order)) for name, order in orders.items()}
    scored = [(name, orders[name][:end].tolist(), start) for name, (start, end) in bounds.items()]
    reached = threshold and [threshold.rule.text, repr(threshold.incumbent), repr(threshold.above)]
    return digest(key, scored, examples.batch_size, reached)


def outputs_of(evaluation: Evaluation) -> dict[str, Rows]:
    """Predictions by task and, if not all is scored, the numbers of their examples."""
    if evaluation.complete:
        return {name: part.predictions for name, part in evaluation.parts.items()}
    outputs: dict[str, Rows] = {}
    for name, part in evaluation.parts.items():
        outputs[f"{_ROWS}{name}"] = part.predictions
        outputs[f"{_ORDER}{name}"] = np.arange(part.examples_total) if part.order is None else part.order
    return outputs


def evaluation_of(outputs: Mapping[str, Rows], split: str, tasks: Several, examples: Examples) -> Evaluation:
    """The evaluation that `outputs` are of."""
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
    """The evaluation of an event of which no predictions are stored, as scoring stopped early."""
    sizes = examples.sizes(event["split"])
    parts = {
        name: Part(score, None, (), number, sizes[name]) for name, (score, number) in event["parts"].items()
    }
    seconds, by = event["eval_seconds"], event["stopped_by"]
    return Evaluation(event["split"], event["score"], parts, False, seconds, by)
