"""How the runs of a pool are ranked: by scoring each, or by scores that came with them."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from soupkitchen.checkpoints import Pool
from soupkitchen.checkpoints.checkpoint import training_step
from soupkitchen.errors import CandidateError, CheckpointError, ConfigError, DataError
from soupkitchen.evaluation import Evaluation
from soupkitchen.executors import Request
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.experiment.scores import Scored, Scores
from soupkitchen.experiment.steps import Steps
from soupkitchen.merging import MergeMethod, StackMethod
from soupkitchen.merging.weights import ByScore, parsed
from soupkitchen.search import Ranked, rank
from soupkitchen.search.rules import share_of
from soupkitchen.tasks import Several

log = logging.getLogger(__name__)

_NEAR = 1e-3
"""Runs whose score differs by less than this share from the best one's may change places with it."""
_WILD = 0.25
"""A listed score that differs by more than this share from what we find is worth a warning."""
_UNITS = 20
"""The same of listed scores that differ by such a factor: percent are 100 times shares."""


@dataclass(frozen=True)
class Ranking:
    """The runs that can be merged, in pool order, and how each does on held-out.

    Attributes:
        runs: scores are higher better.
        singles: evaluations of the runs that were scored, by name.
        best: the best score of these.
        listed: whether the scores came with the runs, and only the best was scored.
        in_pieces: whether they were scored in other batches than candidates will be.
    """

    runs: Sequence[Ranked]
    singles: Mapping[str, Evaluation]
    best: float
    listed: bool = False
    in_pieces: bool = False

    @property
    def names(self) -> list[str]:
        return [run.name for run in self.runs]

    @property
    def best_first(self) -> list[Ranked]:
        return rank(self.runs)


def check_ranking(
    ranking: str | Mapping[str, Any], pool: Pool, tasks: Several, method: MergeMethod | StackMethod
) -> None:
    """Checks that nothing needs scores that the ranking does not find out.

    Raises:
        ConfigError: where something does.
    """
    normalized = tasks.aggregate == "normalized"
    if pool.trust_scores and normalized:
        raise ConfigError(
            "task.aggregate=normalized needs the scores of all single runs, which pool.trust_scores=true "
            "does not find out: choose mean or min, or leave trust_scores false"
        )
    if share_of(ranking) is None:
        return
    others = {
        "pool.trust_scores=true takes those of the list": pool.trust_scores,
        "task.aggregate=normalized needs those on all of it": normalized,
        "method.weights={by: score, …} needs those on all of it": isinstance(parsed(method.weights), ByScore),
    }
    for said, is_so in others.items():
        if is_so:
            raise ConfigError(
                "search.ranking={examples: …} finds out most runs' scores on a part of the held-out data "
                f"only, and {said}: leave search.ranking=full, or change the other option"
            )


def unscored(pool: Pool) -> list[Ranked]:
    """The runs before any is scored: their scores are NaN."""
    return [Ranked(run.name, math.nan, training_step(run)) for run in pool]


def steps_of(runs: Sequence[Ranked]) -> dict[str, int]:
    """The training steps of the runs whose step is known, by name."""
    return {run.name: run.step for run in runs if run.step is not None}


def by_scoring(pool: Pool, scores: Scores, recipes: Recipes, steps: Steps) -> Ranking:
    """Scores every run by itself; those that cannot be scored are left out.

    Raises:
        CheckpointError: where none can.
        DataError: where all score NaN.
    """
    names = [run.name for run in pool]
    requests = [
        Request(f"ranking {name} ({number} of {len(names)})", recipes.single(name))
        for number, name in enumerate(names, start=1)
    ]
    singles: dict[str, Scored] = {}
    normalized = scores.tasks.aggregate == "normalized"
    for name, scored in zip(names, scores.each(requests), strict=True):
        if isinstance(scored, CandidateError):
            steps.failed("rank", name, (name,), scored)
            continue
        singles[name] = scored
        log.info("rank     %-24s %s", name, steps.shown(scored))
        if not normalized:
            steps.ranked(scored)
    if normalized:  # by what only the whole ranking tells
        scores.learn(
            scores.tasks.ranked({name: scored.evaluation.scores for name, scored in singles.items()})
        )
        singles = {name: scores.score(Request(name, recipes.single(name))) for name in singles}
        for scored in singles.values():
            steps.ranked(scored)
    if not singles:
        raise CheckpointError("no run of the pool can be scored; the reasons are above")
    runs = [
        Ranked(name, scored.evaluation.score, recipes.steps.get(name)) for name, scored in singles.items()
    ]
    if all(math.isnan(run.score) for run in runs):
        raise DataError("every run of the pool scores NaN on the held-out set: there is nothing to rank")
    return Ranking(runs, {name: one.evaluation for name, one in singles.items()}, rank(runs)[0].score)


