#!/usr/bin/env python
"""Measures a whole greedy soup beside what people do today: the same pool, data, machine and decisions.

    python scripts/benchmark_peers.py                    (about 90 minutes; needs Linux and mergekit 0.1.5)
    python scripts/benchmark_peers.py --pools demo --methods linear --repeats 1
    python scripts/benchmark_peers.py --sweep            (a sweep of five methods beside five soups)

Pools: the demo's nine classifiers with 400 held-out texts; eight Llamas of 102 M parameters (`llama_pool.py`)
with 48 texts, from which nothing but time can be told; and of the size at which people work, 30 classifiers
that `careful_table.py` tunes (an hour) with 2,000 texts, and eight Llamas of 5 M with 1,000.

Soups are made, each in a process of its own, in turn, by soupkitchen's command (its control, report and proof
of what was saved included; nothing known beforehand), by the same with the running state in a file that has
no name (`runtime.max_memory`), by the same with less effort (`evaluation.effort`), and by the two of
`greedy_peers.py`: the paper's algorithm as plainly as it can be written, and `mergekit-yaml` with
transformers. All but those with less effort have to decide alike. Prints Markdown: the median of the repeats,
and the least and the most; read ratios, as machines are noisy. Memory is what processes have of their own (no
mapped files), sampled, of all that run at a time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import careful_table
import llama_pool
import pandas as pd
from greedy_peers import METHODS
from measuring import Taken, measure, spread

from soupkitchen.process import PARTS

SCRIPTS = Path(__file__).resolve().parent
WAYS = {
    "ours": "soupkitchen",
    "lean": "soupkitchen, state in files",
    "confident": "soupkitchen, confident",
    "frugal": "soupkitchen, frugal",
    "plain": "the paper's algorithm, plainly",
    "everyday": "mergekit-yaml, transformers",
}
MORE = {
    "ours": (),
    "lean": ("runtime.max_memory={cpu: 100MB}",),
    "confident": ("evaluation.effort=confident",),
    "frugal": ("evaluation.effort=frugal",),
}
"""Further words of our command."""
EFFORTS = ("confident", "frugal")
POOLS = ["demo", "llamas", "careful", "small-llamas"]
TEXTS = {"careful": 2000, "small-llamas": 1000}


@dataclass(frozen=True)
class Case:
    """A pool, and how it is scored."""

    folder: Path
    task: tuple[str, ...]
    size: int
    length: int


@dataclass(frozen=True)
class Measured:
    """One making of a soup.

    Attributes:
        told: decisions, score, examples that went through a model, bytes of weights read, bytes written
            before the soup.
    """

    told: Mapping[str, Any]
    taken: Taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--pools", nargs="+", choices=POOLS, default=POOLS[:2])
    parser.add_argument("--methods", nargs="+", choices=["linear", "ties"], default=["linear", "ties"])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--folder", type=Path, help="where the Llamas are made and kept (3.7 GB)")
    parser.add_argument("--sweep", action="store_true", help="measure a sweep of five methods instead")
    arguments = parser.parse_args()
    if "ours" not in arguments.ways:
        parser.error("--ways: ours is what the others are held against")
    with tempfile.TemporaryDirectory() as scratch:
        cases = {pool: case_of(pool, arguments.folder or Path(scratch)) for pool in arguments.pools}
        if arguments.sweep:
            sweep(cases, arguments.repeats, arguments.threads)
        else:
            compare(cases, arguments)


def compare(cases: Mapping[str, Case], arguments: argparse.Namespace) -> None:
    print(
        "| pool | method | way | wall, s | CPU, s | examples scored | weights read, GB | written before the "
        "soup, MB | GiB at most | score |\n|---|---|---|---|---|---|---|---|---|---|"
    )
    shares: list[str] = []
    for pool, case in cases.items():
        for method in arguments.methods:
            found: dict[str, list[Measured]] = {way: [] for way in arguments.ways}
            for _ in range(arguments.repeats):
                for way in arguments.ways:
                    found[way].append(measured(way, method, case, arguments.threads))
            check_alike({way: times for way, times in found.items() if way not in EFFORTS})
            for way, times in found.items():
                print(row(pool, method, way, times, found["ours"]), flush=True)
            shares.append(profile(pool, method, found["ours"][0].told["profile"]))
    print("\nWhere the time of soupkitchen's first run went, in %:\n")
    print("\n".join([f"| | {' | '.join(PARTS)} |", f"|---|{'---|' * len(PARTS)}", *shares]))


def profile(pool: str, method: str, told: Mapping[str, float]) -> str:
    return f"| {pool}, {method} | {' | '.join(f'{100 * told[part]:.1f}' for part in PARTS)} |"


def sweep(cases: Mapping[str, Case], repeats: int, threads: int) -> None:
    """A sweep of five methods by one command, beside a soup by each of them with mergekit."""
    print("| pool | repeat | soupkitchen: wall, CPU s | mergekit-yaml: wall, CPU s | times less: wall, CPU |")
    print("|---|---|---|---|---|")
    for pool, case in cases.items():
        for repeat in range(repeats):
            theirs = [measured("everyday", method, case, threads).taken for method in METHODS]
            with tempfile.TemporaryDirectory() as scratch:
                ours = cooked(",".join(METHODS), case, Path(scratch), threads, ["-m"])
            wall, cpu = (sum(getattr(one, what) for one in theirs) for what in ("wall", "cpu"))
            cells = [
                pool,
                repeat,
                f"{ours.wall:.1f}, {ours.cpu:.1f}",
                f"{wall:.1f}, {cpu:.1f}",
                f"{wall / ours.wall:.2f}, {cpu / ours.cpu:.2f}",
            ]
            print(f"| {' | '.join(map(str, cells))} |", flush=True)


def case_of(pool: str, folder: Path) -> Case:
    """The pool, made where it is not there; its data has the held-out split alone."""
    from soupkitchen import demo

    cache = Path(os.environ.get("SOUPKITCHEN_CACHE") or "~/.cache/soupkitchen").expanduser()
    cooked = demo.cook(cache, 0)
    task: tuple[str, ...]
    if pool == "llamas":
        task = ("task=language_modeling", "task.max_length=256")
        return Case(llama_pool.make(folder / "llamas", cooked / "data"), task, 8, 256)
    if pool == "small-llamas":
        task = ("task=language_modeling", "task.max_length=256")
        made = llama_pool.make(folder / pool, cooked / "data", layers=4, width=256, texts=TEXTS[pool])
        return Case(made, task, 32, 256)
    if pool == "careful":
        careful_table.train(folder / pool, 0, {"validation": TEXTS[pool]})
        length = careful_table.LENGTH
        task = ("task=text_classification", f"task.max_length={length}", "task.data.test=null")
        return Case(folder / pool, task, 32, length)
    own = folder / "demo"
    (own / "data").mkdir(parents=True, exist_ok=True)
    for name in ("runs", "base", "data/validation.csv"):
        if not (own / name).exists():
            (own / name).symlink_to(cooked / name)
    return Case(own, ("task=text_classification", "task.max_length=16"), 32, 16)


def measured(way: str, method: str, case: Case, threads: int) -> Measured:
    """Makes the soup in a process of its own, which knows nothing of earlier ones."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        if way in MORE:
            taken = cooked(method, case, out, threads, MORE[way])
            return Measured(of_run(out), taken)
        script = str(SCRIPTS / "greedy_peers.py")
        command = [sys.executable, script, way, method, str(case.folder), scratch]
        command += [f"--threads={threads}", f"--batch-size={case.size}", f"--max-length={case.length}"]
        taken = measure(command, threads)
        return Measured(json.loads((out / "told.json").read_text()), taken)


