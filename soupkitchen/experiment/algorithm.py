"""The algorithm: merge, score, keep or discard each proposal; then the final table.

A continued run calls all of this again; the ledger gives back what was done.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import count, groupby

from soupkitchen.errors import CandidateError, GuaranteeError
from soupkitchen.executors import Request
from soupkitchen.experiment.judge import Judge, Verdict
from soupkitchen.experiment.ranking import Ranking
from soupkitchen.experiment.scores import Scored, Unscorable
from soupkitchen.experiment.steps import Steps
from soupkitchen.search import Mixture, Search, Trial
from soupkitchen.search.base import missed

CONTROLS = 2
"""The number of uniform soups in the final table."""


def find_soup(search: Search, ranking: Ranking, judge: Judge, steps: Steps) -> tuple[Scored, Ranking]:
    """Runs the search; returns the soup, and the ranking that it began with.

    Raises:
        CandidateError: if all candidates failed.
        GuaranteeError: if the search is guaranteed and the soup is worse than the best single run, or below
            a floor.
    """
    ranking = ranking.prepared(judge.stopping if search.guaranteed else None, judge.scores, judge.recipes)
    if judge.scores.tasks.floors:
        single = _best_single(ranking, judge)
        ranking = replace(ranking, floors=judge.scores.tasks.least(single.evaluation.scores))
        steps.floors(ranking.best_first[0].name, ranking.floors)
    judge = replace(judge, singles=ranking.singles, rule=replace(judge.rule, floors=ranking.floors))
    soup, best = _started(search.start(ranking.runs), ranking, judge, steps)
    trials: list[Trial] = []
    results: list[Scored | Unscorable] = []
    choices = count(1)
    while proposed := search.propose(ranking.runs, soup, trials):
        for verdicts in judge.decide(proposed, best, before=len(trials)):
            kept = next((verdict for verdict in verdicts if verdict.kept), None)
            before = best
            if kept and isinstance(kept.result, Scored):
                soup, best = kept.candidate.proposal.mixture, kept.result
            steps.decided(verdicts, before, len(soup.ingredients), next(choices))
            trials += _trials(verdicts)
            results += [verdict.result for verdict in verdicts]
            if kept:  # later proposals were made for the old soup
                judge.scores.examples.hardest_first("heldout", best.evaluation)
                judge = replace(judge, soups=(*judge.soups, before.evaluation))
                break
    reasons = [result.reason for result in results if isinstance(result, Unscorable)]
    if reasons and len(reasons) == len(results):
        raise CandidateError(
            f"all {len(reasons)} candidates failed, the first with: {reasons[0]}. The fault is likely not in "
            "the weights; when it is put right, start anew with overwrite=true"
        )
    if search.guaranteed and (below := _below(best, ranking)):
        best = _best_single(ranking, judge)
        steps.returned(best, f"the search ended below {below}")
    if search.guaranteed and (below := _below(best, ranking)):
        raise GuaranteeError(f"the soup is worse on the held-out set than {below}")
    return best, ranking


def _below(soup: Scored, ranking: Ranking) -> str:
    """Names what the soup is below: the best single run, or floors; empty if neither."""
    if not soup.evaluation.score >= ranking.best:
        return "the best single run"
    return ", ".join(f"the floor of {name}" for name in missed(ranking.floors, soup.evaluation.scores))


def _started(start: Mixture, ranking: Ranking, judge: Judge, steps: Steps) -> tuple[Mixture, Scored]:
    """Scores the search's first mixture; if that fails, the best single run replaces it."""
    single = len(start.ingredients) == 1
    name = start.ingredients[0] if single else f"all {len(start.ingredients)}"
    best = judge.best("starting", judge.recipes.of(start), skips=not single)
    if isinstance(best, Scored) and (single or not math.isnan(best.evaluation.score)):
        steps.started(name, best, ranking.floors)
        return start, best
    if isinstance(best, Scored):
        judge.scores.refuse_nan("the soup that the search starts as", best)
        best = Unscorable(best.recipe, "its score is NaN")
    steps.failed("merge", name, start.ingredients, best.reason)
    best = _best_single(ranking, judge)
    steps.started(best.recipe.ingredients[0], best, ranking.floors)
    return Mixture(best.recipe.ingredients), best


def _best_single(ranking: Ranking, judge: Judge) -> Scored:
    name = ranking.best_first[0].name
    return judge.scores.score(Request(f"scoring {name}", judge.recipes.single(name)))


def _trials(verdicts: Sequence[Verdict]) -> list[Trial]:
    trials = []
    for _, group in groupby(verdicts, key=lambda verdict: id(verdict.candidate.proposal)):
        same = list(group)
        scores = [verdict.score for verdict in same if verdict.score is not None]
        numbers = [score for score in scores if not math.isnan(score)] or scores
        fresh = [v.result for v in same if isinstance(v.result, Scored) and not v.result.cached]
        trials.append(
            Trial(
                same[0].candidate.proposal,
                score=max(numbers, default=None),
                kept=any(verdict.kept for verdict in same),
                examples=sum(scored.evaluation.examples_scored for scored in fresh),
            )
        )
    return trials


def final_table(soup: Scored, ranking: Ranking, judge: Judge, steps: Steps, top_k: int | None = None) -> None:
    """Scores the final table on held-out; the soup, the controls and the best run also on test.

    Args:
        top_k: the size of `uniform_top_k`; None for the soup's, at least two.
    """
    recipes, scores = judge.recipes, judge.scores
    best, *others = ranking.best_first
    top = [run.name for run in ranking.best_first][: top_k or max(2, soup.recipe.size)]
    models = [
        ("soup", "soup", [soup.recipe]),
        ("uniform", "uniform", recipes.of(Mixture(tuple(ranking.names)))),
        (f"uniform_top_{len(top)}", "uniform", recipes.of(Mixture(tuple(top)))),
    ]
    unscored = {run.name for run in others if ranking.listed or run.partial}
    for run in ranking.runs:
        if run.name not in unscored:
            models.append((run.name, "single", [recipes.single(run.name)]))
    for run in others:
        if run.name in unscored:
            steps.unscored(run.name, "listed" if ranking.listed else "partial", run.score)
    for model, kind, alternatives in models:
        scored: dict[str, Scored] = {}
        result = judge.best(f"{model} on heldout", alternatives, skips=True)
        if isinstance(result, Scored):
            scored["heldout"] = result
            if "test" in scores.examples.scored and (kind != "single" or model == best.name):
                request = Request(f"{model} on test", result.recipe, "test")
                (result,) = scores.each([request])
                if isinstance(result, Scored):
                    scored["test"] = result
        if isinstance(result, Unscorable):
            steps.failed("final", model, alternatives[0].ingredients, result.reason)
        if scored:
            steps.final(model, kind, scored, ranking.floors)
