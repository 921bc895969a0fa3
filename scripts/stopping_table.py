#!/usr/bin/env python
"""Simulates how much of full evaluation a run needs, at the accuracies of real pools, as Markdown.

    python scripts/stopping_table.py                 (20 seconds)
    python scripts/stopping_table.py ranking         (two minutes)

No models: each mixture has answers of its own to 1,000 examples. An example's difficulty is shared by all
(errors are correlated), and each model has luck of its own. The pool has 20 runs; a soup with a candidate is,
on average, 2 points worse than the soup without, and now and then better. Ranking, order, bounds and
decisions are soupkitchen's own, in batches of 32.

The first table has shares of the examples that full evaluation scores for candidates. `ranking` ranks the
pool as a race: examples scored, in % of scoring 20 runs and 19 candidates in full; in brackets the ranking,
of 20 runs, and the merge stage, of 19 candidates, by themselves.
"""

from __future__ import annotations

import argparse
import zlib
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
from gains import head, line
from scipy.stats import norm

from soupkitchen import metrics
from soupkitchen.evaluation import EarlyStopping
from soupkitchen.evaluation.scoring import Examples, Listed
from soupkitchen.executors import Fake
from soupkitchen.experiment.algorithm import find_soup
from soupkitchen.experiment.judge import Judge
from soupkitchen.experiment.ledger import Ledger
from soupkitchen.experiment.race import by_race
from soupkitchen.experiment.ranking import by_scoring
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.experiment.scores import Scores
from soupkitchen.experiment.steps import Steps
from soupkitchen.merging import Linear
from soupkitchen.search import AcceptRule, Greedy
from soupkitchen.tasks import Several

EXAMPLES, RUNS, BATCH = 1000, 20, 32
WORSE, SPREAD = 0.02, 0.012
"""The mean and the deviation of a candidate's loss of accuracy."""
CORRELATION = 0.8
"""Of two models' latent margins on an example."""
ACCURACIES = (0.6, 0.7, 0.8, 0.9, 0.95, 0.98)
RACES = {"full": (None, 0.0), "race at 0.999": (0.999, 0.0), "and a margin of 0.005": (0.999, 0.005)}
"""Confidence and margin."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="?", choices=["stopping", "ranking"], default="stopping")
    parser.add_argument("--repeats", type=int, help="simulations of each cell; 5, or 20 of a ranking")
    given = parser.parse_args()
    table = stopping(given.repeats or 5) if given.what == "stopping" else ranking(given.repeats or 20)
    for row in table:
        print(row, flush=True)


def stopping(repeats: int) -> Iterator[str]:
    yield head("accuracy of the best run", "merge stage", "discarded candidates", "kept")
    for accuracy in ACCURACIES:
        steps = pd.concat([simulate(accuracy, "full", seed) for seed in range(repeats)])
        tried = steps[steps["decision"].isin(["keep", "discard"])]
        kept = tried["decision"] == "keep"
        shares = (accuracy, *(part["examples_scored"].mean() / EXAMPLES for part in (tried, tried[~kept])))
        yield line(*(f"{100 * share:.0f} %" for share in shares), f"{kept.sum()} of {len(kept)}")


def ranking(repeats: int) -> Iterator[str]:
    yield head("accuracy of the best run", *RACES)
    for accuracy in ACCURACIES:
        yield line(f"{100 * accuracy:.0f} %", *(ranked(accuracy, race, repeats) for race in RACES))


def ranked(accuracy: float, race: str, repeats: int) -> str:
    steps = pd.concat([simulate(accuracy, race, seed) for seed in range(repeats)])
    scored = steps.groupby("stage")["examples_scored"].sum() / (EXAMPLES * repeats)
    rank, merge = 100 * scored["rank"] / RUNS, 100 * scored["merge"] / (RUNS - 1)
    return f"{100 * scored.sum() / (2 * RUNS - 1):.0f} ({rank:.0f}, {merge:.0f})"


def simulate(accuracy: float, race: str, seed: int) -> pd.DataFrame:
    """The steps of one run, which ranks its pool in one of the ways of `RACES`."""
    easy = np.random.default_rng(seed).normal(size=EXAMPLES)
    places = np.random.default_rng(seed).permutation(RUNS)
    right = np.ones(EXAMPLES, int)
    task: Any = SimpleNamespace(metric=metrics.load("accuracy"), model_class=object)
    tasks, examples = Several({"": task}), Examples({"heldout": {"": Listed(right)}}, BATCH)

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
    confidence, margin = RACES[race]
    rule = AcceptRule("margin", margin) if margin else search.rule
    if confidence is None:
        order = by_scoring(pool, scores, recipes, steps)
    else:
        order = by_race(pool, scores, recipes, steps, confidence, margin)
    find_soup(search, order, Judge(rule, scores, recipes, EarlyStopping()), steps)
    return pd.DataFrame([event for event in scores.ledger.events if event["event"] == "step"])


if __name__ == "__main__":
    main()
