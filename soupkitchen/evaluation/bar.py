"""What a candidate has to reach, as data: scoring stops once it no longer can.

That is arithmetic, not statistics: the examples that are not scored yet count as the best that they
can be. A rule that takes a gain takes a larger one, and one with a smaller p-value; so its no is
final, and decisions, soups and scores are those of full evaluation. Where a confidence is given, statistics
may say no, too (`evaluation.stopping`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from soupkitchen.evaluation.outcome import Evaluation
from soupkitchen.evaluation.statistics import mcnemar, right_or_wrong
from soupkitchen.search import AcceptRule
from soupkitchen.tasks import Several


@dataclass(frozen=True)
class Bar:
    """What a candidate has to reach.

    Attributes:
        rule: what its gain has to be.
        incumbent: the score that it gains on, higher better.
        paired: 0 or 1 by example, how the incumbent does on it: where the rule asks for a p-value
            and one task's examples are right or wrong; else None.
        above: a score that it has to exceed besides, of another that is accepted already.
        confidence: with which a candidate may be discarded on a part of the examples; None for none but
            certainty.
        values: of the incumbent, by task and example, where there is a confidence.
    """

    rule: AcceptRule
    incumbent: float = math.nan
    paired: np.ndarray | None = field(default=None, repr=False)
    above: float | None = None
    confidence: float | None = None
    values: Mapping[str, np.ndarray | None] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls,
        rule: AcceptRule,
        incumbent: Evaluation,
        tasks: Several,
        above: float | None = None,
        confidence: float | None = None,
    ) -> Bar:
        """The bar of a candidate that is to replace `incumbent`."""
        paired = None
        if rule.kind == "significant" and right_or_wrong(tasks):
            (part,) = incumbent.parts.values()
            paired = part.values
        values = {}
        if confidence is not None:
            values = {name: part.values for name, part in incumbent.parts.items()}
        return cls(rule, incumbent.score, paired, above, confidence, values)

    def out_of_reach(self, so_far: Evaluation) -> bool:
        """Whether what is scored `so_far`, the rest counted at its best, can no longer be accepted."""
        if self.above is not None and not is_above(so_far.score, self.above):
            return True

        def least_p() -> float:
            if self.paired is None:
                return 0.0
            (part,) = so_far.parts.values()
            assert part.values is not None
            return mcnemar(part.values - self.paired)

        return not self.rule.accepts(so_far.score - self.incumbent, least_p)


def is_above(score: float, bar: float) -> bool:
    """Whether a score is better than another; any number is better than NaN."""
    return score > bar or (math.isnan(bar) and not math.isnan(score))