def by_list(pool: Pool, scores: Scores, recipes: Recipes, steps: Steps) -> Ranking:
    """Takes the scores that came with the list of runs; only the best run is scored.

    Raises:
        ConfigError: where the list lacks one, or has one that the metric cannot give.
        CandidateError: where the best cannot be scored.
    """
    tasks, metric = scores.tasks, scores.tasks.name
    runs, most = [], tasks.best + _NEAR * max(1.0, abs(tasks.best))
    for run in pool:
        given = pool.scores.get(run.name, {})
        found = next((given[key] for key in (metric, f"heldout_{metric}") if key in given), None)
        if found is None:
            raise ConfigError(
                f"pool.trust_scores=true: the list of runs gives no {metric} for {run.name}; it has "
                f"{', '.join(given) or 'no scores'}"
            )
        score = found if tasks.greater_is_better else -found
        if not (math.isfinite(score) and score <= most):
            better = "" if math.isinf(most) else f", of which the best is {tasks.shown(tasks.best):g}"
            raise ConfigError(
                f"pool.trust_scores=true: the list gives {found:g} for {run.name}, which is no {metric}"
                f"{better}: is it in percent, or in another unit? Put it right, or leave trust_scores false"
            )
        runs.append(Ranked(run.name, score, recipes.steps.get(run.name)))
    for one in rank(runs):
        log.info("rank     %-24s %s %.4f (listed)", one.name, metric, tasks.shown(one.score))
    first = rank(runs)[0].name
    best = scores.score(Request(f"scoring {first}", recipes.single(first)))
    log.warning(
        "the order of the runs is that of listed scores (pool.trust_scores): only %s was scored, %s. "
        "That the soup is no worse than the best single run is checked against that one",
        first,
        steps.shown(best),
    )
    listed, ours = (tasks.shown(score) for score in (rank(runs)[0].score, best.evaluation.score))
    sizes = [abs(run.score) for run in runs if run.score]
    if abs(listed - ours) > _WILD * max(abs(listed), abs(ours)):
        log.warning(
            "the list says %g of %s, and it scores %g: are listed scores of other data, or in another unit?",
            *(listed, first, ours),
        )
    if sizes and max(sizes) > _UNITS * min(sizes):
        log.warning(
            "the listed scores differ by a factor of %.0f: are all in one unit?", max(sizes) / min(sizes)
        )
    steps.ranked(best)
    return Ranking(runs, {first: best.evaluation}, best.evaluation.score, listed=True)


def arranged(ranking: Ranking, scores: Scores, recipes: Recipes, at_random: bool = False) -> Ranking:
    """Has what most runs get wrong scored first, and the best runs scored again in these batches.

    Or has all scored in an order drawn `at_random`.
    """
    best = ranking.best_first[0].name
    start = scores.score(Request("starting", recipes.single(best)))
    if at_random:
        scores.examples.shuffle("heldout", start.evaluation)
    else:
        scores.examples.arrange("heldout", start.evaluation, list(ranking.singles.values()))
    if "heldout" not in scores.examples.arranged:
        return ranking
    return scored_again(ranking, scores, recipes)


def scored_again(ranking: Ranking, scores: Scores, recipes: Recipes) -> Ranking:
    """The ranking with the best runs scored in the batches that there are now.

    A candidate and what it is compared with are scored in the same batches: numbers that
    differ only because examples were padded otherwise decide nothing.
    """
    if scores.tasks.binary:
        return ranking
    again = {}
    for run in ranking.best_first:
        single = ranking.singles.get(run.name)
        if single and single.complete and ranking.best - single.score <= margin(ranking.best):
            request = Request(f"starting ({run.name})", recipes.single(run.name))
            again[run.name] = scores.score(request, anew=True).evaluation.score
    runs = ranking.runs
    if not ranking.listed:
        runs = [replace(run, score=again.get(run.name, run.score)) for run in runs]
    return replace(ranking, runs=runs, best=max(again.values()))


def margin(score: float) -> float:
    """How far below `score`, the best, a run may be that is the best in other batches."""
    return abs(score) * _NEAR
