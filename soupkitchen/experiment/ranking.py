"""Ranks the runs of a pool by scoring each, or by listed scores."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from soupkitchen.checkpoints import Pool
from soupkitchen.checkpoints.checkpoint import training_step
from soupkitchen.errors import CheckpointError, ConfigError, DataError
from soupkitchen.evaluation import EarlyStopping, Evaluation
from soupkitchen.evaluation.statistics import noise
from soupkitchen.executors import Request
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.experiment.scores import Scored, Scores, Unscorable
from soupkitchen.experiment.steps import Steps
from soupkitchen.merging import MergeMethod, StackMethod
from soupkitchen.merging.weights import ByScore, parsed
from soupkitchen.options.kinds import Ranking as ByPart
from soupkitchen.search import Ranked, rank
from soupkitchen.search.base import confidence_of
from soupkitchen.tasks import Several

log = logging.getLogger(__name__)

_NEAR = 1e-3
"""Runs within this share of the best score may change places in other batches."""
_WILD = 0.25
"""Warns if a listed score differs from ours by more than this share."""
_UNITS = 20
"""Warns if listed scores differ by more than this factor: percent are 100 times shares."""

NONE_SCORED = "no run of the pool can be scored; the reasons are above"
ALL_NAN = "every run of the pool scores NaN on the held-out set: there is nothing to rank"


@dataclass(frozen=True)
class Ranking:
    """The runs that can be merged, in pool order, with held-out scores.

    Attributes:
        runs: scores are higher better.
        singles: evaluations of scored runs, by name.
        best: the best of their scores.
        listed: scores came with the runs; only the best run was scored.
        in_pieces: scored in other batches than candidates.
        floors: the least score of each task with a floor, by the best run's; known once `prepared`.
    """

    runs: Sequence[Ranked]
    singles: Mapping[str, Evaluation]
    best: float
    listed: bool = False
    in_pieces: bool = False
    floors: Mapping[str, float] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        return [run.name for run in self.runs]

    @property
    def best_first(self) -> list[Ranked]:
        return rank(self.runs)

    def noise(self, scores: Scores) -> float | None:
        """The standard error of a difference in score between good runs; None if it cannot be had."""
        known = [self.singles[run.name] for run in self.best_first if run.name in self.singles]
        return noise(known, scores.tasks, scores.examples.references("heldout"))

    def prepared(self, stopping: EarlyStopping | None, scores: Scores, recipes: Recipes) -> Ranking:
        """Lets `stopping` arrange the examples; scores the best runs again if batches change.

        Padding changes scores slightly, so soup and candidates need the same batches.
        """
        if stopping is not None:
            best = scores.score(Request("starting", recipes.single(self.best_first[0].name)))
            singles = list(self.singles.values())
            stopping.arrange(scores.examples, scores.tasks, "heldout", best.evaluation, singles)
        other_batches = self.in_pieces if stopping is None else "heldout" in scores.examples.arranged
        if not other_batches or scores.tasks.binary:
            return self
        again = {}
        for run in self.best_first:
            single = self.singles.get(run.name)
            if single and single.complete and self.best - single.score <= margin(self.best):
                request = Request(f"starting ({run.name})", recipes.single(run.name))
                again[run.name] = scores.score(request, anew=True).evaluation.score
        runs = self.runs
        if not self.listed:
            runs = [replace(run, score=again.get(run.name, run.score)) for run in runs]
        return replace(self, runs=runs, best=max(again.values()))


def margin(score: float) -> float:
    """The distance within which a run may beat the best `score` in other batches."""
    return abs(score) * _NEAR


def check_ranking(ranking: ByPart, pool: Pool, tasks: Several, method: MergeMethod | StackMethod) -> None:
    """Checks that no option needs scores that the ranking leaves out.

    Raises:
        ConfigError: if one does.
    """
    normalized = tasks.aggregate == "normalized"
    if pool.trust_scores and normalized:
        raise ConfigError(
            "task.aggregate=normalized needs the scores of all single runs, which pool.trust_scores=true "
            "does not find out: choose mean or min, or leave trust_scores false"
        )
    if confidence_of(ranking) is None:
        return
    others = {
        "pool.trust_scores=true takes those of the list": pool.trust_scores,
        "task.aggregate=normalized needs those on all of it": normalized,
        "method.weights={by: score, …} needs those on all of it": isinstance(parsed(method.weights), ByScore),
    }
    if reasons := [reason for reason, is_so in others.items() if is_so]:
        raise ConfigError(
            "search.ranking={confidence: …} finds out most runs' scores on a part of the held-out data "
            f"only, and {reasons[0]}: leave search.ranking=full, or change the other option"
        )


def unscored(pool: Pool) -> list[Ranked]:
    return [Ranked(run.name, math.nan, training_step(run)) for run in pool]


def steps_of(runs: Sequence[Ranked]) -> dict[str, int]:
    return {run.name: run.step for run in runs if run.step is not None}


def by_scoring(pool: Pool, scores: Scores, recipes: Recipes, steps: Steps) -> Ranking:
    """Scores every run; leaves out those that cannot be scored.

    Raises:
        CheckpointError: if none can be scored.
        DataError: if all score NaN.
    """
    normalized = scores.tasks.aggregate == "normalized"
    singles: dict[str, Scored] = {}
    requests = ranking_requests([run.name for run in pool], recipes)
    for request, result in zip(requests, scores.each(requests), strict=True):
        if isinstance(result, Unscorable):
            steps.failed("rank", request.run, (request.run,), result.reason)
            continue
        singles[request.run] = result
        log.info("rank     %-24s %s", request.run, steps.shown(result))
        if not normalized:
            steps.ranked(result)
    if not singles:
        raise CheckpointError(NONE_SCORED)
    if normalized:  # scores depend on the whole ranking
        scores.learn(
            scores.tasks.ranked({name: scored.evaluation.scores for name, scored in singles.items()})
        )
        singles = {name: scores.score(Request(name, recipes.single(name))) for name in singles}
        for scored in singles.values():
            steps.ranked(scored)
    evaluations = {name: scored.evaluation for name, scored in singles.items()}
    runs = [Ranked(name, one.score, recipes.steps.get(name)) for name, one in evaluations.items()]
    if all(math.isnan(run.score) for run in runs):
        raise DataError(ALL_NAN)
    return Ranking(runs, evaluations, rank(runs)[0].score)


def ranking_requests(names: Sequence[str], recipes: Recipes, **options: Any) -> list[Request]:
    return [
        Request(f"ranking {name} ({number} of {len(names)})", recipes.single(name), run=name, **options)
        for number, name in enumerate(names, start=1)
    ]


def by_list(pool: Pool, scores: Scores, recipes: Recipes, steps: Steps) -> Ranking:
    """Takes listed scores; only the best run is scored.

    Raises:
        ConfigError: if a score is missing, or impossible for the metric.
        CandidateError: if the best run cannot be scored.
    """
    tasks, metric = scores.tasks, scores.tasks.name
    runs = [Ranked(run.name, _listed(run.name, pool, tasks), recipes.steps.get(run.name)) for run in pool]
    best_first = rank(runs)
    for run in best_first:
        log.info("rank     %-24s %s %.4f (listed)", run.name, metric, tasks.shown(run.score))
    first = best_first[0].name
    best = scores.score(Request(f"scoring {first}", recipes.single(first)))
    log.warning(
        "the order of the runs is that of listed scores (pool.trust_scores): only %s was scored, %s. "
        "That the soup is no worse than the best single run is checked against that one",
        first,
        steps.shown(best),
    )
    listed, ours = (tasks.shown(score) for score in (best_first[0].score, best.evaluation.score))
    if abs(listed - ours) > _WILD * max(abs(listed), abs(ours)):
        log.warning(
            "the list says %g of %s, and it scores %g: are listed scores of other data, or in another unit?",
            *(listed, first, ours),
        )
    sizes = [abs(run.score) for run in runs if run.score]
    if sizes and max(sizes) > _UNITS * min(sizes):
        log.warning(
            "the listed scores differ by a factor of %.0f: are all in one unit?", max(sizes) / min(sizes)
        )
    steps.ranked(best)
    return Ranking(runs, {first: best.evaluation}, best.evaluation.score, listed=True)


def _listed(name: str, pool: Pool, tasks: Several) -> float:
    """A run's listed score, higher better."""
    metric, listed = tasks.name, pool.scores.get(name, {})
    found = next((listed[key] for key in (metric, f"heldout_{metric}") if key in listed), None)
    if found is None:
        raise ConfigError(
            f"pool.trust_scores=true: the list of runs gives no {metric} for {name}; it has "
            f"{', '.join(listed) or 'no scores'}"
        )
    score = found if tasks.greater_is_better else -found
    if not (math.isfinite(score) and score <= tasks.best + _NEAR * max(1.0, abs(tasks.best))):
        better = "" if math.isinf(tasks.best) else f", of which the best is {tasks.shown(tasks.best):g}"
        raise ConfigError(
            f"pool.trust_scores=true: the list gives {found:g} for {name}, which is no {metric}"
            f"{better}: is it in percent, or in another unit? Put it right, or leave trust_scores false"
        )
    return score
