#!/usr/bin/env python
"""Reproduces the docs' table of one run's checkpoints: windows beside a rate that really decays.

    python scripts/window_table.py --seeds 0 1 2      (ten minutes a seed; finished runs are not repeated)

Fine-tunes the demo's model once at a constant learning rate, keeping 20 checkpoints, and twice as it would
have been done otherwise, with a rate that decays to 0 over the last half or the last fifth of as many steps
(finetune_conf/sweep/window.yaml). Then `search=window` over the checkpoints, once for each decay that
their weights can stand for. Accuracy in %, held-out / test, as Markdown.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from gains import head, line, percent

from soupkitchen import cook, demo, methods, metrics
from soupkitchen.checkpoints import Checkpoint, Pool, find_pool
from soupkitchen.evaluation import Runtime, evaluator_of, load_splits
from soupkitchen.experiment import Result
from soupkitchen.merging.weights import DECAYS
from soupkitchen.search import Window
from soupkitchen.tasks import Data, Several, TextClassification

RESULTS = Path("results")
FINETUNE = Path(__file__).with_name("finetune_pool.py")
SETTING = "soup of a window, {}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/soupkitchen"))
    arguments = parser.parse_args()
    columns = {f"seed {seed}": dict(rows(arguments.cache.expanduser(), seed)) for seed in arguments.seeds}
    print(head("model", *columns))
    for model in next(iter(columns.values())):
        print(line(model, *(column[model] for column in columns.values())))


def rows(cache: Path, seed: int) -> Iterator[tuple[str, str]]:
    """Each model of one seed, and how it does."""
    cooked = demo.cook(cache, seed)
    runs = cooked / "window" / "runs"
    finetune(cooked, runs, seed)
    task = TextClassification(Data(str(cooked / "data")), metrics.load("accuracy"), max_length=16)
    pool = find_pool(str(runs / "constant"), base=str(cooked / "base"), checkpoints="all")
    results = {decay: window(pool, task, decay, seed) for decay in DECAYS}
    table = results["linear"].leaderboard
    best, average = (
        table[table[key] == what].iloc[0] for key, what in (("kind", "single"), ("model", "uniform"))
    )
    last = max((runs / "constant").glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
    yield "last checkpoint", percent(*accuracies(last, task))
    yield "best checkpoint", f"{listed(best)} ({str(best['model']).split('/')[-1]})"
    yield f"average of all {len(pool)}", listed(average)
    for decay, result in results.items():
        soup = result.leaderboard.query("kind == 'soup'").iloc[0]
        yield SETTING.format(decay), f"{listed(soup)} (last {len(result.ingredients)})"
    for run, part in {"decay-half": "half", "decay-fifth": "fifth"}.items():
        yield f"rate decayed over the last {part}", percent(*accuracies(runs / run, task))


def finetune(cooked: Path, runs: Path, seed: int) -> None:
    """Fine-tunes what is not there yet."""
    options = {
        "sweep": "window",
        "model": cooked / "base",
        "base": cooked / "base",
        "data.path": cooked / "data",
        "output": runs,
        "seed": seed,
    }
    words = [f"{option}={value}" for option, value in options.items()]
    subprocess.run([sys.executable, str(FINETUNE), *words], check=True, stdout=sys.stderr)


def window(pool: Pool, task: Any, decay: str, seed: int) -> Result:
    method = methods.linear(weights={"by": "step", "decay": decay})
    name = f"window-{decay}-seed-{seed}"
    return cook(pool, task, method, search=Window(), results_dir=RESULTS, name=name)


def accuracies(folder: Path, task: Any) -> tuple[float, float]:
    """Scores a model on held-out and test."""
    tasks = Several.of(task)
    evaluator = evaluator_of(Checkpoint.open(folder), tasks, load_splits(tasks), Runtime())
    return evaluator.score("heldout").score, evaluator.score("test").score


def listed(row: pd.Series) -> str:
    return percent(row["heldout_accuracy"], row["test_accuracy"])


if __name__ == "__main__":
    main()
