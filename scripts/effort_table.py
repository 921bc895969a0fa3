#!/usr/bin/env python
"""Measures the forward passes that greedy search needs with each `evaluation.effort`.

    python scripts/effort_table.py FOLDER --runs 30 --orders 20    (FOLDER of effort_pools.py)

Each mixture is scored once in full, and its outputs are kept; then ranking and search run as in a run, on
these outputs, with the held-out examples in one order after another. Passes are in % of scoring all runs and
all candidates in full: the median over orders, and the least and the most. Prints Markdown.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from effort_pools import Pool, pools
from gains import head, line

from soupkitchen import metrics
from soupkitchen.evaluation import EarlyStopping
from soupkitchen.evaluation.confidence import ConfidentStopping
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

CONFIDENCE = 0.999
EFFORTS = ("exact", "confident", "frugal")


class Searched(NamedTuple):
    """A search's costs and its soup.

    Attributes:
        ranking, merging: examples scored, in units of the held-out set.
        soup: the runs.
        shown: the scores of the soup on held-out and test, with the metric's own sign.
        margin: of the rule.
    """

    ranking: float
    merging: float
    soup: tuple[int, ...]
    heldout: float
    test: float
    margin: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--efforts", nargs="+", default=list(EFFORTS))
    parser.add_argument("--metrics", nargs="+")
    parser.add_argument("--only", nargs="*", help="names of pools")
    given = parser.parse_args()
    print(
        head(
            "pool",
            "metric",
            "effort",
            "passes, %",
            "ranking",
            "candidates",
            "in the soup",
            "held-out",
            "test",
            "margin",
        )
    )
    for name, pool in pools(given.folder).items():
        if given.only and name not in given.only:
            continue
        for metric in given.metrics or pool.metrics:
            for effort in given.efforts:
                found = [
                    searched(pool, given.runs, metric, effort, order, given.batch)
                    for order in range(given.orders)
                ]
                print(row(name, metric, effort, found, given.runs), flush=True)


def row(name: str, metric: str, effort: str, found: list[Searched], runs: int) -> str:
    all_of_them = 2 * runs - 1
    passes = [100 * (one.ranking + one.merging) / all_of_them for one in found]
    return line(
        name,
        metric,
        effort,
        f"{np.median(passes):.0f} ({min(passes):.0f}–{max(passes):.0f})",
        f"{np.median([one.ranking for one in found]):.1f} of {runs}",
        f"{np.median([one.merging for one in found]):.1f} of {runs - 1}",
        f"{np.mean([len(one.soup) for one in found]):.1f}",
        f"{np.mean([one.heldout for one in found]):.4f}",
        f"{np.mean([one.test for one in found]):.4f}",
        f"{found[0].margin:.2g}",
    )


def searched(pool: Pool, runs: int, name: str, effort: str, order: int, batch: int) -> Searched:
    """A search with the held-out examples in the given order."""
    right, places = pool.references["validation"], {}
    places["heldout"] = np.random.default_rng(order).permutation(len(right))
    places["test"] = np.arange(len(pool.references["test"]))
    splits = {"heldout": "validation", "test": "test"}
    metric = metrics.load(name)

    def predicted(recipe: Any, split: str) -> dict[str, np.ndarray]:
        rows = pool.outputs([int(run) for run in recipe.ingredients], splits[split])[places[split]]
        return {"": rows.argmax(1) if metric.inputs == "labels" else rows}

    task: Any = SimpleNamespace(metric=metric, model_class=object)
    references = {role: pool.references[split][places[role]] for role, split in splits.items()}
    tasks = Several({"": task})
    examples = Examples({role: {"": Listed(rows)} for role, rows in references.items()}, batch)
    executor = Fake(predicted, tasks, examples)
    known: Any = SimpleNamespace(
        asked=lambda recipe, split: recipe.digest, predictions=None, check=lambda recipe: None
    )
    scores = Scores(executor, examples, tasks, Ledger(None), known)
    search, recipes = Greedy(), Recipes(Linear())
    rule = AcceptRule.of({"margin": "auto"} if effort == "frugal" else "better")
    steps = Steps(scores, rule.text)
    listed: Any = [SimpleNamespace(name=str(number)) for number in range(runs)]
    if effort == "exact":
        ranking = by_scoring(listed, scores, recipes, steps)
        stopping = EarlyStopping()
    else:
        ranking = by_race(listed, scores, recipes, steps, CONFIDENCE, rule.margin)
        stopping = ConfidentStopping(CONFIDENCE)
    rule = rule.after_ranking(ranking.noise(scores))
    of_ranking = sum(number for _, number in executor.scored)
    soup, _ = find_soup(search, ranking, Judge(rule, scores, recipes, stopping), steps)
    everything = sum(number for _, number in executor.scored)
    members = tuple(int(run) for run in soup.recipe.ingredients)
    test = metric.score(predicted(soup.recipe, "test")[""], references["test"])
    margin = rule.amount if effort == "frugal" else 0.0
    return Searched(
        of_ranking / len(right),
        (everything - of_ranking) / len(right),
        members,
        metric.shown(soup.evaluation.score),
        metric.shown(test),
        margin,
    )


if __name__ == "__main__":
    main()
