#!/usr/bin/env python
"""Measures a whole greedy soup beside what people do today, on the demo's pool.

    python scripts/benchmark_peers.py                    (some 20 minutes; needs mergekit 0.1.5)
    python scripts/benchmark_peers.py --methods linear --repeats 1

Three ways make the soup of the same nine runs on the same 400 held-out texts, each in a process of its own,
in turn: soupkitchen's command as it comes (its controls, test data, report, and proof of what was saved
included; nothing known beforehand), and the two of `greedy_peers.py`: the paper's algorithm as plainly as it
can be written, and `mergekit-yaml` with transformers. Their decisions have to be the same. Prints Markdown:
the median of the repeats, and the least and the most; read ratios, as machines are noisy.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd

SCRIPTS = Path(__file__).resolve().parent
WAYS = {
    "ours": "soupkitchen",
    "plain": "the paper's algorithm, plainly",
    "everyday": "mergekit-yaml, transformers",
}


@dataclass(frozen=True)
class Measured:
    """One making of a soup.

    Attributes:
        told: decisions, score, examples that went through a model, bytes written before the soup.
        wall, cpu: seconds.
        memory: GiB at most.
    """

    told: Mapping[str, Any]
    wall: float
    cpu: float
    memory: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=["linear", "ties"], default=["linear", "ties"])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--seed", type=int, default=0, help="of the demo's pool")
    arguments = parser.parse_args()
    from soupkitchen import demo

    cache = Path(os.environ.get("SOUPKITCHEN_CACHE") or "~/.cache/soupkitchen").expanduser()
    folder = demo.cook(cache, arguments.seed)
    print("| method | way | wall, s | CPU, s | examples scored | GiB at most | MB written before the soup |")
    print("|---|---|---|---|---|---|---|")
    for method in arguments.methods:
        found: dict[str, list[Measured]] = {way: [] for way in WAYS}
        for _ in range(arguments.repeats):
            for way in WAYS:
                found[way].append(measured(way, method, folder, arguments.threads))
        check_alike(found)
        for way, times in found.items():
            print(row(method, way, times, found["ours"]), flush=True)


def measured(way: str, method: str, folder: Path, threads: int) -> Measured:
    """Makes the soup in a process of its own, which knows nothing of earlier ones."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        if way == "ours":
            command = [sys.executable, "-m", "soupkitchen", *words(method, folder, out, threads)]
        else:
            script = str(SCRIPTS / "greedy_peers.py")
            command = [sys.executable, script, way, method, str(folder), scratch, str(threads)]
        started = time.perf_counter()
        environment = {
            **os.environ,
            "SOUPKITCHEN_CACHE": str(out / "cache"),
            "OMP_NUM_THREADS": str(threads),
            "HF_HUB_OFFLINE": "1",
        }
        with (out / "said").open("wb") as said:
            process = subprocess.Popen(command, stdout=said, stderr=said, env=environment)
            _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed:\n{(out / 'said').read_text()[-2000:]}")
        wall, cpu = time.perf_counter() - started, usage.ru_utime + usage.ru_stime
        told = of_run(out / "results" / "x") if way == "ours" else json.loads((out / "told.json").read_text())
        unit = 1024 if sys.platform != "darwin" else 1
        return Measured(told, wall, cpu, usage.ru_maxrss * unit / 2**30)


def words(method: str, folder: Path, out: Path, threads: int) -> list[str]:
    base = [f"pool.base={folder / 'base'}"] if method == "ties" else []
    return [
        f"pool.path={folder / 'runs'}",
        *base,
        "task=text_classification",
        f"task.data.path={folder / 'data'}",
        "task.max_length=16",
        f"method={method}",
        f"runtime.threads={threads}",
        f"results_dir={out / 'results'}",
        "name=x",
    ]


def of_run(run: Path) -> dict[str, Any]:
    """The same of a run of ours, by its table."""
    steps = pd.read_csv(run / "trajectory.csv")
    tried = steps[(steps["stage"] == "merge") & (steps["decision"] != "start")]
    pairs = zip(tried["candidate"], tried["decision"], strict=True)
    board = pd.read_csv(run / "leaderboard.csv")
    kept = [file for file in run.rglob("*") if file.is_file() and "soup" not in file.parent.parts[-1:]]
    return {
        "decisions": [[name, what == "keep"] for name, what in pairs],
        "score": float(board.loc[board["model"] == "soup", "heldout_accuracy"].iloc[0]),
        "examples": int(steps["examples_scored"].sum()),
        "written": sum(file.stat().st_size for file in kept),
    }


def check_alike(found: Mapping[str, Sequence[Measured]]) -> None:
    """Has the ways agree on every candidate: else their times say nothing."""
    for way, times in found.items():
        for one in times:
            ours = found["ours"][0].told
            if one.told["decisions"] != ours["decisions"] or abs(one.told["score"] - ours["score"]) > 1e-6:
                raise SystemExit(f"{WAYS[way]} decides otherwise: {one.told} and not {ours}")


def row(method: str, way: str, times: Sequence[Measured], ours: Sequence[Measured]) -> str:
    wall, cpu = ([getattr(one, what) for one in times] for what in ("wall", "cpu"))
    ratio = median(cpu) / median(one.cpu for one in ours)
    told, memory = times[0].told, median(one.memory for one in times)
    of_ours = "" if way == "ours" else f" ({ratio:.1f} × ours)"
    return (
        f"| {method} | {WAYS[way]} | {spread(wall)} | {spread(cpu)}{of_ours} | {told['examples']:,} | "
        f"{memory:.2f} | {told['written'] / 1e6:.1f} |"
    )


def spread(values: Sequence[float]) -> str:
    middle = f"{median(values):.1f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
