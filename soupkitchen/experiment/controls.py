"""The final table: the soup beside what it has to be compared with."""

from __future__ import annotations

from soupkitchen.errors import CandidateError
from soupkitchen.executors import Request
from soupkitchen.experiment.judge import Judge
from soupkitchen.experiment.ranking import Ranking
from soupkitchen.experiment.scores import Scored
from soupkitchen.experiment.steps import Steps

CONTROLS = 2
"""Models in the table beside the soup and the single runs: uniform, and uniform of the top k."""


def final_table(soup: Scored, ranking: Ranking, judge: Judge, steps: Steps, top_k: int | None = None) -> None:
    """Scores the controls on held-out, and the models worth reporting on test.

    Args:
        top_k: how many of the best runs `uniform_top_k` merges; None for as many as the soup has, and
            at least two.
    """
    recipes, scores = judge.recipes, judge.scores
    best_first = [run.name for run in ranking.best_first]
    top = best_first[: min(top_k or max(2, soup.recipe.size), len(best_first))]
    models = [
        ("soup", "soup", [soup.recipe]),
        ("uniform", "uniform", recipes.uniform(ranking.names)),
        (f"uniform_top_{len(top)}", "uniform", recipes.uniform(top)),
        *((name, "single", [recipes.single(name)]) for name in ranking.names),
    ]
    for run in ranking.best_first[1:]:  # runs that were not scored, or not in full, stay so
        if ranking.listed or run.partial:
            models = [model for model in models if model[1] != "single" or model[0] != run.name]
            steps.unscored(run.name, "listed" if ranking.listed else "partial", run.score)
    for model, kind, alternatives in models:
        scored = {}
        try:
            scored["heldout"] = judge.best(f"{model} on heldout", alternatives)
            if "test" in scores.examples.scored and (kind != "single" or model == best_first[0]):
                request = Request(f"{model} on test", scored["heldout"].recipe, "test")
                scored["test"] = scores.score(request)
        except CandidateError as error:
            steps.failed("final", model, alternatives[0].ingredients, error)
            if "heldout" not in scored:
                continue
        steps.final(model, kind, scored)
