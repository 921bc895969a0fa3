"""Thresholds: what a candidate has to reach, as data. Scoring stops once it no longer can.

That is arithmetic, not statistics: examples that are not scored yet count as the best that they can be. A
rule that accepts a gain accepts a larger one, and one with a smaller p-value; so its no is final, and
decisions, soups and scores are those of full evaluation. `evaluation.confidence` has the statistical kind.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from soupkitchen.evaluation.examples import Examples, Order
from soupkitchen.evaluation.outcome import Evaluation
from soupkitchen.evaluation.statistics import mcnemar, right_or_wrong
from soupkitchen.metrics import Rows
from soupkitchen.search import AcceptRule
from soupkitchen.tasks import Several


@dataclass(frozen=True)
class Threshold:
    """What a candidate has to reach.

    Attributes:
        rule: what its gain has to be.
        incumbent: the score that it gains on, higher better.
        paired: 0 or 1 by example, the incumbent's answers, if the rule asks for a p-value and one task's
            examples are right or wrong; else None.
        above: a score that it has to exceed besides, of another candidate that is accepted already.
    """

    rule: AcceptRule
    incumbent: float = math.nan
    paired: np.ndarray | None = field(default=None, repr=False)
    above: float | None = None

    @classmethod
    def of(
        cls, rule: AcceptRule, incumbent: Evaluation, tasks: Several, above: float | None = None
    ) -> Threshold:
        """The threshold of a candidate that is to replace `incumbent`."""
        paired = None
        if rule.kind == "significant" and right_or_wrong(tasks):
            (part,) = incumbent.parts.values()
            paired = part.values
        return cls(rule, incumbent.score, paired, above)

    def ended(
        self, so_far: Evaluation, tasks: Several, references: Mapping[str, Rows], order: Order
    ) -> Evaluation | None:
        """The evaluation to end with; None if more examples have to be scored.

        Args:
            so_far: the scored examples, the others counted at their best.
            references: by task, in the data's order.
            order: by task, the order in which examples are scored.
        """
        return replace(so_far, stopped_by="exact") if self.out_of_reach(so_far) else None

    def out_of_reach(self, so_far: Evaluation) -> bool:
        """Whether a candidate can no longer be accepted; examples not scored yet count at their best."""
        if self.above is not None and not is_above(so_far.score, self.above):
            return True

        def least_p() -> float:
            if self.paired is None:
                return 0.0
            (part,) = so_far.parts.values()
            assert part.values is not None
            return mcnemar(part.values - self.paired)

        return not self.rule.accepts(so_far.score - self.incumbent, least_p)


def is_above(score: float, other: float) -> bool:
    """Whether a score is better than another; any number is better than NaN."""
    return score > other or (math.isnan(other) and not math.isnan(score))


class EarlyStopping:
    """Stops scoring a candidate as soon as no outcome of the rest can change the decision."""

    def arrange(self, examples: Examples, split: str, best: Evaluation, pool: Sequence[Evaluation]) -> None:
        """Orders the examples so that bad candidates show early, given the best run and the pool."""
        examples.arrange(split, best, pool)

    def threshold(
        self,
        rule: AcceptRule,
        incumbent: Evaluation,
        tasks: Several,
        examples: Examples,
        above: float | None = None,
    ) -> Threshold:
        """The threshold of a candidate that is to replace `incumbent`."""
        return Threshold.of(rule, incumbent, tasks, above)
