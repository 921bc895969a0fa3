"""Rows of Markdown tables of what soups gain: over the best run, and beside the ensemble of ingredients."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import softmax
from scipy.stats import bootstrap

Answers = tuple[np.ndarray, np.ndarray]
"""Answers on a split: logits (n, labels) and the numbers of the right labels (n,)."""

COLUMNS = (
    "seed", "runs", "", "best single", "uniform", "greedy soup", "of", "their ensemble",
    "soup − best, on test",
)  # fmt: skip


def cook(*words: str, environment: Mapping[str, str] | None = None) -> None:
    """Runs our command; `environment` is set for it."""
    command = [sys.executable, "-m", "soupkitchen", *words]
    subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, **(environment or {})})


def line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def head(*columns: object) -> str:
    return f"{line(*columns)}\n|{'---|' * len(columns)}"


def percent(heldout: float, test: float) -> str:
    """Two accuracies in %, held-out / test."""
    return f"{100 * heldout:.1f} / {100 * test:.1f}"


def arguments(told: str | None) -> argparse.Namespace:
    """`what`, which is train or table, and `folder`; `told` is what the script says of itself."""
    parser = argparse.ArgumentParser(description=told, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "table"])
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are kept")
    return parser.parse_args()


def row(
    folder: Path,
    told: object,
    words: Mapping[str, Any],
    answers: Callable[[Path, Path], list[Answers]],
    environment: Mapping[str, str] | None = None,
) -> str:
    """Makes the greedy soup of `folder`/runs by our command, and tells what it gains.

    Args:
        told: the seed, and what else the row is about.
        words: what the command is told, as the pool and the task.
        answers: what a run, or the saved soup, answers on held-out and on test of `folder`/data, without us.
        environment: what is set for the command.
    """
    words = {"results_dir": folder / "results", "name": "careful", **words}
    cook(*(f"{key}={value}" for key, value in words.items()), environment=environment)
    results = Path(words["results_dir"]) / words["name"]
    board = pd.read_csv(results / "leaderboard.csv", keep_default_na=False)
    singles = board[board["kind"] == "single"]
    best = singles.sort_values("heldout_accuracy", kind="stable").iloc[-1]
    uniform, soup = (board[board["model"] == name].iloc[0] for name in ("uniform", "soup"))
    kept = soup["ingredients"].split(";")
    alone = {name: answers(_run(folder, name), folder / "data") for name in {best["model"], *kept}}
    merged = answers(_saved(results, _run(folder, kept[0])), folder / "data")
    together = [_together([alone[name][split] for name in kept]) for split in range(2)]
    return line(
        told,
        len(singles),
        "held-out / test",
        *map(cell, (best, uniform, soup)),
        len(kept),
        " / ".join(f"{100 * part.mean():.1f}" for part in together),
        paired(_right(alone[best["model"]][1]), _right(merged[1])),
    )


def cell(model: Mapping[Hashable, Any] | pd.Series) -> str:
    """The held-out and the test accuracy in a row of a leaderboard, in %."""
    return percent(float(model["heldout_accuracy"]), float(model["test_accuracy"]))


def paired(before: np.ndarray, after: np.ndarray) -> str:
    """The mean gain in points, and its 95 % bootstrap interval, of scores of the same examples."""
    gain = after - before
    interval = bootstrap((gain,), np.mean, method="percentile", rng=0, batch=100).confidence_interval
    return f"{100 * gain.mean():+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def _run(folder: Path, name: str) -> Path:
    run = folder / "runs" / name
    return run if run.exists() else run.with_name(f"{name}.pt")


def _saved(results: Path, like: Path) -> Path:
    """The soup: a folder or a file, as `like` is."""
    return results / "soup" / (f"model{like.suffix}" if like.is_file() else "")


def _right(answers: Answers) -> np.ndarray:
    logits, labels = answers
    return (logits.argmax(-1) == labels).astype(float)


def _together(answers: list[Answers]) -> np.ndarray:
    """Marks the examples that the mean of several models' probabilities gets right."""
    return _right((np.mean([softmax(logits, axis=-1) for logits, _ in answers], axis=0), answers[0][1]))
