"""Several tasks at once, and one score of all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal

from datasets import Dataset

from soupkitchen.errors import ConfigError, DataError
from soupkitchen.options.kinds import TaskWeights, check_fields
from soupkitchen.tasks.base import Task

SINGLE = ""
"""The name of a task that is alone."""


@dataclass(frozen=True)
class Several:
    """Tasks that one model has to be good at.

    Attributes:
        tasks: the tasks, by name. They load models with the same `AutoModelFor…` class.
        aggregate: how one score is made of theirs (higher is better in each): "mean", "min", or "normalized":
            the mean of each divided by the best that any single run reaches on that task.
        weights: weight by name of task in the mean; None for equal ones.

    Raises:
        ConfigError: for an unknown aggregate, weights of other tasks, or tasks of several kinds of model.
    """

    tasks: Mapping[str, Task]
    aggregate: Literal["mean", "min", "normalized"] = "mean"
    weights: TaskWeights | None = None
    _best_single: Mapping[str, float] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError(
                "task.tasks: name at least one task, as +task@task.tasks.NAME=text_classification"
            )
        if len({task.model_class for task in self.tasks.values()}) > 1:
            kinds = ", ".join(f"{name}: {task.model_class.__name__}" for name, task in self.tasks.items())
            raise ConfigError(f"task.tasks need models of different kinds ({kinds}); one soup is one model")
        if self.weights is not None:
            if self.aggregate == "min":
                raise ConfigError("task.weights have no part in task.aggregate=min; leave them null")
            if set(self.weights) != set(self.tasks) or not all(w > 0 for w in self.weights.values()):
                raise ConfigError(
                    f"task.weights={dict(self.weights)} should give each of {', '.join(self.tasks)} a "
                    "positive weight"
                )
        check_fields(self, "task")

    @classmethod
    def of(cls, task: Task | Several) -> Several:
        """`task` itself, or as the only one of several."""
        return task if isinstance(task, Several) else cls({SINGLE: task})

    def with_labels(self, splits: Mapping[str, Mapping[str, Dataset]], model: Any) -> Several:
        """The tasks, each of which reads its labels in the one way that fits all `splits`, by role and task.

        Raises:
            DataError: if there is none, or more than one.
        """
        by_task = {name: {role: split[name] for role, split in splits.items()} for name in self.tasks}
        read = copy(self)
        tasks = {name: task.with_labels(by_task[name], model) for name, task in self.tasks.items()}
        object.__setattr__(read, "tasks", tasks)
        return read

    @property
    def alone(self) -> Task | None:
        """The only task, if it has no name; else None."""
        return self.tasks.get(SINGLE)

    @property
    def name(self) -> str:
        """The score's name in tables."""
        return self.alone.metric.name if self.alone else self.aggregate

    @property
    def greater_is_better(self) -> bool:
        return self.alone.metric.greater_is_better if self.alone else True

    @property
    def shares(self) -> dict[str, float]:
        """Each task's share of the mean."""
        weights = {name: 1.0 if self.weights is None else self.weights[name] for name in self.tasks}
        return {name: weight / sum(weights.values()) for name, weight in weights.items()}

    @property
    def binary(self) -> bool:
        """Tells whether each example of each task is right or wrong."""
        return all(task.metric.binary for task in self.tasks.values())

    @property
    def best(self) -> float:
        """The most that the score can be, higher better."""
        best = self.score({name: task.metric.best_score for name, task in self.tasks.items()})
        return math.inf if math.isnan(best) else best

    def shown(self, score: float) -> float:
        """A score as tables show it: a lone task's with its metric's own sign."""
        return self.alone.metric.shown(score) if self.alone else float(score)

    def score(self, scores: Mapping[str, float]) -> float:
        """One score of the tasks' scores, all higher better. It grows with each of them."""
        if self.alone:
            return scores[SINGLE]
        if self.aggregate == "min":
            return math.nan if any(map(math.isnan, scores.values())) else min(scores.values())
        if self.aggregate == "normalized":
            if self._best_single is None:
                return math.nan
            scores = {
                name: _ratio(score, self._best_single[name], self.tasks[name].metric.greater_is_better)
                for name, score in scores.items()
            }
        weights = self.weights or dict.fromkeys(scores, 1.0)
        total = math.fsum(weights.values())
        return sum(weights[name] * score for name, score in scores.items()) / total

    def ranked(self, singles: Mapping[str, Mapping[str, float]]) -> Several:
        """The tasks with the best scores of the single runs, which "normalized" needs.

        Args:
            singles: scores by run, by task.

        Raises:
            DataError: if the best single run scores 0 on a task.
        """
        if self.aggregate != "normalized":
            return self
        best = {}
        for name in self.tasks:
            scores = [run[name] for run in singles.values() if not math.isnan(run[name])]
            best[name] = max(scores, default=math.nan)
            if best[name] == 0:
                raise DataError(
                    f"every run scores 0 on {name}: task.aggregate=normalized cannot divide by that"
                )
        ranked = copy(self)
        object.__setattr__(ranked, "_best_single", best)
        return ranked


def _ratio(score: float, best: float, greater_is_better: bool) -> float:
    """1 for the best score, less for a lower one, more for a higher; losses are negative here."""
    if best > 0:
        return score / best
    if greater_is_better:  # as a correlation below 0
        return 2 - score / best
    return score if math.isnan(score) else best / score if score < 0 else math.inf
