#!/usr/bin/env python
"""Reproduces the docs' table of merge methods: each on the demo, at its defaults, as Markdown.

    python scripts/methods_table.py      (about 40 seconds a row on two cores)

And DARE at drop rates 0.5, 0.9 and 0.99, which is the claim of the article that soupkitchen
grew from: that most of what fine-tuning changed can be dropped. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd

from soupkitchen.options import files

RESULTS = Path("results")
DENSITIES = (0.5, 0.1, 0.01)


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    methods = sorted(file.stem for file in (files.folder("conf") / "method").glob("*.yaml"))
    sweep(f"method={','.join(methods)}")
    sweep(
        "method=dare_linear,dare_ties",
        f"method.sparsifier.density={','.join(map(str, DENSITIES))}",
    )
    print("| method | greedy soup | of | uniform |")
    print("|---|---|---|---|")
    for method in methods:
        print(row(method, f"demo-{method}-greedy"))
    for method in ("dare_linear", "dare_ties"):
        for density in DENSITIES:
            name = f"demo-{method}-greedy+method.sparsifier.density={density}"
            print(row(f"{method}, p = {1 - density:g}", name))


def sweep(*words: str) -> None:
    command = [sys.executable, "-m", "soupkitchen", "-m", *words, f"results_dir={RESULTS}"]
    subprocess.run(command, check=True, stdout=sys.stderr)


def row(label: str, name: str) -> str:
    table = pd.read_csv(RESULTS / name / "leaderboard.csv")
    cells = []
    for model in ("soup", "uniform"):
        scores = table[table["model"] == model].iloc[0]
        cells.append(f"{100 * scores['heldout_accuracy']:.1f} / {100 * scores['test_accuracy']:.1f}")
    size = len(str(table[table["model"] == "soup"]["ingredients"].iloc[0]).split(";"))
    return f"| {label} | {cells[0]} | {size} | {cells[1]} |"


if __name__ == "__main__":
    main()
