"""An executor without models, for tests of searches: a function says how a recipe does on each example.

All else is real: the batches, the bars that stop scoring, the decisions, the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from soupkitchen.evaluation import Evaluation, Part, Stopping
from soupkitchen.evaluation.examples import Examples
from soupkitchen.executors.base import Executor, Request, Scoring
from soupkitchen.metrics import Rows, take
from soupkitchen.soup import Recipe
from soupkitchen.tasks import Several

Answers = Callable[[Recipe, str], Mapping[str, Rows]]
"""Predictions by task, for a recipe and a split. What it raises is why the recipe cannot be scored."""


class Fake(Executor):
    """Scores by a function.

    Attributes:
        scored: what was scored so far, in that order, with the number of examples.

    Args:
        answers: predicts.
        tasks: whose metrics score, on `examples`.
        workers: how many requests are taken at once.
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
        if request.order is not None:
            self.examples.reorder(request.split, request.order)
        evaluation = self._evaluation(request, predicted)
        self.scored.append((request.recipe, evaluation.examples_scored))
        return Scoring(evaluation, batch_size=self.examples.batch_size)

    def _evaluation(self, request: Request, predicted: Mapping[str, Rows]) -> Evaluation:
        split = request.split
        references = self.examples.references(split)
        parts = {name: self._part(name, predicted[name], references[name], ()) for name in references}
        total, bar = self.examples.size(split), request.bar
        stop = None if bar is None else Stopping.of(bar, self.tasks, self.examples, split)
        done: dict[str, list[int]] = {name: [] for name in references}
        for name, batches in self.examples.batches(split).items():
            for batch in batches:
                done[name] += batch.tolist()
                whole = len(done[name]) == len(references[name])
                chosen = None if whole else done[name]
                parts[name] = self._part(name, predicted[name], references[name], chosen)
                if stop is None or sum(map(len, done.values())) == total or parts[name].values is None:
                    continue
                if (ended := stop(self._of(split, parts, False))) is not None:
                    return ended
        return self._of(split, parts, True)

    def _of(self, split: str, parts: Mapping[str, Part], complete: bool) -> Evaluation:
        score = self.tasks.score({name: part.score for name, part in parts.items()})
        return Evaluation(split, score, dict(parts), complete)

    def _part(self, name: str, predicted: Rows, references: Rows, done: Sequence[int] | None) -> Part:
        """What is known when the examples `done` are scored; None for all of them."""
        metric, total = self.tasks.tasks[name].metric, len(references)
        if done is None:
            return Part.whole(metric, predicted, references)
        values = np.full(total, metric.best) if metric.is_mean else None
        if values is not None and len(done):
            chosen = np.asarray(done)
            values[chosen] = metric.per_example(take(predicted, chosen), take(references, chosen))
        return Part.so_far(metric, values, metric.weights(references), len(done), total)
