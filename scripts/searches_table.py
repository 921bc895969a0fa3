#!/usr/bin/env python
"""Reproduces the docs' table of searches, as Markdown: what each finds, and what it costs.

    python scripts/searches_table.py                     (about an hour on two cores)
    python scripts/searches_table.py --pools demo --seeds 0 1      (a part of it)

Runs every search on the demo's pool (nine runs) and on the pool of two tasks (six), on three seeds, which
draw other texts and fine-tune other runs. The cost counts the candidates only: the examples that were
scored for them, in evaluations of all of held-out, without those that rank the runs, which all
searches share. Nothing is taken from the cache of evaluations. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import pandas as pd

RESULTS = Path("results/searches")
POOLS = {"demo": ["pool=demo"], "two_tasks": ["experiment=two_tasks"]}
SEARCHES = {
    "greedy": ["search=greedy"],
    "greedy, two passes, pruned": ["search=greedy", "search.passes=2", "search.prune=true"],
    "greedy, with replacement": ["search=greedy", "search.replacement=true"],
    "greedy, candidate_scale": ["search=greedy", "search.candidate_scale=[0.25,0.5,1]"],
    "pruned": ["search=pruned"],
    "exhaustive, best 7": ["search=exhaustive", "search.candidates=7"],
    "evolve": ["search=evolve"],
    "evolve, 4 parts": ["search=evolve", "search.layers=4"],
    "uniform": ["search=uniform"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pools", nargs="+", choices=POOLS, default=list(POOLS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments = parser.parse_args()
    for pool in arguments.pools:
        print(f"\n{pool}\n\n| search | {' | '.join(f'seed {s}' for s in arguments.seeds)} | mean | cost |")
        print(f"|{'---|' * (len(arguments.seeds) + 3)}")
        for search in SEARCHES:
            runs = [soup_of(pool, search, seed) for seed in arguments.seeds]
            if search == "greedy":
                print(row("best single run", [single for single, _, _ in runs], None))
            cost = sum(cost for _, _, cost in runs) / len(runs)
            print(row(search, [soup for _, soup, _ in runs], cost), flush=True)


def soup_of(pool: str, search: str, seed: int) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Held-out and test of the best single run and of the soup, and what the candidates cost."""
    name = f"{pool}-{search}-{seed}".replace(", ", "-").replace(" ", "_")
    words = [*POOLS[pool], *SEARCHES[search], f"demo_seed={seed}", f"results_dir={RESULTS}", f"name={name}"]
    command = [sys.executable, "-m", "soupkitchen", *words, "evaluation.cache=null"]
    subprocess.run(command, check=True, stdout=sys.stderr)
    table = pd.read_csv(RESULTS / name / "leaderboard.csv")
    heldout, test = (
        next(str(c) for c in table if str(c).startswith(split)) for split in ("heldout_", "test_")
    )
    trajectory = pd.read_csv(RESULTS / name / "trajectory.csv")
    candidates = trajectory[trajectory["stage"] == "merge"]
    cost = candidates["examples_scored"].sum() / candidates["examples_total"].max()
    single, soup = (
        (table[heldout].tolist()[row], table[test].tolist()[row])
        for row in (table["kind"].tolist().index(kind) for kind in ("single", "soup"))
    )
    return single, soup, float(cost)


def row(name: str, scores: list[tuple[float, float]], cost: float | None) -> str:
    """Accuracies in %, held-out / test."""
    mean = tuple(sum(column) / len(scores) for column in zip(*scores, strict=True))
    cells = [f"{100 * heldout:.1f} / {100 * test:.1f}" for heldout, test in (*scores, mean)]
    return f"| {name} | {' | '.join(cells)} | {'' if cost is None else f'{cost:.1f}'} |"


if __name__ == "__main__":
    main()
