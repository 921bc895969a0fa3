"""The steps of a run: rows of its tables, and lines of its log."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from soupkitchen.evaluation import Comparison, confidence_interval
from soupkitchen.experiment.judge import Verdict
from soupkitchen.experiment.scores import Scored, Scores, Unscorable
from soupkitchen.records import Entry, Step
from soupkitchen.search.base import missed
from soupkitchen.tasks import Several

log = logging.getLogger(__name__)

_NAN = {"decision": "error", "reason": "its score is NaN"}


class Steps:
    """Notes steps in the ledger and the log; `rule` is the gain that candidates need, in words."""

    def __init__(self, scores: Scores, rule: str) -> None:
        self._scores, self._ledger, self._rule = scores, scores.ledger, rule

    @property
    def tasks(self) -> Several:
        return self._scores.tasks

    def ranked(self, scored: Scored, on_part: float | None = None, reason: str = "") -> None:
        """Notes a single run.

        Args:
            on_part: its score, if only a part of the examples is scored, and `reason` says why.
        """
        (name,) = scored.recipe.ingredients
        self._scores.refuse_nan(name, scored)
        row: dict[str, Any] = dict(_NAN) if math.isnan(scored.evaluation.score) else {}
        if on_part is not None:
            row |= {"score_on_part": self.tasks.shown(on_part), "reason": reason}
        self._note("rank", name, scored, **row)

    def floors(self, name: str, floors: Mapping[str, float]) -> None:
        """Logs the least scores of tasks, which follow from those of the run `name`."""
        said = [f"{task} {self._shown_of(task, floor)}" for task, floor in floors.items()]
        log.info("floors   %-24s %s", name, ", ".join(said))

    def started(self, name: str, scored: Scored, floors: Mapping[str, float]) -> None:
        size, reason = scored.recipe.size, self._missed(scored, floors)
        self._note("merge", name, scored, decision="start", soup_size=size, reason=reason)

    def returned(self, scored: Scored, reason: str) -> None:
        (name,) = scored.recipe.ingredients
        log.info("keep     %-24s %s: %s", name, self.shown(scored), reason)
        self._note("merge", name, scored, decision="keep", soup_size=1, rule=self._rule, reason=reason)

    def failed(
        self, stage: str, name: str, ingredients: Sequence[str], reason: str, size: int | None = None
    ) -> None:
        log.warning("error    %-24s %s", name, reason)
        row = Step(stage, name, ingredients=tuple(ingredients), soup_size=size)
        self._ledger.step(replace(row, decision="error", reason=reason))

    def decided(self, verdicts: Sequence[Verdict], before: Scored, size: int, choice: int) -> None:
        """Notes a decision between candidates, at most one of them kept.

        Args:
            before: the earlier soup.
            size: of the soup now.
        """
        for verdict in verdicts:
            proposal, result = verdict.candidate.proposal, verdict.result
            name, ingredients = proposal.candidate, proposal.mixture.ingredients
            for run in proposal.unscored:
                merged = ingredients[: ingredients.index(run) + 1]
                row = Step("merge", run, ingredients=merged, rule=self._rule, soup_size=len(merged))
                self._ledger.step(replace(row, decision="keep"))
            if isinstance(result, Unscorable):
                self.failed("merge", name, ingredients, result.reason, size)
                continue
            self._scores.refuse_nan(f"the soup with {name}", result)
            decision: dict[str, str] = {"decision": "keep" if verdict.kept else "discard"}
            if math.isnan(result.evaluation.score):
                decision = _NAN
            elif reason := self._missed(result, verdict.missed):
                decision["reason"] = reason
            log.info(
                "%-8s %-24s %s (soup: %s)%s",
                *(decision["decision"], name, self.shown(result), self.shown(before, metric=False)),
                f"; {reason}" if (reason := decision.get("reason", "")) else "",
            )
            self._note(
                "merge",
                name,
                result,
                **decision,
                **_comparison(verdict.comparison),
                best_before=self.tasks.shown(before.evaluation.score),
                soup_size=size,
                rule=self._rule,
                choice=proposal.among or str(choice),
                variant=", ".join(filter(None, (proposal.variant, result.recipe.variant))),
            )

    def final(self, model: str, kind: str, scored: Mapping[str, Scored], floors: Mapping[str, float]) -> None:
        for split, of_split in scored.items():
            if kind != "single" or split == "test":
                reason = self._missed(of_split, floors) if split == "heldout" else ""
                self._note("final", model, of_split, reason=reason)
        heldout, test = scored["heldout"], scored.get("test")
        references = self._scores.examples.references("heldout")
        entry = Entry(
            model,
            kind,
            heldout.recipe.ingredients,
            heldout.evaluation.score,
            test.evaluation.score if test else None,
            confidence_interval(heldout.evaluation, self.tasks, references),
            self._by_task(heldout),
            self._by_task(test) if test else {},
        )
        self._ledger.entry(entry)

    def unscored(self, name: str, kind: str, score: float) -> None:
        self._ledger.entry(Entry(name, kind, (name,), score))

    def shown(self, scored: Scored, metric: bool = True) -> str:
        evaluation = scored.evaluation
        at_most = "" if evaluation.complete else "at most " if self.tasks.greater_is_better else "at least "
        name = f"{self.tasks.name} " if metric else ""
        sure = " with confidence" if evaluation.stopped_by == "confidence" else ""
        return f"{name}{at_most}{self.tasks.shown(evaluation.score):.4f}{sure}"

    def _note(self, stage: str, candidate: str, scored: Scored, **more: Any) -> None:
        evaluation = scored.evaluation
        score = self.tasks.shown(evaluation.score)
        row = Step(
            stage=stage,
            candidate=candidate,
            variant=scored.recipe.variant,
            split=evaluation.split,
            metric=self.tasks.name,
            score=score if evaluation.complete else None,
            score_at_most=None if evaluation.complete else score,
            ingredients=scored.recipe.ingredients,
            coefficients=scored.recipe.coefficients,
            examples_scored=scored.examples_scored,
            examples_total=evaluation.examples_total,
            stopped_early=not evaluation.complete,
            stopped_by=evaluation.stopped_by,
            explained=evaluation.explained,
            merge_seconds=scored.merge_seconds,
            eval_seconds=0.0 if scored.cached else evaluation.seconds,
            cached=scored.cached,
            tasks=self._by_task(scored) if evaluation.complete else {},
        )
        self._ledger.step(replace(row, **more))

    def _missed(self, scored: Scored, floors: Mapping[str, float]) -> str:
        """The floors that a model is below, in words; empty for none."""
        said = []
        for name, floor in missed(floors, scored.evaluation.scores).items():
            part, greater = scored.evaluation.parts[name], self.tasks.tasks[name].metric.greater_is_better
            whole = part.examples_scored == part.examples_total
            at_most = "" if whole else "at most " if greater else "at least "
            score, floor_shown = self._shown_of(name, part.score), self._shown_of(name, floor)
            said.append(f"{name} {at_most}{score} misses its floor {floor_shown}")
        return "; ".join(said)

    def _shown_of(self, task: str, score: float) -> str:
        return f"{self.tasks.tasks[task].metric.shown(score):.6g}"

    def _by_task(self, scored: Scored) -> dict[str, float]:
        parts, tasks = scored.evaluation.parts, self.tasks.tasks
        return {name: tasks[name].metric.shown(part.score) for name, part in parts.items() if name}


def _comparison(comparison: Comparison | None) -> dict[str, Any]:
    if comparison is None:
        return {}
    low, high = comparison.interval or (None, None)
    row = {name: getattr(comparison, name) for name in ("gain", "p_value", "fixed", "broken")}
    return {**row, "gain_low": low, "gain_high": high}
