"""Ranking by a part of the held-out data, after which the best run is found exactly all the same.

Every run is scored on the same part, which gives the order. The first in that order is scored on the
rest, too, and so are the others, but no further than it takes to know that they cannot be the best: what
is not scored yet counts as right (`evaluation.bar`). So the best run is that of a full ranking, and what
is promised of soups holds; only the order of the other candidates is less sure.

The others come in waves of 2, 4, 8, … runs. All of a wave are held against the best before it, on
examples in the same order: the hardest first, as far as is known by then. So it makes no difference how many
are scored at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from soupkitchen.checkpoints import Pool
from soupkitchen.errors import CandidateError, CheckpointError, DataError
from soupkitchen.evaluation import Bar, Evaluation
from soupkitchen.evaluation.drawn import Drawn
from soupkitchen.evaluation.examples import Order, Piece
from soupkitchen.executors import Request
from soupkitchen.experiment.ranking import Ranking, by_scoring, margin
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.experiment.scores import Scored, Scores
from soupkitchen.experiment.steps import Steps
from soupkitchen.search import AcceptRule, Ranked

log = logging.getLogger(__name__)


@dataclass
class _Run:
    """A run that is ranked.

    Attributes:
        place: in the pool.
        evaluation: what is known of it.
        on_part: its score on the part.
    """

    name: str
    place: int
    evaluation: Evaluation
    on_part: float

    @property
    def score(self) -> float:
        """The full one, where that is known; NaN where that is known to be the full one."""
        return self.evaluation.score if self.is_settled else self.on_part

    @property
    def is_settled(self) -> bool:
        return self.evaluation.complete or math.isnan(self.evaluation.score)

    def is_better(self, other: _Run | None) -> bool:
        """Whether a full ranking would put it first; ties are broken by pool order."""
        if not self.evaluation.complete or math.isnan(self.evaluation.score):
            return False
        if other is None or self.evaluation.score > other.evaluation.score:
            return True
        return self.evaluation.score == other.evaluation.score and self.place < other.place


def by_part(pool: Pool, scores: Scores, recipes: Recipes, steps: Steps, share: float | None) -> Ranking:
    """Ranks by a share of the held-out examples, None for all; the best run is found exactly.

    Runs that cannot be scored are left out.

    Raises:
        CheckpointError: where none can.
        DataError: where all score NaN.
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
    return _ByPart(scores, recipes, steps, Drawn.of(scores.examples, "heldout", share)).rank(pool)


@dataclass
class _ByPart:
    scores: Scores
    recipes: Recipes
    steps: Steps
    drawn: Drawn
    best: _Run | None = field(default=None, init=False)

    def rank(self, pool: Pool) -> Ranking:
        runs = self._on_part([run.name for run in pool])
        lost: set[str] = set()
        for wave in _waves(_best_first(runs)):
            known = [run.evaluation for run in runs if run.name not in lost]
            order = self.drawn.order(None if self.best is None else self.best.evaluation, known)
            lost |= self._continued(wave, order)
        runs = [run for run in runs if run.name not in lost]
        if not runs:
            raise CheckpointError("no run of the pool can be scored; the reasons are above")
        if self.best is None:
            raise DataError("every run of the pool scores NaN on the held-out set: there is nothing to rank")
        if all(run.is_settled for run in runs):
            log.warning("search.ranking saved nothing: each run might have been the best until the end")
        ranked = [
            Ranked(run.name, run.score, self.recipes.steps.get(run.name), partial=not run.is_settled)
            for run in runs
        ]
        singles = {run.name: run.evaluation for run in runs}
        return Ranking(ranked, singles, self.best.evaluation.score, in_pieces=True)

    def _on_part(self, names: Sequence[str]) -> list[_Run]:
        """Each run on the part; those that cannot be scored are left out."""
        order, piece = self.drawn.order(), self.drawn.piece
        requests = [
            Request(
                f"ranking {name} ({number} of {len(names)})",
                self.recipes.single(name),
                order=order,
                piece=piece,
            )
            for number, name in enumerate(names, start=1)
        ]
        runs = []
        for place, (name, scored) in enumerate(zip(names, self.scores.each(requests), strict=True)):
            if isinstance(scored, CandidateError):
                self.steps.failed("rank", name, (name,), scored)
                continue
            run = _Run(name, place, scored.evaluation, self.drawn.score(scored.evaluation, self.scores.tasks))
            tasks = self.scores.tasks
            log.info("rank     %-24s %s %.4f on a part", name, tasks.name, tasks.shown(run.on_part))
            self.steps.ranked_in_part(scored, run.on_part)
            runs.append(run)
        return runs

    def _continued(self, wave: Sequence[_Run], order: Order) -> set[str]:
        """Scores the rest for those runs of a wave that may be the best; the names of those that fail."""
        bars = {run.name: self._bar(run) for run in wave}
        asked = [run for run in wave if not run.is_settled and not _is_beaten(run, bars[run.name])]
        requests = [
            Request(
                f"scoring {run.name} on the rest",
                self.recipes.single(run.name),
                bar=bars[run.name],
                order=order,
                piece=_known(run),
            )
            for run in asked
        ]
        lost = set()
        for run, scored in zip(asked, self.scores.each(requests), strict=True):
            if isinstance(scored, CandidateError):
                self.steps.failed("rank", run.name, (run.name,), scored)
                lost.add(run.name)
                continue
            self._tell(run, scored)
        for run in wave:
            if run.name not in lost and run.is_better(self.best):
                self.best = run
        return lost

    def _tell(self, run: _Run, scored: Scored) -> None:
        run.evaluation = scored.evaluation
        log.info("rank     %-24s %s", run.name, self.steps.shown(scored))
        self.steps.ranked_in_part(scored, run.on_part)

    def _bar(self, run: _Run) -> Bar | None:
        """What a run has to reach to be the best; None where no best is known yet.

        What is not right or wrong depends on the batches by a hair: a run that is near may be the best in
        others.
        """
        if self.best is None:
            return None
        score = self.best.evaluation.score
        if not self.scores.tasks.binary:
            return Bar(AcceptRule("not_worse"), score - margin(score))
        if run.place < self.best.place:
            return Bar(AcceptRule("not_worse"), score)
        return Bar(AcceptRule("better"), score)


def _best_first(runs: Sequence[_Run]) -> list[_Run]:
    """By the scores on the part; among equals in pool order; NaN last."""
    return sorted(runs, key=lambda run: math.inf if math.isnan(run.on_part) else -run.on_part)


def _waves(runs: Sequence[_Run]) -> Iterator[Sequence[_Run]]:
    """One run, and then the next 2, 4, 8, …"""
    start, size = 0, 1
    while start < len(runs):
        yield runs[start : start + size]
        start, size = start + size, 2 * size


def _is_beaten(run: _Run, bar: Bar | None) -> bool:
    return bar is not None and bar.out_of_reach(run.evaluation)


def _known(run: _Run) -> Piece:
    return Piece({name: part.predictions for name, part in run.evaluation.parts.items()})
