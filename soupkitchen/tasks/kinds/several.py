"""Several tasks with one score."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Literal

from datasets import Dataset

from soupkitchen.errors import ConfigError, DataError, did_you_mean
from soupkitchen.options.kinds import TaskFloors, TaskWeights, check_fields
from soupkitchen.tasks.base import Task

SINGLE = ""
"""The name of a lone task."""

_ROUNDING = 1e-9
"""Relative: a score that lies less than this below a floor is at the floor."""


@dataclass(frozen=True)
class Several:
    """The tasks of one model.

    Attributes:
        tasks: by name; all load the same `AutoModelFor…` class.
        aggregate: "mean" or "min" of their scores (higher is better), or "normalized": the mean of each score
            divided by the best single run's.
        weights: in the mean, by task; None for equal ones. A task with a floor may have 0.
        floors: how far the scores of a candidate may be worse than those of the best single run, by task: 0
            or less, in the metric's unit. A candidate below a floor is not kept.

    Raises:
        ConfigError: if an option is wrong, or tasks need different kinds of model.
    """

    tasks: Mapping[str, Task]
    aggregate: Literal["mean", "min", "normalized"] = "mean"
    weights: TaskWeights | None = None
    floors: TaskFloors | None = field(default=None, kw_only=True)
    _best_single: Mapping[str, float] | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        check_fields(self, "task")
        if not self.tasks:
            raise ConfigError(
                "task.tasks: name at least one task, as +task@task.tasks.NAME=text_classification"
            )
        if len({task.model_class for task in self.tasks.values()}) > 1:
            kinds = ", ".join(f"{name}: {task.model_class.__name__}" for name, task in self.tasks.items())
            raise ConfigError(f"task.tasks need models of different kinds ({kinds}); one soup is one model")
        floors = self.floors or {}
        if unknown := [name for name in floors if name not in self.tasks]:
            raise ConfigError(
                f"task.floors.{unknown[0]}: there is no task of that name, only {', '.join(self.tasks)}"
                f"{did_you_mean(unknown[0], self.tasks)}"
            )
        if floors and len(self.tasks) == 1:
            raise ConfigError(
                "task.floors are for several tasks: with one, no candidate that is worse is kept; leave them "
                "null"
            )
        if self.weights is not None:
            if self.aggregate == "min":
                raise ConfigError("task.weights have no part in task.aggregate=min; leave them null")
            positive = {name for name, weight in self.weights.items() if weight}
            if (
                set(self.weights) != set(self.tasks)
                or not positive
                or set(self.tasks) - positive - set(floors)
            ):
                raise ConfigError(
                    f"task.weights={dict(self.weights)} should give each of {', '.join(self.tasks)} a "
                    "positive weight; some may have 0, if they have a floor (task.floors)"
                )

    @classmethod
    def of(cls, task: Task | Several) -> Several:
        """`task` itself, or as the only one."""
        return task if isinstance(task, Several) else cls({SINGLE: task})

    def with_labels(self, splits: Mapping[str, Mapping[str, Dataset]], model: Any) -> Several:
        """The tasks with the one reading of labels that fits all `splits`, by role and task.

        Raises:
            DataError: if none or several fit.
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
        """True if each example is right or wrong."""
        return all(task.metric.binary for task in self.tasks.values())

    @property
    def best(self) -> float:
        """The highest possible score."""
        best = self.score({name: task.metric.best_score for name, task in self.tasks.items()})
        return math.inf if math.isnan(best) else best

    def shown(self, score: float) -> float:
        """A score for tables, with a lone task's own sign."""
        return self.alone.metric.shown(score) if self.alone else float(score)

    def score(self, scores: Mapping[str, float]) -> float:
        """One score from the tasks' scores; it grows with each."""
        if self.alone:
            return scores[SINGLE]
        if any(map(math.isnan, scores.values())):
            return math.nan
        if self.aggregate == "min":
            return min(scores.values())
        weights = self.weights or dict.fromkeys(scores, 1.0)
        scores = {name: score for name, score in scores.items() if weights[name]}  # 0 times inf is NaN
        if self.aggregate == "normalized":
            if self._best_single is None:
                return math.nan
            scores = {
                name: _ratio(score, self._best_single[name], self.tasks[name].metric.greater_is_better)
                for name, score in scores.items()
            }
        total = math.fsum(weights.values())
        return sum(weights[name] * score for name, score in scores.items()) / total

    def least(self, best: Mapping[str, float]) -> dict[str, float]:
        """The least score of each task with a floor, by the best single run's scores; higher better."""
        floors = (self.floors or {}).items()
        return {name: best[name] + floor - _ROUNDING * max(1.0, abs(best[name])) for name, floor in floors}

    def ranked(self, singles: Mapping[str, Mapping[str, float]]) -> Several:
        """The tasks with the best scores of single runs, for "normalized".

        Args:
            singles: scores by run, by task.

        Raises:
            DataError: if the best score on a task is 0.
        """
        if self.aggregate != "normalized":
            return self
        best = {}
        for name in self.tasks:
            scores = [run[name] for run in singles.values() if not math.isnan(run[name])]
            best[name] = max(scores, default=math.nan)
            if best[name] == 0 and (self.weights is None or self.weights[name]):
                raise DataError(
                    f"every run scores 0 on {name}: task.aggregate=normalized cannot divide by that"
                )
        ranked = copy(self)
        object.__setattr__(ranked, "_best_single", best)
        return ranked


def _ratio(score: float, best: float, greater_is_better: bool) -> float:
    """The score divided by the best, but lower is worse for negative scores, too."""
    if best > 0:
        return score / best
    if greater_is_better:  # as a correlation below 0
        return 2 - score / best
    return score if math.isnan(score) else best / score if score < 0 else math.inf
