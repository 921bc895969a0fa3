#!/usr/bin/env python
"""Counts the rounds of a greedy search with W workers, by trajectories of real runs, as Markdown.

    python scripts/rounds_table.py results/*/trajectory.csv

With W workers the next W candidates are scored at once, and the first in order that is kept is taken; what
was scored after it is thrown away. So a round ends with a candidate that is kept, or after W. Beside the
rounds: how many scorings were thrown away, in % of all.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("trajectories", nargs="+", type=Path)
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    given = parser.parse_args()
    print(f"| candidates | kept | {' | '.join(f'W = {w}' for w in given.workers)} |")
    print(f"|{'---|' * (len(given.workers) + 2)}")
    for decisions in filter(None, map(decisions_of, given.trajectories)):
        cells = [shown(decisions, workers) for workers in given.workers]
        print(f"| {len(decisions)} | {sum(decisions)} | {' | '.join(cells)} |")


def decisions_of(file: Path) -> list[bool]:
    """Reads for each candidate, in order, if it was kept."""
    table = pd.read_csv(file)
    candidates = table[(table["stage"] == "merge") & table["decision"].isin(["keep", "discard"])]
    return [decision == "keep" for decision in candidates["decision"]]


def shown(decisions: Sequence[bool], workers: int) -> str:
    rounds, scored = rounds_of(decisions, workers)
    return f"{rounds} ({100 * (scored - len(decisions)) / scored:.0f} %)"


def rounds_of(decisions: Sequence[bool], workers: int) -> tuple[int, int]:
    """Counts rounds, and scored candidates with those that are thrown away."""
    rounds = scored = start = 0
    while start < len(decisions):
        some = list(decisions[start : start + workers])
        rounds, scored = rounds + 1, scored + len(some)
        start += some.index(True) + 1 if True in some else len(some)
    return rounds, scored


if __name__ == "__main__":
    main()
