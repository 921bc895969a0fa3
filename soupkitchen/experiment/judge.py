"""Whether a proposal becomes the soup, found out with as few forward passes as that takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from soupkitchen.errors import CandidateError
from soupkitchen.evaluation import Bar, Comparison, compare
from soupkitchen.evaluation.bar import is_above
from soupkitchen.executors import Request
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.experiment.scores import Scored, Scores
from soupkitchen.search import AcceptRule, Proposal
from soupkitchen.soup import Recipe


@dataclass(frozen=True)
class Verdict:
    """What became of a recipe that was proposed.

    Attributes:
        comparison: with the soup; None where the recipe was not scored in full.
    """

    scored: Scored
    kept: bool
    comparison: Comparison | None


Verdicts = list[Verdict] | CandidateError
"""On each alternative of a proposal; or why it cannot be scored."""


@dataclass(frozen=True)
class Judge:
    """Scores proposals and decides on them."""

    rule: AcceptRule
    scores: Scores
    recipes: Recipes
    early_stopping: bool = True

    def decide(self, proposals: Sequence[Proposal], soup: Scored, said: Sequence[str]) -> Iterator[Verdicts]:
        """Verdicts on each proposal, in order; what is not asked for is not scored.

        Args:
            soup: what a proposal has to improve on.
            said: what is said of each while it is scored.
        """
        recipes = [self.recipes.of(proposal.mixture) for proposal in proposals]
        if all(len(alternatives) == 1 for alternatives in recipes):
            requests = [
                self._request(what, recipe, soup) for what, (recipe,) in zip(said, recipes, strict=True)
            ]
            for scored in self.scores.each(requests):
                yield scored if isinstance(scored, CandidateError) else [self._verdict(scored, soup)]
        else:
            for what, alternatives in zip(said, recipes, strict=True):
                yield self._choose(what, alternatives, soup)

    def best(self, what: str, alternatives: Sequence[Recipe]) -> Scored:
        """The best of some recipes on held-out, the first among equals.

        Raises:
            CandidateError: where one cannot be scored.
        """
        first, *others = alternatives
        best = self.scores.score(Request(what, first))
        for recipe in others:
            bar = Bar(AcceptRule("any"), above=best.evaluation.score) if self.early_stopping else None
            scored = self.scores.score(Request(what, recipe, bar=bar))
            if is_above(scored.evaluation.score, best.evaluation.score):
                best = scored
        return best

    def _choose(self, what: str, alternatives: Sequence[Recipe], soup: Scored) -> Verdicts:
        """Of the alternatives that the rule accepts, the best is kept."""
        verdicts: list[Verdict] = []
        kept: int | None = None
        for recipe in alternatives:
            above = None if kept is None else verdicts[kept].scored.evaluation.score
            (scored,) = self.scores.each([self._request(what, recipe, soup, above)])
            if isinstance(scored, CandidateError):
                return scored
            verdict = self._verdict(scored, soup)
            if verdict.kept and (above is None or is_above(scored.evaluation.score, above)):
                kept = len(verdicts)
            verdicts.append(verdict)
        return [
            Verdict(verdict.scored, number == kept, verdict.comparison)
            for number, verdict in enumerate(verdicts)
        ]

    def _request(self, what: str, recipe: Recipe, soup: Scored, above: float | None = None) -> Request:
        bar = Bar.of(self.rule, soup.evaluation, self.scores.tasks, above) if self.early_stopping else None
        growing = self.rule.kind != "any" and recipe.extends(soup.recipe)
        return Request(what, recipe, bar=bar, growing=growing)

    def _verdict(self, scored: Scored, soup: Scored) -> Verdict:
        if not scored.evaluation.complete:
            return Verdict(scored, False, None)
        references = self.scores.examples.references("heldout")
        comparison = compare(scored.evaluation, soup.evaluation, self.scores.tasks, references)
        kept = self.rule.accepts(comparison.gain, lambda: comparison.p_value)
        return Verdict(scored, kept, comparison)
