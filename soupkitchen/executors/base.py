"""The seam: requests in, scorings out, in order. Both are data, so that they can travel."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from soupkitchen.evaluation import Evaluation, Threshold
from soupkitchen.evaluation.examples import Order, Piece
from soupkitchen.soup import Recipe
from soupkitchen.tasks import Several


@dataclass(frozen=True)
class Request:
    """A recipe to be scored.

    Attributes:
        what: the request in words, for people.
        run: the run that is ranked or merged in; empty for any other request.
        threshold: what has to be reached for the rest of the examples to matter; None for all of them.
        order: in which the examples are scored; None as they are.
        batch_size: examples in a batch; 0 as it is.
        growing: whether requests follow that share all ingredients but the last.
        piece: of the split, if it is scored in pieces; None for all of it at once.
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
        merge_seconds: reading, merging and filling the model.
        batch_size: at the end, in examples: it is halved if memory runs out.
        error: why there is no evaluation.
    """

    evaluation: Evaluation | None
    merge_seconds: float = 0.0
    batch_size: int = 0
    error: str = ""


class Executor:
    """Scores requests on the bench of this process, or on others of its making.

    An executor of your own is a class with `score`, and `workers` if it works on several requests at once;
    `bench.score(request)` scores one, here.
    """

    workers: int = 1
    """How many requests it can use at once."""
    bench: Any

    def start(self, bench: Any) -> None:
        """Called once before the first request; `bench` holds the model and the pool."""
        self.bench = bench

    def score(self, requests: Sequence[Request]) -> Iterator[Scoring]:
        """Yields the result of each request, in order. The caller may stop listening after any of them.

        Raises:
            MachineError: if scoring fails for a reason that does not lie in the weights.
        """
        raise NotImplementedError

    def learn(self, tasks: Several) -> None:
        """Takes tasks whose score follows from the ranking: from now on requests are scored by these."""
        self.bench.evaluator.tasks = tasks

    def stop(self) -> None:
        """Called when nothing more is asked, however that came about: lets the model go."""
        self.bench = None


@dataclass
class Local(Executor):
    """Scores in this process, one request after the other, each when its turn comes and not before."""

    def score(self, requests: Sequence[Request]) -> Iterator[Scoring]:
        return map(self.bench.score, requests)
