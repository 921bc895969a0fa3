#!/usr/bin/env python
"""Reproduces the docs' table of two tasks in one model, as Markdown.

    python scripts/two_tasks_table.py            (about 4 minutes; finished runs are not repeated)

Runs `experiment=two_tasks` with four merge methods; those on task vectors choose λ of three
values on held-out data.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd

RESULTS = Path("results")
SCALES = "method.scale=[0.4,0.7,1.0]"
METHODS: dict[str, list[str]] = {
    "linear": [],
    "task_arithmetic": [SCALES],
    "ties": [SCALES],
    "dare_ties": [SCALES],
}


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print("| model | technical | other | mean |")
    print("|---|---|---|---|")
    for method, options in METHODS.items():
        name = f"two_tasks-{method}"
        words = [
            "experiment=two_tasks",
            f"method={method}",
            f"results_dir={RESULTS}",
            f"name={name}",
            *options,
        ]
        subprocess.run([sys.executable, "-m", "soupkitchen", *words], check=True, stdout=sys.stderr)
        table = pd.read_csv(RESULTS / name / "leaderboard.csv").set_index("model")
        if method == "linear":
            singles = table[table["kind"] == "single"]
            print(row("best single run", singles.iloc[0]))
        soup = table[table["kind"] == "soup"].iloc[0]
        print(row(f"{method}, greedy, {1 + soup['ingredients'].count(';')} of 6", soup))
        print(row(f"{method}, uniform", table[table.index == "uniform"].iloc[0]), flush=True)


def row(name: str, model: pd.Series) -> str:
    cells = [
        f"{100 * model[f'heldout_{task}']:.1f} / {100 * model[f'test_{task}']:.1f}"
        for task in ("technical", "other", "mean")
    ]
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
