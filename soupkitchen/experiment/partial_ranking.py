"""Ranks runs by a part of the held-out data, yet finds the best run exactly.

All runs are scored on one part, which gives the order. The first is then scored on the rest, the others only
until they cannot be the best: unscored examples count as right (`evaluation.scoring`). So the guarantee
holds; only the order of other runs is approximate.

The others come in waves of 2, 4, 8, … runs, each with the best run before it as the threshold. So results do
not depend on how many are scored at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from soupkitchen.checkpoints import Pool
from soupkitchen.errors import CheckpointError, DataError
from soupkitchen.evaluation import Evaluation, Threshold
from soupkitchen.evaluation.scoring import Examples, Order, Piece
from soupkitchen.executors import Request
from soupkitchen.experiment.ranking import ALL_NAN, NONE_SCORED, Ranking, by_scoring, margin, ranking_requests
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.experiment.scores import Scores, Unscorable
from soupkitchen.experiment.steps import Steps
from soupkitchen.search import AcceptRule, Ranked
from soupkitchen.tasks import Several

log = logging.getLogger(__name__)

_SEED = 17
"""Differs from `evaluation.scoring._SEED`, or both would begin with the same examples."""


def by_part(pool: Pool, scores: Scores, recipes: Recipes, steps: Steps, share: float | None) -> Ranking:
    """Ranks by a share of the held-out examples, None for all; leaves out runs that cannot be scored.

    Raises:
        CheckpointError: if none can be scored.
        DataError: if all score NaN.
    """
    if share is None:
        return by_scoring(pool, scores, recipes, steps)
    metrics = [task.metric for task in scores.tasks.tasks.values()]
    if unbounded := [m.name for m in metrics if not (m.is_mean and math.isfinite(m.best))]:
        log.warning(
            "search.ranking={examples: %g} is of no use here, and every run is scored in full: from a part "
            "of the examples nothing follows for %s of all, which is no mean, or has no best value",
            *(share, unbounded[0]),
        )
        return by_scoring(pool, scores, recipes, steps)
    sample = RankingSample.of(scores.examples, "heldout", share)
    return _PartialRanking(scores, recipes, steps, sample).rank([run.name for run in pool])


@dataclass(frozen=True)
class RankingSample:
    """A random part of each task's examples, and the rest.

    Attributes:
        part, rest: example numbers, longest first.
    """

    examples: Examples
    split: str
    part: Order
    rest: Order

    @classmethod
    def of(cls, examples: Examples, split: str, share: float) -> RankingSample:
        """Draws the sample, the same for all batch sizes."""
        random, part, rest = np.random.default_rng(_SEED), {}, {}
        for name, order in examples.order(split).items():
            drawn = random.permutation(len(order))[order] < math.ceil(share * len(order))
            part[name], rest[name] = order[drawn], order[~drawn]
        return cls(examples, split, part, rest)

    @property
    def piece(self) -> Piece:
        return Piece(limit={name: len(part) for name, part in self.part.items()})

    def order(self, best: Evaluation | None = None, pool: Sequence[Evaluation] = ()) -> Order:
        """The part, then the rest, where the hardest examples for `best`, then `pool`, come first."""
        rest = self.rest if best is None else self.examples.hardest(self.split, self.rest, best, pool)
        return {name: np.concatenate([part, rest[name]]) for name, part in self.part.items()}

    def score(self, evaluation: Evaluation, tasks: Several) -> float:
        """The score on the part; metrics have to be means."""
        scores, references = {}, self.examples.references(self.split)
        for name, numbers in self.part.items():
            metric, values = tasks.tasks[name].metric, evaluation.parts[name].values
            assert values is not None
            weights = metric.weights(references[name])
            scores[name] = metric.of_values(values[numbers], None if weights is None else weights[numbers])
        return tasks.score(scores)


@dataclass
class _SampledRun:
    name: str
    place: int
    evaluation: Evaluation
    on_part: float

    @property
    def score(self) -> float:
        """The full score if it is known or surely NaN; else that on the part."""
        return self.evaluation.score if self.is_settled else self.on_part

    @property
    def is_settled(self) -> bool:
        return self.evaluation.complete or math.isnan(self.evaluation.score)

    def is_better(self, other: _SampledRun | None) -> bool:
        """Tells whether a full ranking puts it first; pool order breaks ties."""
        score = self.evaluation.score
        if not self.evaluation.complete or math.isnan(score):
            return False
        return other is None or (score, -self.place) > (other.evaluation.score, -other.place)


@dataclass
class _PartialRanking:
    scores: Scores
    recipes: Recipes
    steps: Steps
    sample: RankingSample
    best: _SampledRun | None = field(default=None, init=False)

    def rank(self, names: Sequence[str]) -> Ranking:
        runs = self._on_part(names)
        best_first = sorted(runs, key=lambda run: math.inf if math.isnan(run.on_part) else -run.on_part)
        for wave in _waves(best_first):
            best = None if self.best is None else self.best.evaluation
            order = self.sample.order(best, [run.evaluation for run in runs])
            failed = self._continued(wave, order)
            runs = [run for run in runs if run.name not in failed]
        if not runs:
            raise CheckpointError(NONE_SCORED)
        if self.best is None:
            raise DataError(ALL_NAN)
        if all(run.is_settled for run in runs):
            log.warning("search.ranking saved nothing: each run might have been the best until the end")
        ranked = [
            Ranked(run.name, run.score, self.recipes.steps.get(run.name), partial=not run.is_settled)
            for run in runs
        ]
        singles: Mapping[str, Evaluation] = {run.name: run.evaluation for run in runs}
        return Ranking(ranked, singles, self.best.evaluation.score, in_pieces=True)

    def _on_part(self, names: Sequence[str]) -> list[_SampledRun]:
        options = {"order": self.sample.order(), "piece": self.sample.piece}
        requests = ranking_requests(names, self.recipes, **options)
        runs, tasks = [], self.scores.tasks
        for place, (name, result) in enumerate(zip(names, self.scores.each(requests), strict=True)):
            if isinstance(result, Unscorable):
                self.steps.failed("rank", name, (name,), result.reason)
                continue
            run = _SampledRun(name, place, result.evaluation, self.sample.score(result.evaluation, tasks))
            log.info("rank     %-24s %s %.4f on a part", name, tasks.name, tasks.shown(run.on_part))
            self.steps.ranked(result, run.on_part)
            runs.append(run)
        return runs

    def _continued(self, wave: Sequence[_SampledRun], order: Order) -> set[str]:
        """Scores the rest for runs that may be the best; returns the names of failed runs."""
        requests, continued, failed = [], [], set()
        for run in wave:
            threshold = self._threshold(run)
            if run.is_settled or (threshold is not None and threshold.out_of_reach(run.evaluation)):
                continue
            known = Piece({name: part.predictions for name, part in run.evaluation.parts.items()})
            what, recipe = f"scoring {run.name} on the rest", self.recipes.single(run.name)
            requests.append(Request(what, recipe, threshold=threshold, order=order, piece=known))
            continued.append(run)
        for run, result in zip(continued, self.scores.each(requests), strict=True):
            if isinstance(result, Unscorable):
                self.steps.failed("rank", run.name, (run.name,), result.reason)
                failed.add(run.name)
                continue
            run.evaluation = result.evaluation
            log.info("rank     %-24s %s", run.name, self.steps.shown(result))
            self.steps.ranked(result)
        for run in wave:
            if run.name not in failed and run.is_better(self.best):
                self.best = run
        return failed

    def _threshold(self, run: _SampledRun) -> Threshold | None:
        """The threshold to become the best; None for the first run.

        Continuous scores vary with the batches, so runs within `margin` count, too.
        """
        if self.best is None:
            return None
        score = self.best.evaluation.score
        if not self.scores.tasks.binary:
            return Threshold(AcceptRule("not_worse"), score - margin(score))
        return Threshold(AcceptRule("not_worse" if run.place < self.best.place else "better"), score)


def _waves(runs: Sequence[_SampledRun]) -> Iterator[Sequence[_SampledRun]]:
    start, size = 0, 1
    while start < len(runs):
        yield runs[start : start + size]
        start, size = start + size, 2 * size
