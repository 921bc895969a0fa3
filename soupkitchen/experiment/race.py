"""Ranking as a race: a run falls out as soon as it is as good as sure that another one is better.

All runs are scored on the first 1/16 of the held-out examples in one random order, the survivors on about
half as many again in each lap, up to all of them. After each lap a run falls out if its mean difference to
the leader is below the margin of the search with the confidence that was asked for: the same bets as in
`evaluation.bets`, the error shared by all runs. So the best run falls out with a probability of
1 − confidence at most, over all laps. Runs that fell out are ordered by their difference to the leader.
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
from soupkitchen.evaluation.bets import excluded_after
from soupkitchen.evaluation.scoring import Examples, Order, Piece
from soupkitchen.evaluation.statistics import noise
from soupkitchen.executors import Request
from soupkitchen.experiment.ranking import ALL_NAN, NONE_SCORED, Ranking, by_scoring, ranking_requests
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.experiment.scores import Scored, Scores, Unscorable
from soupkitchen.experiment.steps import Steps
from soupkitchen.metrics import shares
from soupkitchen.search import Ranked
from soupkitchen.tasks import Several

log = logging.getLogger(__name__)

LAPS = (1 / 16, 3 / 32, 1 / 8, 3 / 16, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1.0)
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
    return _Race(scores, recipes, steps, track, confidence, margin).run(names)


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
            share[own] = of_task[name] * shares(weights, sizes[name]) * (total / sizes[name])
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
        scored: all of its laps as one.
        behind: the leader that it fell behind.
        failed: whether it could not be scored any further.
    """

    name: str
    place: int
    scored: Scored
    behind: _Runner | None = None
    failed: bool = False

    @property
    def evaluation(self) -> Evaluation:
        return self.scored.evaluation

    @property
    def is_lost(self) -> bool:
        return self.failed or math.isnan(self.evaluation.score)

    @property
    def is_racing(self) -> bool:
        return self.behind is None and not self.is_lost


@dataclass
class _Race:
    scores: Scores
    recipes: Recipes
    steps: Steps
    track: Track
    confidence: float
    margin: float

    @property
    def promise(self) -> str:
        """The guarantee, in words."""
        better = (
            f"one better than the winner by more than {self.margin:.2g}" if self.margin else "the best run"
        )
        return f"{better} falls out with a probability of at most {1 - self.confidence:.2g}"

    def run(self, names: Sequence[str]) -> Ranking:
        runners, lap = self._first_lap(names), 0
        if math.isnan(self.margin):
            references = self.scores.examples.references("heldout")
            ahead = sorted(runners, key=lambda one: -float(self._values(one).mean()))
            self.margin = noise([one.evaluation for one in ahead], self.scores.tasks, references) or 0.0
        while True:
            self._let_fall_out(runners)
            running = [one for one in runners if one.is_racing and not one.evaluation.complete]
            if not running:
                break
            lap = min(lap + 1, len(LAPS) - 1)
            log.info("race     %d of %d runs go on to %.4g %%", len(running), len(names), 100 * LAPS[lap])
            self._lap(lap, running)
        runners = [one for one in runners if not one.failed]
        if not runners:
            raise CheckpointError(NONE_SCORED)
        finished = [one for one in runners if one.is_racing]
        if not finished:
            raise DataError(ALL_NAN)
        winner = max(finished, key=lambda one: (one.evaluation.score, -one.place))
        for one in finished:
            self._note(one)
        fallen = sum(one.behind is not None for one in runners)
        log.info("race     %s wins, %d of %d fell out: %s", winner.name, fallen, len(runners), self.promise)
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

    def _lap(self, lap: int, racing: Sequence[_Runner]) -> None:
        """Scores each run as far as the end of the lap."""
        requests = []
        for one in racing:
            known = {name: part.predictions for name, part in one.evaluation.parts.items()}
            piece = Piece(known, None if lap == len(LAPS) - 1 else self.track.ends[lap])
            what = f"scoring {one.name} on {100 * LAPS[lap]:.4g} %"
            recipe = self.recipes.single(one.name)
            requests.append(Request(what, recipe, run=one.name, order=self.track.order, piece=piece))
        for one, result in zip(racing, self.scores.each(requests), strict=True):
            if isinstance(result, Unscorable):
                self.steps.failed("rank", one.name, (one.name,), result.reason)
                one.failed = True
            else:
                one.scored = _together(one.scored, result)

    def _let_fall_out(self, runners: Sequence[_Runner]) -> None:
        """Ends the race of runs that score NaN, or are as good as surely behind the leader.

        If the leader scores NaN later on, runs that fell behind it come back.
        """
        for one in runners:
            noted = one.failed or one.scored.examples_known == one.evaluation.examples_scored
            if one.behind is None and one.is_lost and not noted:
                self._note(one)
            if one.behind is not None and one.behind.is_lost:
                one.behind = None
        racing = [one for one in runners if one.is_racing]
        if not racing:
            return
        error = (1 - self.confidence) / len(runners)
        furthest = max(one.evaluation.examples_scored for one in racing)
        leading = [one for one in racing if one.evaluation.examples_scored == furthest]
        leader = leading[int(np.argmax([self._values(one).mean() for one in leading]))]
        for one in racing:
            if one is not leader and not one.evaluation.complete and self._is_behind(one, leader, error):
                one.behind = leader
                one.scored = replace(one.scored, evaluation=replace(one.evaluation, stopped_by="confidence"))
                self._note(one, self._score_of_mean(float(self._values(one).mean())))

    def _note(self, one: _Runner, on_part: float | None = None) -> None:
        """Notes a row; a later one of the same run counts anew."""
        log.info("rank     %-24s %s", one.name, self.steps.shown(one.scored))
        self.steps.ranked(one.scored, on_part, self.promise)
        evaluation = replace(one.evaluation, seconds=0.0)
        known = evaluation.examples_scored
        one.scored = replace(one.scored, evaluation=evaluation, merge_seconds=0.0, examples_known=known)

    def _is_behind(self, one: _Runner, leader: _Runner, error: float) -> bool:
        differences, binary = self._differences(one, leader), self.scores.tasks.binary
        bounds = self.track.share[self.track.sequence] if binary else np.full(len(self.track.share), np.inf)
        after = excluded_after(differences, bounds, error, sample=not binary, mean=self.margin)
        return after is not None

    def _values(self, one: _Runner) -> np.ndarray:
        """The parts of the score of the scored examples, in the order drawn: float64 (t,)."""
        drawn = self.track.sequence[: one.evaluation.examples_scored]
        parts: np.ndarray = self.track.share[drawn] * self.track.values(one.evaluation)[drawn]
        return parts

    def _differences(self, one: _Runner, other: _Runner) -> np.ndarray:
        """The parts of the difference on the examples that both have, in the order drawn: float64 (t,)."""
        first, second = self._values(one), self._values(other)
        both = min(len(first), len(second))
        return first[:both] - second[:both]

    def _ranked(self, one: _Runner, winner: _Runner) -> Ranked:
        step, score = self.recipes.steps.get(one.name), one.evaluation.score
        if one.evaluation.complete or math.isnan(score):
            return Ranked(one.name, score, step)
        best = float(self._values(winner).mean())
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
