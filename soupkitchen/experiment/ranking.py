"""How the runs of a pool are ranked: by scoring each, or by scores that came with them."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from soupkitchen.checkpoints import Pool
from soupkitchen.checkpoints.steps import training_step
from soupkitchen.errors import CandidateError, CheckpointError, ConfigError, DataError
from soupkitchen.evaluation import Evaluation
from soupkitchen.executors import Request
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.experiment.scores import Scored, Scores
from soupkitchen.experiment.steps import Steps
from soupkitchen.search import Ranked, rank

log = logging.getLogger(__name__)

_NEAR = 1e-3
"""Runs whose score differs by less than this share from the best one's may change places with it."""


@dataclass(frozen=True)
class Ranking:
    """The runs that can be merged, in pool order, and how each does on held-out.

    Attributes:
        runs: scores are higher better.
        singles: evaluations of the runs that were scored.
        best: the best score of these.
        listed: whether the scores came with the runs, and only the best was scored.
    """

    runs: Sequence[Ranked]
    singles: Sequence[Evaluation]
    best: float
    listed: bool = False

    @property
    def names(self) -> list[str]:
        return [run.name for run in self.runs]

    @property
    def best_first(self) -> list[Ranked]:
        return rank(self.runs)


def unscored(pool: Pool) -> list[Ranked]:
    """The runs before any is scored: their scores are NaN."""
    return [Ranked(run.name, math.nan, training_step(run)) for run in pool]


def steps_of(pool: Pool) -> dict[str, int]:
    """The training steps of the runs whose step is known, by name."""
    return {run.name: run.step for run in unscored(pool) if run.step is not None}


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
    return Ranking(runs, [scored.evaluation for scored in singles.values()], rank(runs)[0].score)


def by_list(pool: Pool, scores: Scores, recipes: Recipes, steps: Steps) -> Ranking:
    """Takes the scores that came with the list of runs; only the best run is scored.

    Raises:
        ConfigError: where the list lacks one.
        CandidateError: where the best cannot be scored.
    """
    tasks, metric = scores.tasks, scores.tasks.name
    runs = []
    for run in pool:
        given = pool.scores.get(run.name, {})
        found = next((given[key] for key in (metric, f"heldout_{metric}") if key in given), None)
        if found is None:
            raise ConfigError(
                f"pool.trust_scores=true: the list of runs gives no {metric} for {run.name}; it has "
                f"{', '.join(given) or 'no scores'}"
            )
        score = found if tasks.greater_is_better else -found
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
    steps.ranked(best)
    return Ranking(runs, [best.evaluation], best.evaluation.score, listed=True)


def arranged(ranking: Ranking, scores: Scores, recipes: Recipes, at_random: bool = False) -> Ranking:
    """Has what most runs get wrong scored first, and the best runs scored again in these batches.

    Or has all scored in an order drawn `at_random`.

    A candidate and what it is compared with are scored in the same batches: numbers that
    differ only because examples were padded otherwise decide nothing.
    """
    best, *others = ranking.best_first
    start = scores.score(Request("starting", recipes.single(best.name)))
    if at_random:
        scores.examples.shuffle("heldout", start.evaluation)
    else:
        scores.examples.arrange("heldout", start.evaluation, ranking.singles)
    binary = all(task.metric.binary for task in scores.tasks.tasks.values())
    if "heldout" not in scores.examples.arranged or binary:
        return ranking
    near = -1 if ranking.listed else abs(best.score) * _NEAR  # others of a list were not scored
    again = {}
    for run in (best, *(run for run in others if best.score - run.score <= near)):
        request = Request(f"starting ({run.name})", recipes.single(run.name))
        again[run.name] = scores.score(request, anew=True).evaluation.score
    runs = ranking.runs
    if not ranking.listed:
        runs = [replace(run, score=again.get(run.name, run.score)) for run in runs]
    return Ranking(runs, ranking.singles, max(again.values()), ranking.listed)
