"""Shows what a pool holds, before anything is scored: `python -m soupkitchen.inspect runs/`.

A row for each run: model, size, dtype, distance to the base, and agreement with the other runs. A run that is
much farther away, or has another direction, seldom helps a soup.

    python -m soupkitchen.inspect 'runs/*' --base models/bert --csv pool.csv
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from soupkitchen.cli.startup import parser_of, small_command
from soupkitchen.console import check_place, printable, warn_on_stderr
from soupkitchen.errors import CheckpointError, SaveError
from soupkitchen.records import write_csv
from soupkitchen.records.terminal import print_table

if TYPE_CHECKING:
    from soupkitchen.checkpoints import Checkpoint, Pool

FAR = 3.0
"""A run is far off from this many times the median distance to the base."""
APART = 0.1
"""Below this mean cosine a run has a direction of its own."""


def inspect(pool: Pool) -> pd.DataFrame:
    """A table of the runs of `pool`, in pool order.

    Columns: run, architecture, adapter, parameters, dtype, megabytes, base, then known scores, and

    - `distance`: ‖θ − θ₀‖ / ‖θ₀‖ over tensors that runs and base share; without a base, from the runs' mean;
    - `mean_cosine`: with the other runs' nonzero task vectors; empty without a base;
    - `guess`: a verdict on these two in words.
    """
    from soupkitchen.soup.mixer import task_vector_gram

    gram, origin = task_vector_gram(pool.runs, pool.base)
    lengths = np.sqrt(np.diag(gram))
    with np.errstate(invalid="ignore", divide="ignore"):
        cosines = gram / np.outer(lengths, lengths)
    np.fill_diagonal(cosines, np.nan)
    apart = np.isfinite(cosines)  # a run that equals its base goes no way
    others = np.nansum(cosines, 1) / np.where(apart.any(1), apart.sum(1), np.nan)
    median = float(np.median(lengths[lengths > 0])) if lengths.any() else 0.0
    rows = []
    for number, run in enumerate(pool):
        mean_cosine = float(others[number]) if pool.base and apart[number].any() else None
        row = {**_about(run, pool), **known_scores(run, pool)}
        row["distance"] = float(lengths[number] / origin) if origin else float("nan")
        row["mean_cosine"] = mean_cosine
        row["guess"] = _guess(lengths[number], median, mean_cosine)
        rows.append(row)
    return pd.DataFrame(rows)


def known_scores(run: Checkpoint, pool: Pool) -> dict[str, float]:
    from soupkitchen.checkpoints.folders import read_json

    scores = dict(pool.scores.get(run.name, {}))
    try:
        state = read_json(run.path / "trainer_state.json")
    except CheckpointError:
        return scores
    history = state.get("log_history")
    entries = [entry for entry in history if isinstance(entry, dict)] if isinstance(history, list) else []
    for entry in entries:  # the last evaluation is that of the checkpoint
        for key, value in entry.items():
            is_score = key.startswith("eval_") and key.endswith(("loss", "accuracy", "f1"))
            if is_score and isinstance(value, (int, float)):
                scores[key] = float(value)
    return scores


def _about(run: Checkpoint, pool: Pool) -> dict[str, object]:
    from soupkitchen.checkpoints.checkpoint import SUFFIXES

    infos = [info for info in run.header.values() if info.torch_dtype is not None]
    dtypes = sorted({info.dtype for info in infos if info.is_floating_point})
    inside = [run.path] if run.path.is_file() else run.path.iterdir()
    files = [file for file in inside if file.is_file() and file.name.endswith(SUFFIXES)]
    architectures = run.config.get("architectures") or [run.config.get("model_type", "?")]
    return {
        "run": run.name,
        "architecture": architectures[0],
        "adapter": run.adapted is not None,
        "parameters": sum(info.elements for info in infos),
        "dtype": "+".join(dtypes),
        "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 1),
        "base": str(pool.base.path) if pool.base else None,
    }


def _guess(length: float, median: float, mean_cosine: float | None) -> str:
    if length > FAR * median:
        return "far off: likely to hurt"
    if length == 0:
        return "is the base itself"
    if mean_cosine is not None and mean_cosine < APART:
        return "goes its own way: try last"
    return "merges well"


@small_command()
def main(arguments: Sequence[str] | None = None) -> None:
    """Prints the table; exits with 1 and a message if the pool cannot be read.

    The working directory is checked first: torch ends a process if it was removed.
    """
    check_place()
    from soupkitchen.checkpoints import find_pool

    parser = parser_of("inspect", __doc__)
    parser.add_argument("pool", nargs="+", help="a folder of runs, a glob, a list of runs, a hub name")
    parser.add_argument("--base", help="the model that the runs were fine-tuned from")
    parser.add_argument("--exclude", nargs="*", default=[], help="names of runs to leave out")
    parser.add_argument("--checkpoints", choices=["best", "last", "all"], help="of a Trainer's folders")
    parser.add_argument("--key", help="of files with several state dicts, which of them")
    parser.add_argument("--csv", type=Path, help="also write the table to this file")
    given = parser.parse_args(arguments)
    warn_on_stderr()
    pool = find_pool(
        given.pool,
        given.exclude,
        given.base,
        checkpoints=given.checkpoints,
        on_incompatible="skip",
        key=given.key,
    )
    table = inspect(pool)
    print_table(table.drop(columns="base").dropna(axis=1, how="all"))
    if pool.base is None:
        print("no base model is known (--base): distances are from the mean of the runs")
    else:
        print(f"base: {printable(str(pool.base.path))}")
    if given.csv:
        try:
            write_csv(given.csv, table)
        except OSError as error:
            raise SaveError(
                f"{given.csv} cannot be written ({error.strerror}); name another file as --csv"
            ) from error


if __name__ == "__main__":
    main()
