"""The algorithm: rank the pool; for each next proposal merge, score, keep or discard.

Whatever takes long goes through the ledger, so a run that is continued comes this way again and does
nothing twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from soupkitchen.errors import CandidateError, GuaranteeError
from soupkitchen.executors import Request
from soupkitchen.experiment.judge import Judge, Verdict
from soupkitchen.experiment.ranking import Ranking, arranged
from soupkitchen.experiment.scores import Scored, Scores
from soupkitchen.experiment.steps import Steps
from soupkitchen.search import Proposal, Search, Trial


def find_soup(search: Search, ranking: Ranking, judge: Judge, steps: Steps) -> tuple[Scored, Ranking]:
    """The soup that a search ends with, and the ranking as it was when the search began.

    Raises:
        GuaranteeError: where the soup is worse on held-out than the best single run, and may not be.
    """
    scores, recipes = judge.scores, judge.recipes
    if judge.early_stopping and search.guaranteed:
        ranking = arranged(ranking, scores, recipes)
    pool = ranking.runs
    soup = search.start(pool)
    best = scores.score(Request("starting", recipes.single(soup.ingredients[0])))
    steps.started(best)
    trials: list[Trial] = []
    while proposals := search.propose(pool, soup, trials):
        total = len(trials) + len(proposals)
        said = [
            f"merging {proposal.candidate} ({number} of {total})"
            for number, proposal in enumerate(proposals, start=len(trials) + 1)
        ]
        for proposal, verdicts in zip(proposals, judge.decide(proposals, best, said), strict=False):
            if isinstance(verdicts, CandidateError):
                if not search.guaranteed:  # nothing else is to come
                    raise verdicts
                size, ingredients = len(soup.ingredients), proposal.mixture.ingredients
                steps.failed("merge", proposal.candidate, ingredients, verdicts, size)
                trials.append(Trial(proposal, score=None, kept=False))
                continue
            kept = next((verdict.scored for verdict in verdicts if verdict.kept), None)
            before = best
            if kept:
                soup, best = proposal.mixture, kept
            _tell(proposal, verdicts, before, len(soup.ingredients), steps, scores)
            trials.append(Trial(proposal, kept.evaluation.score if kept else None, kept is not None))
            if kept:  # what was proposed after it was proposed for another soup
                scores.examples.hardest_first("heldout", best.evaluation)
                break
    if search.guaranteed and not best.evaluation.score >= ranking.best:
        raise GuaranteeError("the soup is worse on the held-out set than the best single run")
    return best, ranking


def _tell(
    proposal: Proposal,
    verdicts: Sequence[Verdict],
    before: Scored,
    size: int,
    steps: Steps,
    scores: Scores,
) -> None:
    """Notes what became of a proposal."""
    ingredients = proposal.mixture.ingredients
    for name in proposal.unscored:
        steps.taken(name, ingredients[: ingredients.index(name) + 1])
    for verdict in verdicts:
        scores.refuse_nan(f"the soup with {proposal.candidate}", verdict.scored)
        steps.decided(proposal.candidate, verdict.scored, verdict.kept, verdict.comparison, before, size)
