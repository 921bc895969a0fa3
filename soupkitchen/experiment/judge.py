"""Whether a proposal becomes the soup, found out with as few forward passes as that takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from soupkitchen.errors import CandidateError
from soupkitchen.evaluation import Bar, Comparison, compare
from soupkitchen.evaluation.bar import is_above
from soupkitchen.executors import Request
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.experiment.scores import Scored, Scores
from soupkitchen.search import AcceptRule, Choice, Proposal
from soupkitchen.soup import Recipe


class Member(NamedTuple):
    """One of the recipes that a proposal, or a choice of several, stands for."""

    proposal: Proposal
    recipe: Recipe
    what: str


@dataclass(frozen=True)
class Verdict:
    """What became of a member.

    Attributes:
        scored: None where it cannot be scored, which `error` says why.
        comparison: with the soup; None where it was not scored in full.
    """

    member: Member
    scored: Scored | None = None
    kept: bool = False
    comparison: Comparison | None = None
    error: CandidateError | None = None

    @property
    def score(self) -> float | None:
        """Higher better; None where it was not found out in full."""
        complete = self.scored is not None and self.scored.evaluation.complete
        return self.scored.evaluation.score if complete and self.scored is not None else None


@dataclass(frozen=True)
class Judge:
    """Scores proposals and decides on them.

    Attributes:
        early_stopping: whether scoring stops once its outcome cannot change a decision.
        confidence: or hardly can: with which a proposal may be discarded; None for certainty.
        goes_on: whether a candidate that cannot be scored counts as discarded; else that is raised.
        again: whether the same runs are merged time and again.
    """

    rule: AcceptRule
    scores: Scores
    recipes: Recipes
    early_stopping: bool = True
    confidence: float | None = None
    goes_on: bool = True
    again: bool = False

    def decide(
        self, proposed: Sequence[Proposal | Choice], soup: Scored, before: int = 0
    ) -> Iterator[list[Verdict]]:
        """Yields what became of each proposal's, or choice's, members, of which one at most is kept.

        What is not asked for is not scored.

        Args:
            soup: what a proposal has to improve on.
            before: how many proposals came before these, for whoever watches.

        Raises:
            CandidateError: where one cannot be scored, and that ends the search.
        """
        groups = [entry.proposals if isinstance(entry, Choice) else (entry,) for entry in proposed]
        total, number = before + sum(map(len, groups)), before
        members: list[list[Member]] = []
        for group in groups:
            members.append([])
            for proposal in group:
                number += 1
                what = f"merging {proposal.candidate} ({number} of {total})"
                members[-1] += [
                    Member(proposal, recipe, what) for recipe in self.recipes.of(proposal.mixture)
                ]
        if all(len(some) == 1 for some in members):
            yield from self._each([some[0] for some in members], soup)
        else:
            for entry, some in zip(proposed, members, strict=True):
                yield self._choose(some, soup, entry.exact if isinstance(entry, Choice) else 0)

    def best(self, what: str, alternatives: Sequence[Recipe]) -> Scored:
        """The best of some recipes on held-out, the first among equals.

        Raises:
            CandidateError: where one cannot be scored.
        """
        first, *others = alternatives
        best = self.scores.score(Request(what, first))
        for recipe in others:
            scored = self.scores.score(Request(what, recipe, bar=self._above(best.evaluation.score)))
            if is_above(scored.evaluation.score, best.evaluation.score):
                best = scored
        return best

    def _each(self, members: Sequence[Member], soup: Scored) -> Iterator[list[Verdict]]:
        """One member after the other, each by itself."""
        bar = self._bar(soup)
        before = [soup.recipe, *(member.recipe for member in members)]
        requests = [
            self._request(member, bar, soup, previous)
            for member, previous in zip(members, before, strict=False)
        ]
        for member, scored in zip(members, self.scores.each(requests), strict=True):
            yield [self._verdict(member, scored, soup)]

    def _choose(self, members: Sequence[Member], soup: Scored, exact: int) -> list[Verdict]:
        """Of all members that the rule accepts, the best is kept; the `exact` best are scored in full."""
        verdicts: list[Verdict] = []
        kept: Verdict | None = None

        def bar() -> Bar | None:
            if exact:
                return self._place(exact, verdicts)
            return self._bar(soup, None if kept is None else kept.score)

        requests = [self._request(member, None, soup, soup.recipe) for member in members]
        for member, scored in zip(members, self.scores.each(requests, bar=bar), strict=True):
            verdict = self._verdict(member, scored, soup)
            if verdict.kept and (kept is None or _is_better(verdict, kept)):
                kept = verdict
            verdicts.append(verdict)
        return [replace(verdict, kept=verdict is kept) for verdict in verdicts]

    def _place(self, exact: int, verdicts: Sequence[Verdict]) -> Bar | None:
        """What has to be exceeded to be among the `exact` best so far."""
        known = sorted(v.score for v in verdicts if v.score is not None and not math.isnan(v.score))
        return self._above(known[-exact]) if len(known) >= exact else None

    def _above(self, score: float) -> Bar | None:
        """What exceeds a score, whatever the rule."""
        return Bar(AcceptRule("any"), above=score) if self.early_stopping else None

    def _bar(self, soup: Scored, above: float | None = None) -> Bar | None:
        if not self.early_stopping:
            return None
        confidence = self.confidence if self.scores.examples.shuffled else None
        return Bar.of(self.rule, soup.evaluation, self.scores.tasks, above, confidence)

    def _request(self, member: Member, bar: Bar | None, soup: Scored, previous: Recipe) -> Request:
        recipe = member.recipe
        growing = self.rule.kind != "any" and any(recipe.extends(one) for one in (soup.recipe, previous))
        return Request(member.what, recipe, bar=bar, growing=growing, again=self.again)

    def _verdict(self, member: Member, scored: Scored | CandidateError, soup: Scored) -> Verdict:
        if isinstance(scored, CandidateError):
            if not self.goes_on:
                raise scored
            return Verdict(member, error=self.scores.failed(scored))
        if not scored.evaluation.complete:
            return Verdict(member, scored)
        references = self.scores.examples.references("heldout")
        comparison = compare(scored.evaluation, soup.evaluation, self.scores.tasks, references)
        kept = self.rule.accepts(comparison.gain, lambda: comparison.p_value)
        return Verdict(member, scored, kept, comparison)


def _is_better(one: Verdict, other: Verdict) -> bool:
    assert one.score is not None
    assert other.score is not None
    return is_above(one.score, other.score)
