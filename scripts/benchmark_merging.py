#!/usr/bin/env python
"""Measures merging: what a candidate costs as the soup grows, and how we compare with mergekit.

    python scripts/benchmark_merging.py growth                      (1 minute)
    python scripts/benchmark_merging.py reading --millions 100      (1 minute)
    python scripts/benchmark_merging.py mergekit --millions 100     (some minutes; needs mergekit 0.1.5)

`growth` times the tasting of one candidate at soup sizes 2 and 32, for each method. `reading`
sets the merging of five checkpoints beside the plainest torch loop that reads and sums them, and beside
the floor: each byte of the runs read once, and of the merged float32 weights written once, at the speed
at which torch copies. `mergekit` makes a base and five bfloat16 checkpoints of a Llama of about the size
asked for, which differ from it by about a hundredth, and merges them with `mergekit-yaml` and with us
(`merge_checkpoints.py`), each in a process of its own that ends with a loadable model on disk. CPU seconds
are the steadier figure on a busy machine. All print Markdown; read ratios, not seconds.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import Process
from pathlib import Path
from typing import Any

import torch
import yaml
from measuring import measure
from merge_checkpoints import COMPARED
from safetensors.torch import load_file, save_file

from soupkitchen.checkpoints import Checkpoint, find_pool
from soupkitchen.merging import MergeMethod
from soupkitchen.soup import Soup


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["growth", "reading", "mergekit"])
    parser.add_argument("--millions", type=int, default=100, help="parameters of each checkpoint")
    parser.add_argument("--folder", type=Path, help="where checkpoints are made and kept")
    parser.add_argument("--methods", nargs="+", choices=list(COMPARED), default=list(COMPARED))
    parser.add_argument("--change", type=float, default=0.0002, help="of runs, where weights have 0.02")
    parser.add_argument("--repeats", type=int, default=1, help="of each merge; the fastest counts")
    arguments = parser.parse_args()
    if arguments.what == "growth":
        growth()
    else:
        with tempfile.TemporaryDirectory() as scratch:
            folder = arguments.folder or Path(scratch)
            # in a process of its own, as the peak memory of a process is handed down to those that it starts
            making = Process(target=make_checkpoints, args=(folder, arguments.millions, arguments.change))
            making.start()
            making.join()
            if arguments.what == "reading":
                reading(folder)
            else:
                compare(folder, arguments.millions, arguments.methods, arguments.repeats)


def growth(elements: int = 4_000_000, repeats: int = 30) -> None:
    """Best of `repeats` timings of one candidate's tasting, at k = 2 and k = 32, taken in turn."""
    from soupkitchen.options import files
    from soupkitchen.options.building import build

    torch.manual_seed(0)
    print("| method | k = 2, ms | k = 32, ms | ratio |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        runs = [tensors_on_disk(Path(folder) / f"run{i}", elements) for i in range(5)]
        base, *pool = runs
        for file in sorted((files.folder("conf") / "method").glob("*.yaml")):
            method = build(files.written(file))
            if not isinstance(method, MergeMethod):
                continue
            soups = {k: soup_of(method, base, pool, k - 1) for k in (2, 32)}
            times: dict[int, list[float]] = {k: [] for k in soups}
            for _ in range(repeats):
                for k, soup in soups.items():
                    started = time.perf_counter()
                    for _name, _tensor in soup.taste(pool[0]):
                        pass
                    times[k].append(time.perf_counter() - started)
            small, large = (1000 * min(times[k]) for k in (2, 32))
            print(f"| {file.stem} | {small:.0f} | {large:.0f} | {large / small:.2f} |", flush=True)


def tensors_on_disk(folder: Path, elements: int) -> Checkpoint:
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"weight": torch.randn(elements // 1000, 1000)}, folder / "model.safetensors")
    return Checkpoint.open(folder)


def soup_of(method: Any, base: Checkpoint, pool: list[Checkpoint], size: int) -> Soup:
    soup = Soup(method, base=base)
    for number in range(size):
        soup.keep(pool[number % len(pool)])
    return soup


def compare(folder: Path, millions: int, methods: Sequence[str], repeats: int) -> None:
    """The fastest of `repeats` merges by each tool, taken in turn."""
    print(f"Five bfloat16 checkpoints of {millions} M parameters, {os.cpu_count()} cores.\n")
    print("| method | ours: s, CPU s, GiB | mergekit: s, CPU s, GiB | times less: time, CPU, memory |")
    print("|---|---|---|---|")
    this = [sys.executable, str(Path(__file__).with_name("merge_checkpoints.py")), str(folder)]
    tool = str(Path(sys.executable).parent / "mergekit-yaml")
    for method in methods:
        config = folder / f"{method}.yaml"
        config.write_text(yaml.safe_dump(recipe(folder, method)))
        ours: list[tuple[float, float, float]] = []
        theirs: list[tuple[float, float, float]] = []
        for _ in range(repeats):
            for taken, command in (
                (ours, [*this, method]),
                (theirs, [tool, str(config), str(folder / "theirs")]),
            ):
                for output in ("ours", "theirs"):
                    shutil.rmtree(folder / output, ignore_errors=True)
                warm(folder)
                spent = measure(command, threads=None)
                taken.append((spent.wall, spent.cpu, spent.peak))
        ratios = [b / a for a, b in zip(min(ours), min(theirs), strict=True)]
        print(f"| {method} | {cells(min(ours))} | {cells(min(theirs))} | {cells(ratios)} |", flush=True)


def reading(folder: Path, repeats: int = 5) -> None:
    """Best of `repeats`, taken in turn, of merging in memory and of reading and summing."""
    pool = find_pool(str(folder / "runs"), base=str(folder / "base"))
    methods = {name: method for name, (method, _) in COMPARED.items()}
    times: dict[str, list[float]] = {}
    for _ in range(repeats):
        started = time.perf_counter()
        plain_sum(pool.runs)
        times.setdefault("plain torch loop", []).append(time.perf_counter() - started)
        for name, method in methods.items():
            started = time.perf_counter()
            for _name, _tensor in Soup(method, base=pool.base).blend(pool.runs):
                pass
            times.setdefault(name, []).append(time.perf_counter() - started)
    print("| | s | times the loop | times linear |")
    print("|---|---|---|---|")
    times["floor"] = [floor(pool.runs)]
    for name, taken in times.items():
        loop, linear = min(times["plain torch loop"]), min(times["linear"])
        print(f"| {name} | {min(taken):.2f} | {min(taken) / loop:.2f} | {min(taken) / linear:.2f} |")


def floor(runs: Sequence[Checkpoint]) -> float:
    """Seconds for reading the runs' bytes once, and writing as many float32 numbers as a model has."""
    read = sum(info.nbytes for run in runs for info in run.header.values())
    written = sum(4 * info.elements for info in runs[0].header.values())
    source = torch.ones(1 << 28)
    target = torch.empty_like(source)
    taken = []
    for _ in range(5):
        started = time.perf_counter()
        target.copy_(source)
        taken.append(time.perf_counter() - started)
    return (read + written) / (2 * source.nbytes / min(taken))


def plain_sum(runs: Sequence[Checkpoint]) -> dict[str, torch.Tensor]:
    total: dict[str, torch.Tensor] = {}
    for run in runs:
        for file in sorted(run.path.glob("*.safetensors")):
            for name, tensor in load_file(file).items():
                total[name] = total[name] + tensor.float() if name in total else tensor.float()
    return total


def warm(folder: Path) -> None:
    """Reads the checkpoints once, so that both tools find them in the page cache; writes out what is due."""
    os.sync()
    for file in sorted(folder.glob("base/*.safetensors")) + sorted(folder.glob("runs/*/*.safetensors")):
        with file.open("rb") as handle:
            while handle.read(1 << 24):
                pass


def make_checkpoints(folder: Path, millions: int, change: float) -> None:
    if (folder / "runs" / "run-4" / "config.json").exists():
        return
    import llama_pool

    width = 768 if millions < 500 else 2048
    layer = 12 * width * width + width * width  # attention, and an MLP of width 3 · 3 · width
    layers = max(1, round(millions * 1e6 / layer))
    llama_pool.make_noise(folder, 5, layers, width, examples=100, change=change, dtype=torch.bfloat16)


def recipe(folder: Path, method: str) -> dict[str, Any]:
    models = [{"model": str(folder / "runs" / f"run-{n}"), "parameters": {"weight": 1.0}} for n in range(5)]
    base = {} if method == "linear" else {"base_model": str(folder / "base")}
    parameters = COMPARED[method][1]
    return {"merge_method": method, "models": models, "parameters": parameters, "dtype": "bfloat16", **base}


def cells(values: tuple[float, ...] | list[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


if __name__ == "__main__":
    main()
