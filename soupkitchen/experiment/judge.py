"""The judge: decides on proposals with as few forward passes as possible."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from statistics import fmean

from soupkitchen.evaluation import Comparison, EarlyStopping, Evaluation, Threshold, compare
from soupkitchen.evaluation.prediction import Known
from soupkitchen.evaluation.scoring import is_above
from soupkitchen.executors import Request
from soupkitchen.experiment.recipes import Candidate, Recipes
from soupkitchen.experiment.scores import Scored, Scores, Unscorable
from soupkitchen.search import AcceptRule, Choice, Proposal
from soupkitchen.search.base import missed
from soupkitchen.soup import Recipe

_SOUPS, _BEST = 3, 2
"""The numbers of earlier soups, and of the best runs, that predict what a candidate does."""


@dataclass(frozen=True)
class Verdict:
    """The decision on a candidate.

    Attributes:
        comparison: with the soup; None without a full score.
        missed: the floors that it is below, by task.
    """

    candidate: Candidate
    result: Scored | Unscorable
    kept: bool = False
    comparison: Comparison | None = None
    missed: Mapping[str, float] = field(default_factory=dict)

    @property
    def score(self) -> float | None:
        """The full score, higher better; None if unknown, or below a floor: searches see no such scores."""
        if isinstance(self.result, Unscorable) or not self.result.evaluation.complete or self.missed:
            return None
        return self.result.evaluation.score


@dataclass(frozen=True)
class Judge:
    """Scores proposals and decides on them.

    Attributes:
        stopping: when scoring stops early; None for never.
        skips: whether a candidate that cannot be scored counts as discarded; else that ends the run.
        singles: evaluations of the runs by themselves, by name.
        soups: evaluations of earlier soups, the last few.
    """

    rule: AcceptRule
    scores: Scores
    recipes: Recipes
    stopping: EarlyStopping | None = None
    skips: bool = True
    singles: Mapping[str, Evaluation] = field(default_factory=dict)
    soups: Sequence[Evaluation] = ()

    def decide(
        self, proposed: Sequence[Proposal | Choice], soup: Scored, before: int = 0
    ) -> Iterator[list[Verdict]]:
        """Yields the verdicts on each entry's candidates, at most one of them kept.

        If the caller stops iterating, the rest is not scored.

        Args:
            before: the number of earlier proposals, for display.

        Raises:
            CandidateError: if a candidate cannot be scored, unless `skips`.
        """
        contests = [self.recipes.contest(entry) for entry in proposed]
        places = [at for at, contest in enumerate(contests) for _ in contest.candidates]
        candidates = [candidate for contest in contests for candidate in contest.candidates]
        verdicts: list[list[Verdict]] = [[] for _ in contests]

        @cache
        def of_candidate(number: int, above: float | None) -> Threshold | None:
            return self._threshold(soup, candidates[number].recipe, above)

        def threshold(number: int) -> Threshold | None:
            contest, known = contests[places[number]], verdicts[places[number]]
            if contest.exact:
                return self._place(contest.exact, known)
            best = _best(known)
            return of_candidate(number, None if best is None else best.score)

        requests = self._requests(candidates, soup.recipe, before)
        results = self.scores.each(requests, threshold, self.skips)
        for place, candidate, result in zip(places, candidates, results, strict=True):
            verdicts[place].append(self._verdict(candidate, result, soup))
            if len(verdicts[place]) == len(contests[place].candidates):
                best = _best(verdicts[place])
                yield [replace(verdict, kept=verdict is best) for verdict in verdicts[place]]

    def best(self, what: str, recipes: Sequence[Recipe], skips: bool = False) -> Scored | Unscorable:
        """The best recipe on held-out, the first among equals; or one that cannot be scored.

        Raises:
            CandidateError: if one cannot be scored, unless `skips`.
        """
        best: Scored | None = None

        def threshold(number: int) -> Threshold | None:
            return None if best is None else self._above(best.evaluation.score)

        requests = [Request(what, recipe) for recipe in recipes]
        for result in self.scores.each(requests, threshold, skips):
            if isinstance(result, Unscorable):
                return result
            if best is None or is_above(result.evaluation.score, best.evaluation.score):
                best = result
        assert best is not None
        return best

    def _requests(self, candidates: Sequence[Candidate], soup: Recipe, before: int) -> list[Request]:
        proposals = list(dict.fromkeys(id(candidate.proposal) for candidate in candidates))
        number = {proposal: before + place for place, proposal in enumerate(proposals, start=1)}
        total, requests, previous = before + len(proposals), [], soup
        for proposal, recipe in candidates:
            grows = recipe.extends(soup) or recipe.extends(previous)
            what = f"merging {proposal.candidate} ({number[id(proposal)]} of {total})"
            growing = grows and self.rule.kind != "any"
            requests.append(Request(what, recipe, run=proposal.candidate, growing=growing))
            previous = recipe
        return requests

    def _threshold(self, soup: Scored, candidate: Recipe, above: float | None) -> Threshold | None:
        if self.stopping is None:
            return None
        tasks, examples, known = self.scores.tasks, self.scores.examples, self._known(candidate, soup.recipe)
        return self.stopping.threshold(
            self.rule, soup.evaluation, tasks, examples, above, known, self._others
        )

    @cached_property
    def _others(self) -> list[Evaluation]:
        """The earlier soups and the best runs: known of all examples."""
        whole = [one for one in self.singles.values() if one.complete and not math.isnan(one.score)]
        return [*self.soups[-_SOUPS:], *sorted(whole, key=lambda one: -one.score)[:_BEST]]

    def _known(self, candidate: Recipe, soup: Recipe) -> list[Known]:
        """The runs of a candidate that were scored by themselves."""
        shares, before = _shares(candidate), _shares(soup)
        return [
            Known(share, share > before.get(name, 0.0), self.singles[name])
            for name, share in shares.items()
            if name in self.singles
        ]

    def _place(self, exact: int, verdicts: Sequence[Verdict]) -> Threshold | None:
        known = sorted(v.score for v in verdicts if v.score is not None and not math.isnan(v.score))
        above, floors = known[-exact] if len(known) >= exact else None, self.rule.floors
        return None if above is None and not floors else self._above(above, floors)

    def _above(self, score: float | None, floors: Mapping[str, float] | None = None) -> Threshold | None:
        rule = AcceptRule("any", floors=floors or {})
        return None if self.stopping is None else Threshold(rule, above=score)

    def _verdict(self, candidate: Candidate, result: Scored | Unscorable, soup: Scored) -> Verdict:
        if isinstance(result, Unscorable):
            return Verdict(candidate, result)
        below = missed(self.rule.floors, result.evaluation.scores)
        if not result.evaluation.complete:
            return Verdict(candidate, result, missed=below)
        references = self.scores.examples.references("heldout")
        comparison = compare(result.evaluation, soup.evaluation, self.scores.tasks, references)
        kept = not below and self.rule.accepts(comparison.gain, lambda: comparison.p_value)
        return Verdict(candidate, result, kept, comparison, below)


def _best(verdicts: Sequence[Verdict]) -> Verdict | None:
    """The best accepted candidate, the first among equals."""
    best: Verdict | None = None
    for verdict in verdicts:
        if verdict.kept and (best is None or is_above(_score(verdict), _score(best))):
            best = verdict
    return best


def _score(verdict: Verdict) -> float:
    assert verdict.score is not None, "what is kept was scored in full"
    return verdict.score


def _shares(recipe: Recipe) -> dict[str, float]:
    """Each ingredient's share of the coefficients, the mean over parts of the depth."""
    shares: dict[str, float] = defaultdict(float)
    for name, coefficient in zip(recipe.ingredients, recipe.coefficients, strict=True):
        shares[name] += fmean(coefficient if isinstance(coefficient, tuple) else [coefficient])
    total = sum(map(abs, shares.values())) or 1.0
    return {name: share / total for name, share in shares.items()}
