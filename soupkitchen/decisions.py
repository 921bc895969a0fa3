"""Whether a candidate stays, found out with as few forward passes as that takes.

A candidate is scored only until no outcome of the remaining examples could make the
search accept it. That is arithmetic, not statistics: the examples that are not
scored yet count as the best that they can be, and the search is asked. Its rule
grows with each example's value, so its no is final; decisions, soups and
scores are those of full evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from soupkitchen.evaluation import Comparison, Evaluation, Recipe, Scored, Scorer, compare, mcnemar_p
from soupkitchen.search import Search


@dataclass(frozen=True)
class Verdict:
    """What became of a candidate, or of one variant of it.

    Attributes:
        comparison: with the incumbent; None where the candidate was not scored in full.
    """

    scored: Scored
    kept: bool
    comparison: Comparison | None


@dataclass(frozen=True)
class Judge:
    """Scores candidates and decides."""

    search: Search
    scorer: Scorer
    early_stopping: bool = True

    def decide(self, what: str, variants: Sequence[Recipe], incumbent: Scored) -> list[Verdict]:
        """A verdict on each of `variants`: of those that the search accepts, the best is kept."""
        verdicts: list[Verdict] = []
        kept: int | None = None
        before = incumbent.evaluation
        for recipe in variants:
            bar = None if kept is None else verdicts[kept].scored.evaluation
            scored = self._score(what, recipe, before, bar)
            comparison, accepted = None, False
            if scored.evaluation.complete:
                comparison = compare(scored.evaluation, before, self.scorer.evaluator.tasks)
                accepted = self._accepts(comparison)
                accepted &= bar is None or _is_above(scored.evaluation.score, bar.score)
            if accepted:
                kept = len(verdicts)
            verdicts.append(Verdict(scored, False, comparison))
        if kept is not None:
            verdicts[kept] = Verdict(verdicts[kept].scored, True, verdicts[kept].comparison)
        return verdicts

    def best(self, what: str, variants: Sequence[Recipe], split: str = "heldout") -> Scored:
        """The best of `variants`, the first among equals."""
        first, *others = variants
        best = self.scorer.score(what, first, split)
        for recipe in others:
            bar = best.evaluation.score
            stop = partial(_not_above, bar) if self.early_stopping else None
            scored = self.scorer.score(what, recipe, split, stop)
            if _is_above(scored.evaluation.score, bar):
                best = scored
        return best

    def _score(self, what: str, recipe: Recipe, incumbent: Evaluation, bar: Evaluation | None) -> Scored:
        def hopeless(so_far: Evaluation) -> bool:
            if bar is not None and _not_above(bar.score, so_far):
                return True

            def least_p() -> float:
                least = mcnemar_p(so_far, incumbent)
                return 0.0 if least is None else least

            return not self.search.accepts(so_far.score - incumbent.score, least_p)

        return self.scorer.score(what, recipe, stop=hopeless if self.early_stopping else None)

    def _accepts(self, comparison: Comparison) -> bool:
        return self.search.accepts(comparison.gain, lambda: comparison.p_value)


def _not_above(bar: float, evaluation: Evaluation) -> bool:
    return not _is_above(evaluation.score, bar)


def _is_above(score: float, bar: float) -> bool:
    """Whether a score is better than another; any number is better than NaN."""
    return score > bar or (math.isnan(bar) and not math.isnan(score))
