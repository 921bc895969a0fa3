#!/usr/bin/env python
"""Simulates how much of full evaluation early stopping needs, at the accuracies of real pools.

    python scripts/early_stopping_table.py            (20 seconds)

No models: tables say which of 1,000 examples each run and each soup gets right. An example's
difficulty is shared by all (errors are correlated), and each model has luck of its own. The pool has 20
runs; a soup with a candidate is, on average, 2 points worse than the soup without, and now
and then better. Scoring, order, bounds and decisions are soupkitchen's own: the real
evaluator with batches of 32. Prints Markdown: shares of the examples that full evaluation scores.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from scipy.stats import norm

from soupkitchen import metrics
from soupkitchen.decisions import Judge
from soupkitchen.evaluation import Evaluator, Recipe, Scorer
from soupkitchen.search import Greedy
from soupkitchen.tasks import Several

EXAMPLES, RUNS, BATCH, REPEATS = 1000, 20, 32, 5
WORSE, SPREAD = 0.02, 0.012
"""How much worse a candidate is on average, and how much that varies (in accuracy)."""
CORRELATION = 0.8
"""Of two models' latent margins on an example."""


class Simulated:
    """A task whose predictions are 1 where the simulated model is right."""

    metric = metrics.load("accuracy")
    data: Any = None
    content_columns = ()
    stratify_column = None
    model_class = torch.nn.Module
    right = np.ones(EXAMPLES, int)

    def prepare(self, split: datasets.Dataset, processor: Any, model: Any) -> datasets.Dataset:
        return split

    def references(self, prepared: datasets.Dataset) -> np.ndarray:
        return np.ones(len(prepared), int)

    def collator(self, processor: Any) -> Any:
        return lambda examples: {"index": torch.tensor([example["index"] for example in examples])}

    def step(self, model: Any, batch: Any, processor: Any) -> torch.Tensor:
        return torch.tensor(self.right[batch["index"].numpy()])


def main() -> None:
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
    task, live = (
        Simulated(),
        SimpleNamespace(spread=False, model=torch.nn.Identity(), fill=lambda weights: None),
    )
    heldout = {"heldout": {"": datasets.Dataset.from_dict({"index": list(range(EXAMPLES))})}}
    several: Any = Several({"": task})  # type: ignore[dict-item]
    evaluator = Evaluator(several, live, None, heldout, Accelerator(cpu=True), BATCH)  # type: ignore[arg-type]
    scorer = Scorer(evaluator, lambda what: lambda done, total: None)

    def model(skill: float) -> np.ndarray:
        luck = random.normal(size=EXAMPLES)
        margin = np.sqrt(CORRELATION) * easy + np.sqrt(1 - CORRELATION) * luck
        return (margin > norm.ppf(1 - skill)).astype(int)

    def score(name: str, right: np.ndarray) -> Any:
        task.right = right
        return scorer.score(name, Recipe((name,)))

    pool = [score(f"run{i}", model(accuracy - 0.005 * i)).evaluation for i in range(RUNS)]
    best = score("run0", np.zeros(0))
    judge, scored, discarded, kept = Judge(Greedy(), scorer), 0, 0, 0
    skill = accuracy
    evaluator.arrange("heldout", best.evaluation, pool)
    for number in range(1, RUNS):
        offered = skill - WORSE + SPREAD * random.normal()
        task.right = model(min(offered, 0.999))
        (verdict,) = judge.decide("", [Recipe(("run0", f"candidate{number}"))], best)
        seen = verdict.scored.evaluation.examples_scored
        scored += seen
        if verdict.kept:
            kept, skill, best = kept + 1, offered, verdict.scored
            evaluator.hardest_first("heldout", best.evaluation)
        else:
            discarded += seen
    return scored, EXAMPLES * (RUNS - 1), discarded, kept


if __name__ == "__main__":
    main()
