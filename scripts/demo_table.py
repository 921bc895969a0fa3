#!/usr/bin/env python
"""Reproduces the README's table of results: the demo over three seeds, as Markdown.

    python scripts/demo_table.py            (about 8 minutes on two cores; finished runs are not repeated)

Each seed draws other texts and fine-tunes another pool. The difference between the soup
and the best single run on test is paired: a bootstrap over the test examples, each
scored by both models.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from scipy.stats import bootstrap

from soupkitchen import metrics
from soupkitchen.checkpoints import Checkpoint
from soupkitchen.evaluation import Evaluator, LiveModel, Runtime
from soupkitchen.tasks import Data, TextClassification

SEEDS = (0, 1, 2)
RESULTS = Path("results")


def main() -> None:
    words = ["-m", f"demo_seed={','.join(map(str, SEEDS))}", f"results_dir={RESULTS}"]
    subprocess.run([sys.executable, "-m", "soupkitchen", *words], check=True, stdout=sys.stderr)
    rows = [row(seed, RESULTS / f"demo-linear-greedy+demo_seed={seed}") for seed in SEEDS]
    print(
        "| seed | best single | uniform | uniform, same size | greedy soup | of | soup − best single on test |"
    )
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


def row(seed: int, folder: Path) -> str:
    table = pd.read_csv(folder / "leaderboard.csv", index_col="model")
    best = table[table["kind"] == "single"]["heldout_accuracy"].idxmax()
    same_size = next(model for model in table.index if model.startswith("uniform_top_"))
    cells = [cell(table.loc[model]) for model in (best, "uniform", same_size, "soup")]
    size = len(table.loc["soup", "ingredients"].split(";"))
    cache = Path(OmegaConf.load(folder / "config.yaml").cache_dir).expanduser()
    cooked = cache / "demo" / f"seed-{seed}"
    one, other = (right(model, cooked / "data") for model in (cooked / "runs" / best, folder / "soup"))
    interval = bootstrap((other - one,), np.mean, method="percentile", rng=0, batch=100).confidence_interval
    paired = f"{100 * (other - one).mean():+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
    return f"| {seed} | {' | '.join(cells)} | {size} of {(table['kind'] == 'single').sum()} | {paired} |"


def cell(model: pd.Series) -> str:
    return f"{100 * model['heldout_accuracy']:.1f} / {100 * model['test_accuracy']:.1f}"


def right(model: Path, data: Path) -> np.ndarray:
    """Which test examples `model` gets right."""
    task = TextClassification(Data(str(data)), metrics.load("accuracy"), max_length=16)
    accelerator = Runtime().accelerator()
    live = LiveModel(Checkpoint.open(model), task.model_class, accelerator.device)
    test = {"test": task.data.load("test")}
    evaluator = Evaluator(task, live, task.load_processor(str(model)), test, accelerator, batch_size=64)
    per_example = evaluator.score("test").per_example
    assert per_example is not None
    return per_example


if __name__ == "__main__":
    main()
