"""The seam: requests in, results out, in order. Both are data, so that they can travel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from soupkitchen.evaluation import Bar, Evaluation
from soupkitchen.evaluation.examples import Order, Piece
from soupkitchen.soup import Recipe
from soupkitchen.tasks import Several


@dataclass(frozen=True)
class Request:
    """What is to be scored.

    Attributes:
        what: that in words, for people.
        order: in which the examples are scored; None as they are.
        batch_size: in batches of how many; 0 as it is.
        bar: what has to be reached for the rest of the examples to matter; None for all of them.
        growing: whether requests follow that share all ingredients but the last.
        again: whether requests follow that merge the same ingredients with other coefficients.
        piece: of the split, where it is scored in pieces; None for all of it at once.
    """

    what: str
    recipe: Recipe
    split: str = "heldout"
    bar: Bar | None = None
    order: Order | None = field(default=None, repr=False, compare=False)
    batch_size: int = 0
    growing: bool = False
    again: bool = False
    piece: Piece | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Scoring:
    """What came of a request.

    Attributes:
        evaluation: None where the weights cannot be scored.
        merge_seconds: reading, merging and filling the model.
        batch_size: that it ended with, in examples: where memory runs out it is halved.
        error: why there is no evaluation.
    """

    evaluation: Evaluation | None
    merge_seconds: float = 0.0
    batch_size: int = 0
    error: str = ""


class Executor:
    """Scores requests on the bench of this process, or on others of its making.

    An executor of your own is a class with `score`, and `workers` where it works on several requests
    at once; `bench.score(request)` is what scores one, here.
    """

    workers: int = 1
    """How many requests it can use at once."""
    bench: Any

    def start(self, bench: Any) -> None:
        """Called once before the first request; `bench` holds the model and the pool."""
        self.bench = bench

    def score(self, requests: Sequence[Request]) -> Iterator[Scoring]:
        """Yields what comes of each request, in order. Whoever asks may stop listening after any of them.

        Raises:
            MachineError: where scoring fails for a reason that does not lie in the weights.
        """
        raise NotImplementedError

    def learn(self, tasks: Several) -> None:
        """Takes tasks whose score follows from the ranking: from now on requests are scored by these."""
        self.bench.evaluator.tasks = tasks

    def stop(self) -> None:
        """Called when nothing more is asked, however that came about: lets the model go."""
        self.bench = None
