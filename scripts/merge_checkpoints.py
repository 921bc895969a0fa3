#!/usr/bin/env python
"""Merges the checkpoints of `benchmark_merging.py`: our side of its comparison, in a process of its own.

`python scripts/merge_checkpoints.py FOLDER METHOD` reads FOLDER/runs and FOLDER/base.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

from soupkitchen.cli.startup import importing

with importing():  # as the command line does
    from safetensors.torch import save_file

    from soupkitchen.checkpoints import find_pool
    from soupkitchen.merging import Linear, Magnitude, MergeMethod, Random, TaskVectors
    from soupkitchen.soup import Soup

COMPARED: dict[str, tuple[MergeMethod, dict[str, Any]]] = {
    "linear": (Linear(), {"normalize": True}),
    "task_arithmetic": (TaskVectors(), {"normalize": False}),
    "ties": (TaskVectors(Magnitude(0.2), "mass", True), {"normalize": True, "density": 0.2}),
    "dare_ties": (TaskVectors(Random(0.5), "mass", False), {"normalize": False, "density": 0.5}),
}
"""Methods by mergekit's names, with their options as mergekit wants them."""


def merge(folder: Path, name: str) -> None:
    pool = find_pool(str(folder / "runs"), base=str(folder / "base"))
    method, _ = COMPARED[name]
    out = folder / "ours"
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(pool.runs[0].path, out, ignore=shutil.ignore_patterns("*.safetensors"))
    merged = dict(Soup(method, base=pool.base).blend(pool.runs))
    save_file(merged, out / "model.safetensors", {"format": "pt"})


if __name__ == "__main__":
    merge(Path(sys.argv[1]), sys.argv[2])