def cooked(method: str, case: Case, out: Path, threads: int, more: Sequence[str] = ()) -> Taken:
    """Has soupkitchen make the soup, with a cache of its own."""
    words = [
        f"pool.path={case.folder / 'runs'}",
        *([] if method == "linear" else [f"pool.base={case.folder / 'base'}"]),
        *case.task,
        f"task.data.path={case.folder / 'data'}",
        f"method={method}",
        f"runtime.threads={threads}",
        f"runtime.batch_size={case.size}",
        "runtime.profile=true",
        f"results_dir={out / 'results'}",
        *(() if "," in method else ("name=x",)),
        *more,
    ]
    command = [sys.executable, "-m", "soupkitchen", *words]
    return measure(command, threads, {"SOUPKITCHEN_CACHE": str(out / "cache")})


def of_run(out: Path) -> dict[str, Any]:
    """The same of a run of ours, by its tables."""
    run = out / "results" / "x"
    steps = pd.read_csv(run / "trajectory.csv")
    tried = steps[(steps["stage"] == "merge") & (steps["decision"] != "start")]
    pairs = zip(tried["candidate"], tried["decision"], strict=True)
    board = pd.read_csv(run / "leaderboard.csv")
    (metric,) = [name for name in board.columns if name.startswith("heldout_")]
    files = [file for file in out.rglob("*") if file.is_file() and run / "soup" not in file.parents]
    profile = pd.read_csv(run / "profile.csv").set_index("part")
    return {
        "decisions": [[name, what == "keep"] for name, what in pairs],
        "score": float(board.loc[board["model"] == "soup", metric].iloc[0]),
        "examples": int(steps["examples_scored"].sum()),
        "read": int(profile["bytes"].sum()),
        "written": sum(file.stat().st_size for file in files),
        "profile": profile["share"].to_dict(),
    }


def check_alike(found: Mapping[str, Sequence[Measured]]) -> None:
    """Has the ways agree on every candidate: else their times say nothing."""
    ours = found["ours"][0].told
    for way, times in found.items():
        for one in times:
            near = abs(one.told["score"] - ours["score"]) <= 1e-4 * abs(ours["score"])
            if one.told["decisions"] != ours["decisions"] or not near:
                raise SystemExit(f"{WAYS[way]} decides otherwise: {one.told} and not {ours}")


def row(pool: str, method: str, way: str, times: Sequence[Measured], ours: Sequence[Measured]) -> str:
    wall, cpu = ([getattr(one.taken, what) for one in times] for what in ("wall", "cpu"))
    ratio = median(cpu) / median(one.taken.cpu for one in ours)
    told, memory = times[0].told, median(one.taken.memory for one in times)
    of_ours = "" if way == "ours" else f", {ratio:.2f} × ours"
    cells = [
        pool,
        method,
        WAYS[way],
        spread(wall),
        spread(cpu) + of_ours,
        f"{told['examples']:,}",
        f"{told['read'] / 1e9:.2f}",
        f"{told['written'] / 1e6:.1f}",
        f"{memory:.2f}",
        f"{told['score']:.4f}",
    ]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
