"""What is said of each step: rows of the tables, and lines of the log."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from soupkitchen.errors import CandidateError
from soupkitchen.evaluation import Comparison, confidence_interval
from soupkitchen.experiment.scores import Scored, Scores
from soupkitchen.records import Entry, Step
from soupkitchen.search import Proposal
from soupkitchen.tasks import Several

log = logging.getLogger(__name__)

_NAN = "its score is NaN"


class Steps:
    """Tells the ledger, and the log, of the steps of one run.

    Args:
        rule: what a candidate's gain has to be, as tables state it.
    """

    def __init__(self, scores: Scores, rule: str) -> None:
        self._scores, self._ledger, self._rule = scores, scores.ledger, rule

    @property
    def tasks(self) -> Several:
        return self._scores.tasks

    def ranked(self, scored: Scored) -> None:
        """A run by itself."""
        (name,) = scored.recipe.ingredients
        self._scores.refuse_nan(name, scored)
        nan = math.isnan(scored.evaluation.score)
        self._ledger.step(self._step("rank", name, scored, **(_error(_NAN) if nan else {})))

    def ranked_in_part(self, scored: Scored, on_part: float) -> None:
        """A run on a part of the examples, or on the rest of them."""
        (name,) = scored.recipe.ingredients
        self._scores.refuse_nan(name, scored)
        told: dict[str, Any] = {} if scored.known else {"score_on_part": self.tasks.shown(on_part)}
        if not scored.known and not scored.evaluation.complete:
            told["stopped_early"] = False
        if math.isnan(scored.evaluation.score):
            told |= _error(_NAN)
        self._ledger.step(self._step("rank", name, scored, **told))

    def started(self, name: str, scored: Scored) -> None:
        """What the search starts as."""
        size = len(scored.recipe.ingredients)
        self._ledger.step(self._step("merge", name, scored, decision="start", soup_size=size))

    def returned(self, scored: Scored, reason: str) -> None:
        """The soup is one run after all."""
        (name,) = scored.recipe.ingredients
        log.info("keep     %-24s %s: %s", name, self.shown(scored), reason)
        self._ledger.step(
            self._step("merge", name, scored, decision="keep", soup_size=1, rule=self._rule, reason=reason)
        )

    def taken(self, name: str, ingredients: tuple[str, ...]) -> None:
        """A run is merged in, and nothing scored."""
        size = len(ingredients)
        self._ledger.step(
            Step("merge", name, decision="keep", ingredients=ingredients, rule=self._rule, soup_size=size)
        )

    def failed(
        self,
        stage: str,
        name: str,
        ingredients: tuple[str, ...],
        error: CandidateError,
        size: int | None = None,
    ) -> None:
        """Something cannot be scored, and the run goes on; the soup has `size` ingredients."""
        reason = str(error)
        log.warning("error    %-24s %s", name, reason)
        self._scores.failed(error)
        self._ledger.step(Step(stage, name, ingredients=ingredients, soup_size=size, **_error(reason)))

    def decided(
        self,
        proposal: Proposal,
        scored: Scored,
        kept: bool,
        compared: Comparison | None,
        before: Scored,
        size: int,
        choice: str,
    ) -> None:
        """A candidate was kept or discarded; the soup has `size` ingredients now, and scored as `before`."""
        name = proposal.candidate
        decision: dict[str, Any] = {"decision": "keep" if kept else "discard"}
        if math.isnan(scored.evaluation.score):
            decision = _error(_NAN)
        log.info(
            "%-8s %-24s %s (soup: %s)",
            *(decision["decision"], name, self.shown(scored), self.shown(before, metric=False)),
        )
        told = {
            "best_before": self.tasks.shown(before.evaluation.score),
            "soup_size": size,
            "rule": self._rule,
            "choice": choice,
            "variant": ", ".join(filter(None, (proposal.variant, scored.recipe.variant))),
        }
        self._ledger.step(self._step("merge", name, scored, **decision, **told, **_comparison(compared)))

    def final(self, model: str, kind: str, scored: Mapping[str, Scored]) -> None:
        """A model of the final table, by split."""
        for split, one in scored.items():
            if kind != "single" or split == "test":
                self._ledger.step(self._step("final", model, one))
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
        """A run whose score came with the list of runs, or is of a part of the examples."""
        self._ledger.entry(Entry(name, kind, (name,), score))

    def shown(self, scored: Scored, metric: bool = True) -> str:
        """A score in words."""
        evaluation = scored.evaluation
        at_most = "" if evaluation.complete else "at most " if self.tasks.greater_is_better else "at least "
        name = f"{self.tasks.name} " if metric else ""
        sure = " with confidence" if evaluation.stopped_by == "confidence" else ""
        return f"{name}{at_most}{self.tasks.shown(evaluation.score):.4f}{sure}"

    def _step(self, stage: str, candidate: str, scored: Scored, **more: Any) -> Step:
        evaluation = scored.evaluation
        score = self.tasks.shown(evaluation.score)
        step = Step(
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
            merge_seconds=scored.merge_seconds,
            eval_seconds=0.0 if scored.cached else evaluation.seconds,
            cached=scored.cached,
            tasks=self._by_task(scored) if evaluation.complete else {},
        )
        return replace(step, **more)

    def _by_task(self, scored: Scored) -> dict[str, float]:
        """The score of each task that has a name, with its metric's own sign."""
        parts, tasks = scored.evaluation.parts, self.tasks.tasks
        return {name: tasks[name].metric.shown(part.score) for name, part in parts.items() if name}


def _error(reason: str) -> dict[str, Any]:
    return {"decision": "error", "reason": reason}


def _comparison(compared: Comparison | None) -> dict[str, Any]:
    if compared is None:
        return {}
    low, high = compared.interval or (None, None)
    return {
        "gain": compared.gain,
        "gain_low": low,
        "gain_high": high,
        "p_value": compared.p_value,
        "fixed": compared.fixed,
        "broken": compared.broken,
    }
