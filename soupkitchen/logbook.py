"""What a run says and writes down of each step: log lines, rows of the trajectory, final entries."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from soupkitchen.decisions import Verdict
from soupkitchen.errors import DataError
from soupkitchen.evaluation import Scored, Scorer, confidence_interval
from soupkitchen.records import Entry, Step, Trajectory
from soupkitchen.search import Search
from soupkitchen.tasks import Several

log = logging.getLogger(__name__)

_NAN = "its score is NaN"


class Logbook:
    """Writes down the steps of a run."""

    def __init__(self, trajectory: Trajectory, scorer: Scorer, search: Search) -> None:
        self.trajectory = trajectory
        self.search = search
        self._scorer = scorer

    @property
    def tasks(self) -> Several:
        return self._scorer.evaluator.tasks

    def ranked(self, name: str, scored: Scored) -> None:
        nan = math.isnan(scored.evaluation.score)
        if nan and self.search.on_error == "stop":
            raise DataError(f"{name} scores NaN on the held-out set; search.on_error=skip goes on without it")
        more = {"decision": "error", "reason": _NAN} if nan else {}
        self.step("rank", name, scored, **more)

    def error(
        self, stage: str, name: str, ingredients: tuple[str, ...], reason: str, soup_size: int | None = None
    ) -> None:
        log.warning("error    %-24s %s", name, reason)
        step = Step(
            stage, name, decision="error", ingredients=ingredients, reason=reason, soup_size=soup_size
        )
        self.trajectory.add(step)

    def verdict(self, name: str, verdict: Verdict, best: Scored, size: int) -> None:
        scored, comparison = verdict.scored, verdict.comparison
        decision, reason = "keep" if verdict.kept else "discard", ""
        if math.isnan(scored.evaluation.score):
            if self.search.on_error == "stop":
                raise DataError(
                    f"the soup with {name} scores NaN on the held-out set; search.on_error=skip goes on "
                    "without it"
                )
            decision, reason = "error", _NAN
        compared: dict[str, Any] = {}
        if comparison is not None:
            low, high = comparison.interval or (None, None)
            compared = {
                "gain": comparison.gain,
                "gain_low": low,
                "gain_high": high,
                "p_value": comparison.p_value,
                "fixed": comparison.fixed,
                "broken": comparison.broken,
            }
        log.info(
            "%-8s %-24s %s (soup: %s)", decision, name, self.shown(scored), self.shown(best, metric=False)
        )
        self.step(
            "merge",
            name,
            scored,
            decision=decision,
            best_before=self.tasks.shown(best.evaluation.score),
            soup_size=size,
            rule=self.search.rule,
            reason=reason,
            **compared,
        )

    def step(self, stage: str, candidate: str, scored: Scored, **more: Any) -> None:
        evaluation, tasks = scored.evaluation, self.tasks
        score = tasks.shown(evaluation.score)
        step = Step(
            stage=stage,
            candidate=candidate,
            variant=scored.recipe.variant,
            split=evaluation.split,
            metric=tasks.name,
            score=score if evaluation.complete else None,
            score_at_most=None if evaluation.complete else score,
            ingredients=scored.recipe.ingredients,
            examples_scored=0 if scored.cached else evaluation.examples_scored,
            examples_total=evaluation.examples_total,
            stopped_early=not evaluation.complete,
            merge_seconds=scored.merge_seconds,
            eval_seconds=0.0 if scored.cached else evaluation.seconds,
            cached=scored.cached,
            tasks=_shown_tasks(scored) if evaluation.complete else {},
        )
        self.trajectory.add(replace(step, **more))

    def entry(self, model: str, kind: str, scored: Mapping[str, Scored]) -> Entry:
        heldout, test = scored["heldout"], scored.get("test")
        return Entry(
            model,
            kind,
            heldout.recipe.ingredients,
            heldout.evaluation.score,
            test.evaluation.score if test else None,
            confidence_interval(heldout.evaluation, self.tasks),
            _shown_tasks(heldout),
            _shown_tasks(test) if test else {},
        )

    def shown(self, scored: Scored, metric: bool = True) -> str:
        evaluation = scored.evaluation
        at_most = "" if evaluation.complete else "at most " if self.tasks.greater_is_better else "at least "
        name = f"{self.tasks.name} " if metric else ""
        return f"{name}{at_most}{self.tasks.shown(evaluation.score):.4f}"


def _shown_tasks(scored: Scored) -> dict[str, float]:
    """The score of each task that has a name, with its metric's own sign."""
    parts = scored.evaluation.parts
    return {name: part.metric.shown(part.score) for name, part in parts.items() if name}
