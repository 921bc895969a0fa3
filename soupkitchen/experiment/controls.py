"""The final table: the soup beside the models that it has to be compared with."""

from __future__ import annotations

from soupkitchen.executors import Request
from soupkitchen.experiment.judge import Judge
from soupkitchen.experiment.ranking import Ranking
from soupkitchen.experiment.scores import Scored, Unscorable
from soupkitchen.experiment.steps import Steps
from soupkitchen.search import Mixture

CONTROLS = 2
"""Models in the table beside the soup and the single runs: uniform, and uniform of the top k."""


def final_table(soup: Scored, ranking: Ranking, judge: Judge, steps: Steps, top_k: int | None = None) -> None:
    """Scores the controls on held-out, and the models worth reporting on test.

    Args:
        top_k: how many of the best runs `uniform_top_k` merges; None for as many as the soup has, and
            at least two.
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
            steps.final(model, kind, scored)
