#!/usr/bin/env python
"""Simulates how much of full evaluation early stopping needs, at the accuracies of real pools.

    python scripts/early_stopping_table.py            (20 seconds)

No models: tables say which of 1,000 examples each run and each soup gets right. An example's
difficulty is shared by all (errors are correlated), and each model has luck of its own. The pool has 20
runs; a soup with a candidate is, on average, 2 points worse than the soup without, and now
and then better. Order, bounds and decisions are soupkitchen's own, in batches
of 32. Prints Markdown: shares of the examples that full evaluation scores.
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from typing import Any

import numpy as np
from scipy.stats import norm

from soupkitchen import metrics
from soupkitchen.evaluation import Evaluation, Threshold
from soupkitchen.evaluation.scoring import Examples, Listed
from soupkitchen.executors import Fake, Request
from soupkitchen.search import Greedy
from soupkitchen.soup import Recipe
from soupkitchen.tasks import Several

EXAMPLES, RUNS, BATCH, REPEATS = 1000, 20, 32, 5
WORSE, SPREAD = 0.02, 0.012
"""The mean and the deviation of a candidate's loss of accuracy."""
CORRELATION = 0.8
"""Of two models' latent margins on an example."""


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print("| accuracy of the best run | merge stage | discarded candidates | kept |")
    print("|---|---|---|---|")
    for accuracy in (0.6, 0.7, 0.8, 0.9, 0.95, 0.98):
        results = [simulate(accuracy, seed) for seed in range(REPEATS)]
        scored, total, discarded, kept = (sum(column) for column in zip(*results, strict=True))
        candidates = REPEATS * (RUNS - 1)
        share = discarded / (candidates - kept) / EXAMPLES
        cells = (f"{100 * value:.0f} %" for value in (accuracy, scored / total, share))
        print(f"| {' | '.join(cells)} | {kept} of {candidates} |", flush=True)


def simulate(accuracy: float, seed: int) -> tuple[int, int, int, int]:
    """Examples scored, examples in all, those scored for discarded candidates; candidates kept."""
    random = np.random.default_rng(seed)
    easy = random.normal(size=EXAMPLES)
    right = np.ones(EXAMPLES, int)
    task: Any = SimpleNamespace(metric=metrics.load("accuracy"), model_class=object)
    tasks, answers = Several({"": task}), dict[str, np.ndarray]()
    examples = Examples({"heldout": {"": Listed(right)}}, BATCH)
    executor = Fake(lambda recipe, split: {"": answers[recipe.ingredients[-1]]}, tasks, examples)

    def model(skill: float) -> np.ndarray:
        luck = random.normal(size=EXAMPLES)
        margin = np.sqrt(CORRELATION) * easy + np.sqrt(1 - CORRELATION) * luck
        return (margin > norm.ppf(1 - skill)).astype(int)

    def score(recipe: Recipe, threshold: Threshold | None = None) -> Evaluation:
        (scoring,) = executor.score([Request("", recipe, threshold=threshold)])
        assert scoring.evaluation is not None
        return scoring.evaluation

    pool = []
    for number in range(RUNS):
        answers[f"run{number}"] = model(accuracy - 0.005 * number)
        pool.append(score(Recipe.single(f"run{number}")))
    best, skill = pool[0], accuracy
    rule = Greedy().rule
    examples.arrange("heldout", best, pool)
    scored = discarded = kept = 0
    for number in range(1, RUNS):
        offered = skill - WORSE + SPREAD * random.normal()
        answers[f"candidate{number}"] = model(min(offered, 0.999))
        recipe = Recipe(("run0", f"candidate{number}"), (1.0, 1.0), {})
        found = score(recipe, Threshold.of(rule, best, tasks))
        scored += found.examples_scored
        if found.complete and rule.accepts(found.score - best.score, lambda: None):
            kept, skill, best = kept + 1, offered, found
            examples.hardest_first("heldout", best)
        else:
            discarded += found.examples_scored
    return scored, EXAMPLES * (RUNS - 1), discarded, kept


if __name__ == "__main__":
    main()
