#!/usr/bin/env python
"""Reproduces the docs' table of results: the demo over three seeds, as Markdown.

    python scripts/demo_table.py            (about 8 minutes on two cores; finished runs are not repeated)

Each seed draws other texts and fine-tunes another pool. The difference between the soup
and the best single run on test is paired: a bootstrap over the test examples, each
scored by both models.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import gains
import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from soupkitchen import metrics
from soupkitchen.checkpoints import Checkpoint
from soupkitchen.evaluation import Runtime, evaluator_of, load_splits
from soupkitchen.tasks import Data, Several, TextClassification

SEEDS = (0, 1, 2)
RESULTS = Path("results")


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    words = ["-m", f"demo_seed={','.join(map(str, SEEDS))}", f"results_dir={RESULTS}"]
    subprocess.run([sys.executable, "-m", "soupkitchen", *words], check=True, stdout=sys.stderr)
    rows = [row(seed, RESULTS / f"demo-linear-greedy+demo_seed={seed}") for seed in SEEDS]
    print("| seed | best single | uniform | uniform, same size | greedy soup | of | soup − best, on test |")
    print("|---|---|---|---|---|---|---|")
    print("\n".join(rows))


def row(seed: int, folder: Path) -> str:
    models = pd.read_csv(folder / "leaderboard.csv").to_dict("records")
    singles = [model for model in models if model["kind"] == "single"]
    uniform, same_size = sorted(
        (model for model in models if model["kind"] == "uniform"), key=lambda m: len(m["model"])
    )
    (soup,) = (model for model in models if model["kind"] == "soup")
    best = max(singles, key=lambda model: model["heldout_accuracy"])
    cells = " | ".join(gains.cell(model) for model in (best, uniform, same_size, soup))
    size = len(soup["ingredients"].split(";"))

    cache = Path(OmegaConf.load(folder / "config.yaml").cache_dir).expanduser()
    cooked = cache / "demo" / f"seed-{seed}"
    before, after = (
        right(run, cooked / "data") for run in (cooked / "runs" / best["model"], folder / "soup")
    )
    return f"| {seed} | {cells} | {size} of {len(singles)} | {gains.paired(before, after)} |"


def right(model: Path, data: Path) -> np.ndarray:
    """Scores `model` on each test example: 1 if right, else 0."""
    tasks = Several.of(TextClassification(Data(str(data)), metrics.load("accuracy"), max_length=16))
    evaluator = evaluator_of(Checkpoint.open(model), tasks, load_splits(tasks), Runtime())
    (part,) = evaluator.score("test").parts.values()
    assert part.values is not None
    return part.values


if __name__ == "__main__":
    main()
