#!/usr/bin/env python
"""Reproduces the docs' tables of results on the demo's runs, as Markdown. Finished runs are not repeated.

    python scripts/demo_table.py                          (about 8 minutes on two cores)
    python scripts/demo_table.py methods                  (about 40 seconds a row)
    python scripts/demo_table.py two_tasks                (about 4 minutes)
    python scripts/demo_table.py searches --seeds 0 1     (about 20 minutes a seed)

The demo over several seeds, of which each draws other texts and fine-tunes another pool: the difference
between the soup and the best single run on test is paired, a bootstrap over the test examples. Each merge
method at its defaults, and DARE at drop rates 0.5, 0.9 and 0.99, which is the claim of the article that
soupkitchen grew from: that most of what fine-tuning changed can be dropped. Two tasks in one model, where
methods on task vectors choose λ of three values. Each search on the demo's pool (nine runs) and on that of
two tasks (six): the cost counts the examples that were scored for candidates, in evaluations of all of
held-out, and nothing is taken from the cache of evaluations.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import gains
import numpy as np
import pandas as pd
from gains import cook, head, line, percent
from omegaconf import OmegaConf

from soupkitchen import metrics
from soupkitchen.checkpoints import Checkpoint
from soupkitchen.evaluation import Runtime, evaluator_of, load_splits
from soupkitchen.options import files
from soupkitchen.tasks import Data, Several, TextClassification

RESULTS = Path("results")
DENSITIES = (0.5, 0.1, 0.01)
SCALES = "method.scale=[0.4,0.7,1.0]"
POOLS = {"demo": "pool=demo", "two_tasks": "experiment=two_tasks"}
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
    parser.add_argument("what", nargs="?", choices=TABLES, default="seeds")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2], help="of seeds and searches")
    given = parser.parse_args()
    for row in TABLES[given.what](given.seeds):
        print(row, flush=True)


def board(folder: Path) -> pd.DataFrame:
    """The leaderboard of a run, best first."""
    return pd.read_csv(folder / "leaderboard.csv")


def first(table: pd.DataFrame, kind: str) -> pd.Series:
    return table[table["kind"] == kind].iloc[0]


def size(soup: pd.Series) -> int:
    return 1 + str(soup["ingredients"]).count(";")


def seeds_table(seeds: Sequence[int]) -> Iterator[str]:
    cook("-m", f"demo_seed={','.join(map(str, seeds))}", f"results_dir={RESULTS}")
    yield head(
        "seed", "best single", "uniform", "uniform, same size", "greedy soup", "of", "soup − best, on test"
    )
    for seed in seeds:
        folder = RESULTS / f"demo-linear-greedy+demo_seed={seed}"
        models = board(folder)
        best, soup = first(models, "single"), first(models, "soup")
        uniforms = [model for _, model in models[models["kind"] == "uniform"].iterrows()]
        uniform, same_size = sorted(uniforms, key=lambda model: len(model["model"]))
        cache = Path(OmegaConf.load(folder / "config.yaml").cache_dir).expanduser()
        cooked = cache / "demo" / f"seed-{seed}"
        before, after = (
            right(run, cooked / "data") for run in (cooked / "runs" / best["model"], folder / "soup")
        )
        cells = map(gains.cell, (best, uniform, same_size, soup))
        of = f"{size(soup)} of {(models['kind'] == 'single').sum()}"
        yield line(seed, *cells, of, gains.paired(before, after))


def right(model: Path, data: Path) -> np.ndarray:
    """Scores `model` on each test example: 1 if right, else 0."""
    tasks = Several.of(TextClassification(Data(str(data)), metrics.load("accuracy"), max_length=16))
    evaluator = evaluator_of(Checkpoint.open(model), tasks, load_splits(tasks), Runtime())
    (part,) = evaluator.score("test").parts.values()
    assert part.values is not None
    return part.values


def methods_table(_: Sequence[int]) -> Iterator[str]:
    shares = ",".join(map(str, DENSITIES))
    cook("-m", f"method={','.join(files.names('method'))}", f"results_dir={RESULTS}")
    dare = ("method=dare_linear,dare_ties", f"method.sparsifier.density={shares}")
    cook("-m", *dare, f"results_dir={RESULTS}")
    yield head("method", "greedy soup", "of", "uniform")
    rows = {method: f"demo-{method}-greedy" for method in files.names("method")}
    for method in ("dare_linear", "dare_ties"):
        for density in DENSITIES:
            name = f"demo-{method}-greedy+method.sparsifier.density={density}"
            rows[f"{method}, p = {1 - density:g}"] = name
    for label, name in rows.items():
        table = board(RESULTS / name)
        soup, uniform = first(table, "soup"), table[table["model"] == "uniform"].iloc[0]
        yield line(label, gains.cell(soup), size(soup), gains.cell(uniform))


def two_tasks_table(_: Sequence[int]) -> Iterator[str]:
    tasks = ("technical", "other", "mean")
    yield head("model", *tasks)
    for method in ("linear", "task_arithmetic", "ties", "dare_ties"):
        name, scales = f"two_tasks-{method}", [SCALES] if method != "linear" else []
        cook("experiment=two_tasks", f"method={method}", f"results_dir={RESULTS}", f"name={name}", *scales)
        table = board(RESULTS / name)
        soup, uniform = first(table, "soup"), table[table["model"] == "uniform"].iloc[0]
        rows = {"best single run": first(table, "single")} if method == "linear" else {}
        rows |= {f"{method}, greedy, {size(soup)} of 6": soup, f"{method}, uniform": uniform}
        for label, model in rows.items():
            yield line(label, *(percent(model[f"heldout_{task}"], model[f"test_{task}"]) for task in tasks))


def searches_table(seeds: Sequence[int]) -> Iterator[str]:
    for pool in POOLS:
        yield f"\n{pool}\n"
        yield head("search", *(f"seed {seed}" for seed in seeds), "mean", "cost")
        for search in SEARCHES:
            runs = [searched(pool, search, seed) for seed in seeds]
            cost = sum(cost for _, _, cost in runs) / len(runs)
            if search == "greedy":
                yield scores("best single run", [single for single, _, _ in runs], "")
            yield scores(search, [soup for _, soup, _ in runs], f"{cost:.1f}")


def searched(pool: str, search: str, seed: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Held-out and test of the best single run and of the soup, and what the candidates cost."""
    name = f"{pool}-{search}-{seed}".replace(", ", "-").replace(" ", "_")
    folder = RESULTS / "searches" / name
    words = [POOLS[pool], *SEARCHES[search], f"demo_seed={seed}", f"results_dir={folder.parent}"]
    cook(*words, f"name={name}", "evaluation.cache=null")
    table, trajectory = board(folder), pd.read_csv(folder / "trajectory.csv")
    columns = [next(c for c in map(str, table) if c.startswith(split)) for split in ("heldout_", "test_")]
    candidates = trajectory[trajectory["stage"] == "merge"]
    cost = candidates["examples_scored"].sum() / candidates["examples_total"].max()
    single, soup = (first(table, kind)[columns].to_numpy(float) for kind in ("single", "soup"))
    return single, soup, float(cost)


def scores(label: str, found: Sequence[np.ndarray], cost: str) -> str:
    return line(label, *(percent(*pair) for pair in (*found, np.mean(found, axis=0))), cost)


TABLES = {
    "seeds": seeds_table,
    "methods": methods_table,
    "two_tasks": two_tasks_table,
    "searches": searches_table,
}


if __name__ == "__main__":
    main()
