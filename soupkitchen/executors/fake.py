"""An executor for tests of searches: a function predicts; batches, thresholds and decisions are real."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from soupkitchen.evaluation.scoring import Examples
from soupkitchen.executors.base import Executor, Request, Scoring, replayed
from soupkitchen.metrics import Rows
from soupkitchen.soup import Recipe
from soupkitchen.tasks import Several

Answers = Callable[[Recipe, str], Mapping[str, Rows]]
"""Predicts by task; an exception means that the recipe cannot be scored."""


class Fake(Executor):
    """Scores by a function.

    Attributes:
        scored: recipes so far, with the number of examples.
    """

    def __init__(self, answers: Answers, tasks: Several, examples: Examples, workers: int = 1) -> None:
        self.answers, self.tasks, self.examples, self.workers = answers, tasks, examples, workers
        self.scored: list[tuple[Recipe, int]] = []

    def score(self, requests: Sequence[Request]) -> Iterator[Scoring]:
        results = map(self._score, requests)
        return iter(list(results)) if self.workers > 1 else results

    def learn(self, tasks: Several) -> None:
        self.tasks = tasks

    def _score(self, request: Request) -> Scoring:
        try:
            predicted = self.answers(request.recipe, request.split)
        except Exception as error:
            return Scoring(None, error=f"{type(error).__name__}: {error}")
        evaluation = replayed(predicted, request, self.tasks, self.examples)
        known = request.piece.examples_known if request.piece else 0
        self.scored.append((request.recipe, evaluation.examples_scored - known))
        return Scoring(evaluation, batch_size=self.examples.batch_size)
