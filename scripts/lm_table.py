#!/usr/bin/env python
"""Measures what soups of the pool `lm` gain: greedy, greedy with TIES, and evolve, over three seeds.

    python scripts/lm_table.py    (half an hour)

Each seed has a base, texts and runs of its own. Prints Markdown: perplexity of completions, held-out / test.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import pandas as pd
from gains import cook, head, line

WAYS = {
    "greedy": (),
    "greedy, `ties`": ("method=ties",),
    "`evolve`, 40 mixtures": ("search=evolve", "search.evaluations=40"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    given = parser.parse_args()
    print(head("seed", "best single", *WAYS))
    for seed in given.seeds:
        print(row(seed), flush=True)


def row(seed: int) -> str:
    cells: list[str] = []
    with tempfile.TemporaryDirectory() as results:
        for way in WAYS.values():
            cook("pool=lm", f"demo_seed={seed}", "name=x", "overwrite=true", f"results_dir={results}", *way)
            board = pd.read_csv(Path(results) / "x" / "leaderboard.csv")
            best = board[board["kind"] == "single"].sort_values("heldout_perplexity").iloc[0]
            soup = board[board["model"] == "soup"].iloc[0]
            if not cells:
                cells.append(_both(best))
            cells.append(f"{_both(soup)} ({soup['ingredients'].count(';') + 1})")
    return line(seed, *cells)


def _both(model: pd.Series) -> str:
    return f"{model['heldout_perplexity']:.1f} / {model['test_perplexity']:.1f}"


if __name__ == "__main__":
    main()
