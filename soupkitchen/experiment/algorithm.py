"""The algorithm: rank the pool; for each next proposal merge, score, keep or discard.

Whatever takes long goes through the ledger, so a run that is continued comes this way again and does
nothing twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count, groupby

from soupkitchen.errors import CandidateError, GuaranteeError
from soupkitchen.executors import Request
from soupkitchen.experiment.judge import Judge, Verdict
from soupkitchen.experiment.ranking import Ranking, arranged, scored_again
from soupkitchen.experiment.scores import Scored
from soupkitchen.experiment.steps import Steps
from soupkitchen.search import Mixture, Search, Trial


def find_soup(search: Search, ranking: Ranking, judge: Judge, steps: Steps) -> tuple[Scored, Ranking]:
    """The soup that a search ends with, and the ranking as it was when the search began.

    Raises:
        CandidateError: if all candidates failed.
        GuaranteeError: where the soup is worse on held-out than the best single run, and may not be.
    """
    if judge.early_stopping and search.guaranteed:
        at_random = judge.confidence is not None
        ranking = arranged(ranking, judge.scores, judge.recipes, at_random)
    elif ranking.in_pieces:
        ranking = scored_again(ranking, judge.scores, judge.recipes)
    pool = ranking.runs
    soup, best = _started(search.start(pool), search, ranking, judge, steps)
    trials: list[Trial] = []
    choices = count(1)
    errors: list[CandidateError | None] = []
    while proposed := search.propose(pool, soup, trials):
        for verdicts in judge.decide(proposed, best, before=len(trials)):
            kept = next((verdict for verdict in verdicts if verdict.kept), None)
            before = best
            if kept and kept.scored:
                soup, best = kept.member.proposal.mixture, kept.scored
            _tell(verdicts, before, len(soup.ingredients), judge, steps, next(choices))
            trials += _trials(verdicts)
            errors += [verdict.error for verdict in verdicts]
            if kept:  # what was proposed after it was proposed for another soup
                judge.scores.examples.hardest_first("heldout", best.evaluation)
                break
    if errors and all(errors):
        raise CandidateError(
            f"all {len(errors)} candidates failed, the first with: {errors[0]}. The fault is likely not in "
            "the weights; when it is put right, start anew with overwrite=true"
        )
    if search.guaranteed and best.evaluation.score < ranking.best:
        best = _best_single(ranking, judge)
        steps.returned(best, "the search ended below the best single run")
    if search.guaranteed and not best.evaluation.score >= ranking.best:
        raise GuaranteeError("the soup is worse on the held-out set than the best single run")
    return best, ranking


def _started(
    start: Mixture, search: Search, ranking: Ranking, judge: Judge, steps: Steps
) -> tuple[Mixture, Scored]:
    """What the search starts as, scored; the best single run, where that cannot be scored."""
    single = len(start.ingredients) == 1
    name = start.ingredients[0] if single else f"all {len(start.ingredients)}"
    try:
        best = judge.best("starting", judge.recipes.of(start))
        if single or not math.isnan(best.evaluation.score):
            steps.started(name, best)
            return start, best
        judge.scores.refuse_nan("the soup that the search starts as", best)
        steps.failed("merge", name, start.ingredients, CandidateError("its score is NaN"))
    except CandidateError as error:
        if single:
            raise
        steps.failed("merge", name, start.ingredients, error)
    best = _best_single(ranking, judge)
    steps.started(best.recipe.ingredients[0], best)
    return Mixture(best.recipe.ingredients), best


def _best_single(ranking: Ranking, judge: Judge) -> Scored:
    name = ranking.best_first[0].name
    return judge.scores.score(Request(f"scoring {name}", judge.recipes.single(name)))


def _trials(verdicts: Sequence[Verdict]) -> list[Trial]:
    """What became of each proposal: of its alternatives, that which does best."""
    trials = []
    for _, alternatives in groupby(verdicts, key=lambda verdict: id(verdict.member.proposal)):
        some = list(alternatives)
        scores = [one.score for one in some if one.score is not None]
        known = [score for score in scores if not math.isnan(score)] or scores
        fresh = [one.scored.evaluation for one in some if one.scored and not one.scored.cached]
        trials.append(
            Trial(
                some[0].member.proposal,
                score=max(known, default=None),
                kept=any(one.kept for one in some),
                examples=sum(evaluation.examples_scored for evaluation in fresh),
            )
        )
    return trials


def _tell(
    verdicts: Sequence[Verdict], before: Scored, size: int, judge: Judge, steps: Steps, choice: int
) -> None:
    """Notes what became of proposals, of which one at most was kept: the `choice` of that number."""
    for verdict in verdicts:
        proposal = verdict.member.proposal
        ingredients = proposal.mixture.ingredients
        for name in proposal.unscored:
            steps.taken(name, ingredients[: ingredients.index(name) + 1])
        if verdict.error is not None:
            steps.failed("merge", proposal.candidate, ingredients, verdict.error, size)
        elif verdict.scored is not None:
            judge.scores.refuse_nan(f"the soup with {proposal.candidate}", verdict.scored)
            among = proposal.among or str(choice)
            steps.decided(proposal, verdict.scored, verdict.kept, verdict.comparison, before, size, among)
