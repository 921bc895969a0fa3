#!/usr/bin/env python
"""Measures what two tricks save: imports without garbage collection, and freed memory that is kept.

    python scripts/benchmark_tricks.py        (two minutes)

`importing` (`cli/startup.py`) has Python's collector pause while libraries are imported; `keep_freed_memory`
(`merging/chunks.py`) has glibc hold on to memory between chunks. Each is timed with and without, in turn, in
processes of their own; medians count. Prints Markdown; read ratios. A trick that saves less than 5 % goes.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys

REPEATS = 7

IMPORTS = """
import contextlib, time
from soupkitchen.cli import startup
trick = startup.importing if {on} else contextlib.nullcontext
start = time.perf_counter()
with trick():
    import datasets, transformers, soupkitchen.experiment
print(time.perf_counter() - start)
"""

MERGING = """
import time, torch
import soupkitchen.soup.soup as soup
from soupkitchen.merging import Linear, Magnitude, TaskVectors
from soupkitchen.merging.chunks import chunks
torch.set_num_threads(2)
if {on}:
    soup.keep_freed_memory()
method, x = {method}, torch.randn(1 << 24)
def merge():
    state, device = method.init(x), x.device
    measure = 1.0 if isinstance(method, Linear) else None
    if measure is None:
        from soupkitchen.merging import Origin
        measure = method.measure(state, x, Origin(None, "x", 1.0, tuple(x.shape)))
    for part in chunks(x.numel(), device):
        long = [isinstance(field, torch.Tensor) and field.numel() == x.numel() for field in state]
        piece = type(state)(*(f[part] if cut else f for f, cut in zip(state, long)))
        method.result(method.add(piece, x[part], measure, part.start))
merge()
start = time.perf_counter()
for _ in range(3):
    merge()
print(time.perf_counter() - start)
"""

CASES = {
    "importing": (IMPORTS, {}),
    "keep_freed_memory, linear": (MERGING, {"method": "Linear()"}),
    "keep_freed_memory, ties": (MERGING, {"method": "TaskVectors(Magnitude(0.2), 'mass', True)"}),
}


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print("| trick | without, s | with, s | with / without |")
    print("|---|---|---|---|")
    for name, (code, options) in CASES.items():
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for _ in range(REPEATS):
            for on in (False, True):
                command = [sys.executable, "-c", code.format(on=on, **options)]
                told = subprocess.run(command, check=True, capture_output=True, text=True)
                seconds[on].append(float(told.stdout))
        without, kept = (statistics.median(seconds[on]) for on in (False, True))
        print(f"| {name} | {without:.2f} | {kept:.2f} | {kept / without:.2f} |", flush=True)


if __name__ == "__main__":
    main()
