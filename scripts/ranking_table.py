#!/usr/bin/env python
"""Simulates how many forward passes a run takes that ranks its pool by a part of the held-out data.

    python scripts/ranking_table.py            (two minutes)
    python scripts/ranking_table.py --batch-sizes 8 32 128 --accuracies 0.8

No models: the pool is taken from early_stopping_table.py, 20 runs and 1,000 examples, candidates 2 points
worse on average; and each mixture has answers of its own. Ranking, order, bounds and decisions are
soupkitchen's own. Prints Markdown: examples scored, in % of scoring 20 runs and 19 candidates
in full; in brackets the ranking, of 20 runs, and the merge stage, of 19 candidates, by themselves.
"""

from __future__ import annotations

import argparse
import zlib
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
from early_stopping_table import CORRELATION, EXAMPLES, RUNS, SPREAD, WORSE
from scipy.stats import norm
from soupkitchen.experiment.partial_ranking import by_part

from soupkitchen import metrics
from soupkitchen.evaluation import EarlyStopping
from soupkitchen.evaluation.scoring import Examples, Listed
from soupkitchen.executors import Fake
from soupkitchen.experiment.algorithm import find_soup
from soupkitchen.experiment.judge import Judge
from soupkitchen.experiment.ledger import Ledger
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.experiment.scores import Scores
from soupkitchen.experiment.steps import Steps
from soupkitchen.merging import Linear
from soupkitchen.search import Greedy
from soupkitchen.tasks import Several

SHARES = (None, 0.05, 0.1, 0.25, 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--accuracies", nargs="+", type=float, default=[0.6, 0.7, 0.8, 0.9, 0.95, 0.98])
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[32])
    parser.add_argument("--repeats", type=int, default=20)
    given = parser.parse_args()
    named = ("full" if share is None else f"{{examples: {share:g}}}" for share in SHARES)
    print(f"| accuracy of the best run | batches of | {' | '.join(named)} |")
    print("|---|---|" + "---|" * len(SHARES))
    for accuracy in given.accuracies:
        for batch_size in given.batch_sizes:
            cells = [shown(accuracy, share, batch_size, given.repeats) for share in SHARES]
            print(f"| {100 * accuracy:.0f} % | {batch_size} | {' | '.join(cells)} |", flush=True)


def shown(accuracy: float, share: float | None, batch_size: int, repeats: int) -> str:
    stages = np.mean([simulate(accuracy, share, batch_size, seed) for seed in range(repeats)], axis=0)
    ranking, merging = 100 * stages / (EXAMPLES * np.array([RUNS, RUNS - 1]))
    return f"{100 * stages.sum() / (EXAMPLES * (2 * RUNS - 1)):.0f} % ({ranking:.0f}, {merging:.0f})"


def simulate(accuracy: float, share: float | None, batch_size: int, seed: int) -> tuple[int, int]:
    """Examples scored by the ranking, and by the merge stage, of one run."""
    easy = np.random.default_rng(seed).normal(size=EXAMPLES)
    places = np.random.default_rng(seed).permutation(RUNS)
    right = np.ones(EXAMPLES, int)
    task: Any = SimpleNamespace(metric=metrics.load("accuracy"), model_class=object)
    tasks, examples = Several({"": task}), Examples({"heldout": {"": Listed(right)}}, batch_size)

    @cache
    def drawn(ingredients: tuple[str, ...]) -> tuple[float, np.ndarray]:
        """Draws the skill of a mixture, and the examples that it gets right."""
        random = np.random.default_rng(zlib.crc32(repr((seed, ingredients)).encode()))
        if len(ingredients) == 1:
            skill = accuracy - 0.005 * places[int(ingredients[0])]
        else:
            alone = accuracy if len(ingredients) == 2 else drawn(ingredients[:-1])[0]
            skill = min(alone - WORSE + SPREAD * random.normal(), 0.999)
        margin = np.sqrt(CORRELATION) * easy + np.sqrt(1 - CORRELATION) * random.normal(size=EXAMPLES)
        return skill, (margin > norm.ppf(1 - skill)).astype(int)

    executor = Fake(lambda recipe, split: {"": drawn(recipe.ingredients)[1]}, tasks, examples)
    known: Any = SimpleNamespace(
        asked=lambda recipe, split: recipe.digest, predictions=None, check=lambda recipe: None
    )
    scores = Scores(executor, examples, tasks, Ledger(None), known)
    search, recipes = Greedy(), Recipes(Linear())
    steps = Steps(scores, search.rule.text)
    pool: Any = [SimpleNamespace(name=str(number)) for number in range(RUNS)]
    ranking = by_part(pool, scores, recipes, steps, share)
    find_soup(search, ranking, Judge(search.rule, scores, recipes, EarlyStopping()), steps)
    rows = [event for event in scores.ledger.events if event["event"] == "step"]
    taken = [
        sum(row["examples_scored"] for row in rows if row["stage"] == stage) for stage in ("rank", "merge")
    ]
    return taken[0], taken[1]


if __name__ == "__main__":
    main()
