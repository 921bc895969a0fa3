"""Scoring, batch by batch, no further than a decision needs: until a candidate cannot reach its threshold.

Thresholds are data. That a candidate cannot reach one is arithmetic, not statistics: examples that are not
scored yet count as the best that they can be. A rule that accepts a gain accepts a larger one, and one with a
smaller p-value; so its no is final, and decisions, soups and scores are those of full evaluation.
`evaluation.confidence` has the statistical kind.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from soupkitchen.evaluation.examples import Examples, Order, Piece
from soupkitchen.evaluation.outcome import Evaluation, Part
from soupkitchen.evaluation.statistics import mcnemar, right_or_wrong
from soupkitchen.metrics import Rows, take
from soupkitchen.process import stopwatch
from soupkitchen.search import AcceptRule
from soupkitchen.tasks import Several

Progress = Callable[[int, int], None]
"""Called with the examples scored so far and the examples that there are."""

Forward = Callable[[str, Sequence[np.ndarray]], Iterable[Rows]]
"""Predicts batches of a task's examples, which are numbers."""


@dataclass(frozen=True)
class Threshold:
    """The gain or score that a candidate has to reach.

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
        """Tells whether a candidate can no longer be accepted; unscored examples count at their best."""
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
    """Tells whether a score is better than another; any number is better than NaN."""
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


def score_batches(
    split: str,
    examples: Examples,
    tasks: Several,
    forward: Forward,
    threshold: Threshold | None = None,
    order: Order | None = None,
    piece: Piece | None = None,
    progress: Progress = lambda done, total: None,
) -> Evaluation:
    """Scores `split`, or a piece of it, until the candidate can no longer reach `threshold`.

    Args:
        threshold: None to score all.
        order: of each task's examples; None for that of `examples`.
    """
    started, piece = time.perf_counter(), piece or Piece()
    orders, references = order or examples.order(split), examples.references(split)
    done, total = 0, examples.size(split) - piece.examples_known

    def part(name: str, predictions: Rows, values: np.ndarray | None = None) -> Part:
        return Part.of_first(tasks.tasks[name].metric, predictions, references[name], orders[name], values)

    def evaluation() -> Evaluation:
        return Evaluation.of(split, parts, tasks, time.perf_counter() - started)

    parts = {name: part(name, piece.known.get(name, ())) for name in references}
    for name, right in references.items():
        metric, values = tasks.tasks[name].metric, parts[name].values
        weights = metric.weights(right)
        predictions = list(piece.known.get(name, ()))
        start, end = piece.bounds(name, len(right))
        size = examples.batch_size
        batches = [orders[name][at : min(at + size, end)] for at in range(start, end, size)]
        for batch, outputs in zip(batches, forward(name, batches), strict=True):
            predictions += list(outputs)
            done += len(outputs)
            with stopwatch.part("bookkeeping"):
                progress(done, total)
            if values is None:
                continue
            values[batch] = metric.per_example(outputs, take(right, batch))
            if threshold is not None and done < total:
                parts[name] = Part.so_far(metric, values, weights, len(predictions), len(right))
                ended = threshold.ended(evaluation(), tasks, references, orders)
                if ended is not None:
                    scored = part(name, predictions, values)
                    last = replace(ended.parts[name], predictions=scored.predictions, order=scored.order)
                    return replace(ended, parts={**ended.parts, name: last})
        parts[name] = part(name, predictions, values)
    return evaluation()
