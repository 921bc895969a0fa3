"""Scores batch by batch until a candidate cannot reach its threshold any more.

Equal weights in the same batches, in any order, give bitwise equal scores; other batches pad examples
differently.

A threshold is arithmetic, not statistics: unscored examples count at their best. A rule that accepts a gain
accepts a larger one, or one with a smaller p-value. So a rejection is final, and decisions are those of full
evaluation. `evaluation.confidence` has the statistical kind.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from soupkitchen.evaluation.outcome import Evaluation, Part
from soupkitchen.evaluation.prediction import Known
from soupkitchen.evaluation.statistics import mcnemar, right_or_wrong
from soupkitchen.metrics import Rows, take
from soupkitchen.process import stopwatch
from soupkitchen.search import AcceptRule
from soupkitchen.search.base import missed
from soupkitchen.tasks import Several

BUCKET = 4
"""Batches of like difficulty that are sorted by length together."""

_SEED = 0

Order = Mapping[str, np.ndarray]
"""Example numbers in order of scoring, by task."""


@dataclass(frozen=True)
class Piece:
    """A range of each task's order; batches start anew with it.

    Attributes:
        known: by task, predictions of earlier examples.
        limit: by task, the end of the range; None for all.
    """

    known: Mapping[str, Rows] = field(default_factory=dict, repr=False)
    limit: Mapping[str, int] | None = None

    def bounds(self, name: str, size: int) -> tuple[int, int]:
        return len(self.known.get(name, ())), size if self.limit is None else self.limit[name]

    @property
    def examples_known(self) -> int:
        return sum(map(len, self.known.values()))


@dataclass
class Listed:
    """One task's examples of one split.

    Attributes:
        references: the right answers, in the data's order.
        lengths: by example; None if all are equal.
        corpus: row numbers of a retrieval corpus, by length; these rows follow the examples.
        order: of scoring; at first the longest first.
    """

    references: Rows
    lengths: np.ndarray | None = None
    corpus: np.ndarray = field(default_factory=lambda: np.zeros(0, int), repr=False)
    order: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        every = np.arange(len(self.references))
        self.order = every if self.lengths is None else np.argsort(-self.lengths, kind="stable")


class Examples:
    """All splits, by role ("heldout", "test", "train") and task.

    Attributes:
        arranged: splits whose batches no longer follow length.
        shuffled: those of them in a fixed random order, with the chances by which it was drawn, by task.
    """

    def __init__(self, splits: Mapping[str, Mapping[str, Listed]], batch_size: int) -> None:
        self.splits = splits
        self.batch_size = batch_size
        self.arranged: set[str] = set()
        self.shuffled: dict[str, Mapping[str, np.ndarray]] = {}

    @property
    def scored(self) -> tuple[str, ...]:
        return tuple(role for role in self.splits if role != "train")

    def sizes(self, split: str) -> dict[str, int]:
        return {name: len(listed.order) for name, listed in self.splits[split].items()}

    def size(self, split: str) -> int:
        return sum(self.sizes(split).values())

    def references(self, split: str) -> dict[str, Rows]:
        return {name: listed.references for name, listed in self.splits[split].items()}

    def order(self, split: str) -> dict[str, np.ndarray]:
        return {name: listed.order for name, listed in self.splits[split].items()}

    def reorder(self, split: str, order: Order) -> None:
        for name, listed in self.splits[split].items():
            listed.order = order[name]

    def batches(self, split: str) -> dict[str, list[np.ndarray]]:
        return {
            name: [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
            for name, order in self.order(split).items()
        }

    def corpus(self, split: str) -> dict[str, list[np.ndarray]]:
        return {
            name: [
                listed.corpus[at : at + self.batch_size]
                for at in range(0, len(listed.corpus), self.batch_size)
            ]
            for name, listed in self.splits[split].items()
        }

    def arrange(self, split: str, soup: Evaluation, pool: Sequence[Evaluation]) -> None:
        """Makes batches of like difficulty, those hardest for `soup`, then for `pool`, first, so that bad
        candidates show early.

        Examples of like difficulty are sorted by length. Metrics that are no means keep their batches.
        """
        order = self.order(split)
        for name, listed in self.splits[split].items():
            known = [e.parts[name] for e in pool if not np.isnan(e.score)]
            if known and all(part.values is not None for part in (soup.parts[name], *known)):
                order[name] = self._hardest(listed, listed.order, soup.parts[name], known)
                self.arranged.add(split)
        self.reorder(split, order)

    def shuffle(self, split: str, chances: Mapping[str, np.ndarray]) -> None:
        """Puts the examples into a random order, for good; equal chances always give the same.

        Confidence limits need that.

        Args:
            chances: by task, float64 (examples,): each example in turn is drawn, with chances in proportion,
                from those that are left (Efraimidis and Spirakis 2006). Other tasks keep their batches.
        """
        order, random = self.order(split), np.random.default_rng(_SEED)
        for name, weights in chances.items():
            order[name] = np.argsort(random.exponential(size=len(weights)) / weights, kind="stable")
        if chances:
            self.arranged.add(split)
            self.shuffled[split] = dict(chances)
        self.reorder(split, order)

    def hardest(self, split: str, among: Order, soup: Evaluation, pool: Sequence[Evaluation]) -> Order:
        """Sorts the examples `among`, those hardest for `soup`, then for `pool`, first."""
        return {
            name: self._hardest(
                listed, among[name], soup.parts[name], [e.parts[name] for e in pool if not np.isnan(e.score)]
            )
            for name, listed in self.splits[split].items()
        }

    def _hardest(self, listed: Listed, among: np.ndarray, soup: Part, pool: Sequence[Part]) -> np.ndarray:
        among = np.sort(among)
        hardest = among[np.argsort(_ease(soup, pool)[among], kind="stable")]
        if listed.lengths is None:
            return hardest
        size, lengths = BUCKET * self.batch_size, listed.lengths
        buckets = [hardest[start : start + size] for start in range(0, len(hardest), size)]
        return np.concatenate([hardest[:0], *(b[np.argsort(-lengths[b], kind="stable")] for b in buckets)])

    def hardest_first(self, split: str, soup: Evaluation) -> None:
        """Puts the batches first that `soup` does worst on, with the same examples in each.

        A last batch that is not full stays last, and a random order stays.
        """
        if split in self.shuffled:
            return
        order = {}
        for name, batches in self.batches(split).items():
            values = soup.parts[name].values
            if values is not None:
                full = [batch for batch in batches if len(batch) == self.batch_size]
                means = [float(values[batch].mean()) for batch in full]
                first = [full[index] for index in np.argsort(means, kind="stable")]
                batches = [*first, *batches[len(full) :]]
            order[name] = np.concatenate(batches)
        self.reorder(split, order)


def _ease(soup: Part, pool: Sequence[Part]) -> np.ndarray:
    """The values of `soup` plus the pool's means: float64 (examples,), low if hard.

    If some runs have not scored an example, one average value is added: otherwise one wrong answer would
    outweigh many.
    """
    assert soup.values is not None
    scored = np.stack([part.scored for part in pool])
    values = np.where(scored, np.stack([part.values for part in pool if part.values is not None]), 0.0)
    number, total = scored.sum(axis=0), values.sum(axis=0)
    missing = number < len(pool)
    average = total.sum() / number.sum()
    mean: np.ndarray = np.where(missing, total + average, total) / (number + missing)
    return soup.values + mean


Progress = Callable[[int, int], None]
"""Gets the number of scored examples, and of all."""

Forward = Callable[[str, Sequence[np.ndarray]], Iterable[Rows]]


@dataclass(frozen=True)
class Threshold:
    """The gain or score that a candidate has to reach.

    Attributes:
        paired: the incumbent's answers, 0 or 1 by example, if McNemar's test will decide; else None.
        above: the score of an accepted candidate, to exceed as well.
    """

    rule: AcceptRule
    incumbent: float = math.nan
    paired: np.ndarray | None = field(default=None, repr=False)
    above: float | None = None

    @classmethod
    def of(
        cls, rule: AcceptRule, incumbent: Evaluation, tasks: Several, above: float | None = None
    ) -> Threshold:
        paired = None
        if rule.kind == "significant" and right_or_wrong(tasks):
            (part,) = incumbent.parts.values()
            paired = part.values
        return cls(rule, incumbent.score, paired, above)

    def ended(
        self, so_far: Evaluation, tasks: Several, references: Mapping[str, Rows], order: Order
    ) -> Evaluation | None:
        """The evaluation to end with; None to score on.

        Args:
            so_far: the scored examples; others count at their best.
            order: of scoring.
        """
        return replace(so_far, stopped_by="exact") if self.out_of_reach(so_far) else None

    def out_of_reach(self, so_far: Evaluation) -> bool:
        """Tells whether the candidate can no longer be accepted."""
        if missed(self.rule.floors, so_far.scores):
            return True
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
    """Tells whether a score is better; numbers are better than NaN."""
    return score > other or (math.isnan(other) and not math.isnan(score))


class EarlyStopping:
    """Stops scoring once the rest cannot change the decision."""

    def arrange(
        self, examples: Examples, tasks: Several, split: str, best: Evaluation, pool: Sequence[Evaluation]
    ) -> None:
        """Orders the examples so that bad candidates show early."""
        examples.arrange(split, best, pool)

    def threshold(
        self,
        rule: AcceptRule,
        incumbent: Evaluation,
        tasks: Several,
        examples: Examples,
        above: float | None = None,
        known: Sequence[Known] = (),
        others: Sequence[Evaluation] = (),
    ) -> Threshold:
        """The threshold of a candidate that is to replace `incumbent`.

        Args:
            known: what it is made of.
            others: models that may differ from the incumbent as the candidate does.
        """
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
    """Scores `split`, or a piece of it, until the candidate cannot reach `threshold` any more."""
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
