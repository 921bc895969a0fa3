"""A part of the held-out examples, drawn at random, that runs are scored on first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from soupkitchen.evaluation.examples import Examples, Order, Piece
from soupkitchen.evaluation.outcome import Evaluation
from soupkitchen.tasks import Several

_SEED = 17
"""Not that of the order which confidence stopping draws: its first examples are to be others."""


@dataclass(frozen=True)
class Drawn:
    """A part of each task's examples of a split, and the rest of them.

    Attributes:
        examples: all of them, in the batches of whatever is scored at once.
        part, rest: the longest first, as in these.
    """

    examples: Examples
    split: str
    part: Order
    rest: Order

    @classmethod
    def of(cls, examples: Examples, split: str, share: float) -> Drawn:
        """The same every time, and whatever the size of batches: a run that is continued may have others."""
        random, part, rest = np.random.default_rng(_SEED), {}, {}
        for name, order in examples.order(split).items():
            drawn = random.permutation(len(order))[order] < math.ceil(share * len(order))
            part[name], rest[name] = order[drawn], order[~drawn]
        return cls(examples, split, part, rest)

    @property
    def piece(self) -> Piece:
        """The part by itself."""
        return Piece(limit={name: len(part) for name, part in self.part.items()})

    def order(self, best: Evaluation | None = None, pool: Sequence[Evaluation] = ()) -> Order:
        """The part, and then the rest: what `best` does worst on first, and among that what `pool` does."""
        rest = self.rest if best is None else self.examples.hardest(self.split, self.rest, best, pool)
        return {name: np.concatenate([part, rest[name]]) for name, part in self.part.items()}

    def score(self, evaluation: Evaluation, tasks: Several) -> float:
        """The score on the part, of an evaluation of that or more; the tasks' metrics have to be means."""
        scores, references = {}, self.examples.references(self.split)
        for name, chosen in self.part.items():
            metric, values = tasks.tasks[name].metric, evaluation.parts[name].values
            assert values is not None
            weights = metric.weights(references[name])
            scores[name] = metric.of_values(values[chosen], None if weights is None else weights[chosen])
        return tasks.score(scores)
