"""Ranking as a race: a run falls out as soon as it is as good as sure that another one is better.

All runs are scored on the first 1/16 of the held-out examples in one random order, the survivors on 1/8, 1/4,
1/2, and all of them. After each lap a run falls out if its mean difference to the leader is below the margin
of the search with the confidence that was asked for: the same bets as in `evaluation.confidence`, the error
shared by all runs. So the best run falls out with a probability of 1 − confidence at most, over all laps.
Runs that fell out are ordered by their difference to the leader.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from soupkitchen.checkpoints import Pool
from soupkitchen.errors import CheckpointError, DataError
from soupkitchen.evaluation import Evaluation
from soupkitchen.evaluation.confidence import excluded_after
from soupkitchen.evaluation.scoring import Examples, Order, Piece
from soupkitchen.evaluation.statistics import noise
from soupkitchen.executors import Request
from soupkitchen.experiment.ranking import ALL_NAN, NONE_SCORED, Ranking, by_scoring, ranking_requests
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.experiment.scores import Scored, Scores, Unscorable
from soupkitchen.experiment.steps import Steps
from soupkitchen.search import Ranked
from soupkitchen.tasks import Several

log = logging.getLogger(__name__)

LAPS = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""The share of the examples that is scored at the end of each lap."""
_SEED = 17
"""Differs from `scoring._SEED`, or both would begin with the same examples."""


def by_race(
    pool: Pool, scores: Scores, recipes: Recipes, steps: Steps, confidence: float, margin: float = 0.0
) -> Ranking:
    """Ranks the pool as a race.

    Args:
        confidence: with which no run falls out that is better than the winner by more than `margin`.
        margin: NaN for the standard error of differences between the best runs of the first lap.

    Raises:
        CheckpointError: if no run can be scored.
        DataError: if all score NaN.
    """
    if unfit := _unfit(scores.tasks):
        log.warning("search.ranking={confidence: %g} is of no use here: %s", confidence, unfit)
        return by_scoring(pool, scores, recipes, steps)
    track = Track.of(scores.examples, scores.tasks)
    names = [run.name for run in pool]
    return _Race(scores, recipes, steps, track, (1 - confidence) / len(names), margin).run(names)


def _unfit(tasks: Several) -> str:
    """The reason why a race is impossible; empty if there is none."""
    metrics = [task.metric for task in tasks.tasks.values()]
    if no_mean := [metric.name for metric in metrics if not metric.is_mean]:
        return f"{no_mean[0]} is no mean over examples, so every run is scored in full"
    if len(metrics) > 1 and not (
        tasks.aggregate == "mean" and all(metric.is_plain_mean for metric in metrics)
    ):
        return "the score of several tasks is no mean over examples, so every run is scored in full"
    return ""


@dataclass(frozen=True)
class Track:
    """The held-out examples of all tasks in one random order, and how far each lap goes.

    Attributes:
        sequence: int (examples,), numbers of examples, those of the tasks laid end to end, as they are drawn.
        share: float64 (examples,), what an example's value counts in the score, 1 in the mean.
        order: by task, the order in which the examples are scored: the longest first in each lap.
        ends: by lap and task, how many examples of that order are scored at its end.
    """

    sequence: np.ndarray
    share: np.ndarray
    order: Order
    ends: Sequence[Mapping[str, int]]

    @classmethod
    def of(cls, examples: Examples, tasks: Several) -> Track:
        """Draws the same track every time, whatever the size of batches."""
        orders, references = examples.order("heldout"), examples.references("heldout")
        sizes = {name: len(order) for name, order in orders.items()}
        total, starts = sum(sizes.values()), np.cumsum([0, *sizes.values()])
        sequence = np.random.default_rng(_SEED).permutation(total)
        lap_of = np.empty(total, int)
        lap_of[sequence] = np.searchsorted(np.ceil(np.array(LAPS) * total), np.arange(1, total + 1))
        share, order = np.empty(total), {}
        ends: list[dict[str, int]] = [{} for _ in LAPS]
        of_task = tasks.shares
        for (name, numbers), start in zip(orders.items(), starts, strict=False):
            own = slice(start, start + sizes[name])
            weights = tasks.tasks[name].metric.weights(references[name])
            each = np.ones(sizes[name]) if weights is None else weights * (sizes[name] / weights.sum())
            share[own] = of_task[name] * each * (total / sizes[name])
            laps = lap_of[own][numbers]
            order[name] = numbers[np.argsort(laps, kind="stable")]
            for lap, end in enumerate(ends):
                end[name] = int((laps <= lap).sum())
        return cls(sequence, share, order, ends)

    def values(self, evaluation: Evaluation) -> np.ndarray:
        """The values of all examples, those of the tasks laid end to end; any for those not scored."""
        return np.concatenate([np.asarray(evaluation.parts[name].values) for name in self.order])


@dataclass
class _Runner:
    """A run in the race.

    Attributes:
        place: in the pool.
        scored: all of its laps as one.
        racing: whether it goes on.
    """

    name: str
    place: int
    scored: Scored
    racing: bool = True

    @property
    def evaluation(self) -> Evaluation:
        return self.scored.evaluation


@dataclass
class _Race:
    scores: Scores
    recipes: Recipes
    steps: Steps
    track: Track
    error: float
    margin: float

    def run(self, names: Sequence[str]) -> Ranking:
        runners = self._first_lap(names)
        if math.isnan(self.margin):
            references = self.scores.examples.references("heldout")
            self.margin = noise([one.evaluation for one in runners], self.scores.tasks, references) or 0.0
        for lap in range(1, len(LAPS)):
            self._let_fall_out(runners)
            racing = [one for one in runners if one.racing]
            log.info("race     %d of %d runs go on to %.4g %%", len(racing), len(names), 100 * LAPS[lap])
            failed = self._lap(lap, racing)
            runners = [one for one in runners if one.name not in failed]
        if not runners:
            raise CheckpointError(NONE_SCORED)
        finished = [one for one in runners if one.racing and not math.isnan(one.evaluation.score)]
        if not finished:
            raise DataError(ALL_NAN)
        winner = max(finished, key=lambda one: (one.evaluation.score, -one.place))
        for one in runners:
            if one.racing:
                log.info("rank     %-24s %s", one.name, self.steps.shown(one.scored))
                self.steps.ranked(one.scored)
        runs = [self._ranked(one, winner) for one in runners]
        singles = {one.name: one.evaluation for one in runners}
        return Ranking(runs, singles, winner.evaluation.score, in_pieces=True)

    def _first_lap(self, names: Sequence[str]) -> list[_Runner]:
        """Scores each run on the first examples; those that cannot be scored are left out."""
        options = {"order": self.track.order, "piece": Piece(limit=self.track.ends[0])}
        requests, runners = ranking_requests(names, self.recipes, **options), []
        for place, (name, result) in enumerate(zip(names, self.scores.each(requests), strict=True)):
            if isinstance(result, Unscorable):
                self.steps.failed("rank", name, (name,), result.reason)
            else:
                runners.append(_Runner(name, place, result))
        return runners

    def _lap(self, lap: int, racing: Sequence[_Runner]) -> set[str]:
        """Scores each run as far as the end of the lap; returns the names of runs that cannot be scored."""
        requests, failed = [], set()
        for one in racing:
            known = {name: part.predictions for name, part in one.evaluation.parts.items()}
            piece = Piece(known, None if lap == len(LAPS) - 1 else self.track.ends[lap])
            what = f"scoring {one.name} on {100 * LAPS[lap]:.4g} %"
            recipe = self.recipes.single(one.name)
            requests.append(Request(what, recipe, run=one.name, order=self.track.order, piece=piece))
        for one, result in zip(racing, self.scores.each(requests), strict=True):
            if isinstance(result, Unscorable):
                self.steps.failed("rank", one.name, (one.name,), result.reason)
                failed.add(one.name)
            else:
                one.scored = _together(one.scored, result)
        return failed

    def _let_fall_out(self, runners: Sequence[_Runner]) -> None:
        """Ends the race of those that are surely behind the leader, or score NaN."""
        racing = []
        for one in runners:
            if one.racing and math.isnan(one.evaluation.score):
                one.racing = False
                self.steps.ranked(one.scored)
            elif one.racing:
                racing.append(one)
        if not racing:
            return
        means = [float(self._differences(one, None).mean()) for one in racing]
        leader = racing[int(np.argmax(means))]
        for one in racing:
            if one is not leader and self._is_behind(one, leader):
                one.racing = False
                log.info("rank     %-24s fell out after %d", one.name, one.evaluation.examples_scored)
                self.steps.ranked(one.scored, self._on_part(one))

    def _is_behind(self, one: _Runner, leader: _Runner) -> bool:
        differences = self._differences(one, leader)
        binary = self.scores.tasks.binary
        bounds = self.track.share[self.track.sequence] if binary else np.full(len(self.track.share), np.inf)
        after = excluded_after(differences, bounds, self.error, sample=not binary, mean=self.margin)
        return after is not None

    def _differences(self, one: _Runner, other: _Runner | None) -> np.ndarray:
        """The parts of the score, or of its difference to another's, in the order drawn: float64 (t,)."""
        drawn = self.track.sequence[: one.evaluation.examples_scored]
        values = self.track.values(one.evaluation)[drawn]
        if other is not None:
            values = values - self.track.values(other.evaluation)[drawn]
        differences: np.ndarray = self.track.share[drawn] * values
        return differences

    def _on_part(self, one: _Runner) -> float:
        """The score on the examples that were scored."""
        return self._score_of_mean(float(self._differences(one, None).mean()))

    def _ranked(self, one: _Runner, winner: _Runner) -> Ranked:
        step, score = self.recipes.steps.get(one.name), one.evaluation.score
        if one.evaluation.complete or math.isnan(score):
            return Ranked(one.name, score, step)
        best = float(self._differences(winner, None).mean())
        score = self._score_of_mean(best + float(self._differences(one, winner).mean()))
        return Ranked(one.name, score, step, partial=True)

    def _score_of_mean(self, mean: float) -> float:
        alone = self.scores.tasks.alone
        return alone.metric.of_mean(mean) if alone else mean


def _together(before: Scored, now: Scored) -> Scored:
    """Two laps as one."""
    scored = before.examples_scored + now.examples_scored
    seconds = (0.0 if before.cached else before.evaluation.seconds) + now.evaluation.seconds
    return replace(
        now,
        evaluation=replace(now.evaluation, seconds=seconds),
        merge_seconds=before.merge_seconds + now.merge_seconds,
        cached=before.cached and now.cached,
        examples_known=now.evaluation.examples_scored - scored,
    )
