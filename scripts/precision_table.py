#!/usr/bin/env python
"""Reproduces the docs' table of precision: merging bfloat16 checkpoints, as Markdown.

    python scripts/precision_table.py            (half a minute; the demo's pool is cooked if it is not there)

The demo's base and five of its runs are rounded to bfloat16 and merged: by soupkitchen, whose
arithmetic is float32; and with task vectors computed in bfloat16, the files' own dtype. Both
are held against the same formula in float64, before the result is rounded to
bfloat16 (relative error of the changes, ‖out − ref‖ / ‖ref − base‖) and after (share of elements that
are not the float64 result rounded once).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from soupkitchen import demo
from soupkitchen.checkpoints import Checkpoint
from soupkitchen.merging import Magnitude, MergeMethod, TaskVectors
from soupkitchen.soup import Soup

RUNS = ("lr-3e-4", "lr-5e-4", "lr-7e-4", "lr-1e-3", "lr-5e-4-smooth")
METHODS: dict[str, tuple[MergeMethod, Callable[[torch.Tensor], torch.Tensor]]] = {
    "task_arithmetic": (TaskVectors(), lambda deltas: deltas.sum(0)),
    "ties": (TaskVectors(Magnitude(0.2), "mass", normalize=True), lambda deltas: ties(deltas, 0.2)),
}


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    cooked = demo.cook(Path("~/.cache/soupkitchen").expanduser(), seed=0)
    print("| method | arithmetic | relative error of the changes | bfloat16 elements rounded otherwise |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        base, runs = rounded(cooked, Path(scratch))
        for name, (method, formula) in METHODS.items():
            ours = {n: x for n, x in merged_by_us(method, base, runs).items() if x.is_floating_point()}
            start, files = load(base), [load(run) for run in runs]
            report(name, "float32 (ours)", ours, start, files, formula)
            report(name, "bfloat16", in_bfloat16(start, files, formula), start, files, formula)


def rounded(cooked: Path, folder: Path) -> tuple[Checkpoint, list[Checkpoint]]:
    """The demo's base and runs with float tensors rounded to bfloat16."""
    checkpoints = []
    for source in (cooked / "base", *(cooked / "runs" / run for run in RUNS)):
        (folder / source.name).mkdir()
        tensors = load_file(source / "model.safetensors")
        save_file({n: x.bfloat16() for n, x in tensors.items()}, folder / source.name / "model.safetensors")
        (folder / source.name / "config.json").write_text((source / "config.json").read_text())
        checkpoints.append(Checkpoint.open(folder / source.name))
    return checkpoints[0], checkpoints[1:]


def load(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return load_file(checkpoint.path / "model.safetensors")


def merged_by_us(method: MergeMethod, base: Checkpoint, runs: list[Checkpoint]) -> dict[str, torch.Tensor]:
    """The merged tensors before they are rounded: the runs are widened, which changes no value."""
    wide = []
    with tempfile.TemporaryDirectory() as scratch:
        for run in (base, *runs):
            folder = Path(scratch) / run.name
            folder.mkdir()
            save_file({n: x.float() for n, x in load(run).items()}, folder / "model.safetensors")
            (folder / "config.json").write_text("{}")
            wide.append(Checkpoint.open(folder))
        return dict(Soup(method, base=wide[0]).blend(wide[1:]))


def in_bfloat16(
    start: dict[str, torch.Tensor], files: list[dict[str, torch.Tensor]], formula: Callable
) -> dict[str, torch.Tensor]:
    return {n: x + formula(torch.stack([file[n] - x for file in files])) for n, x in start.items()}


def ties(deltas: torch.Tensor, density: float) -> torch.Tensor:
    """TIES as its paper has it, in the dtype of `deltas`, of shape (runs, …)."""
    flat = deltas.reshape(len(deltas), -1)
    keep = max(1, int(density * flat.shape[1]))
    order = flat.abs().sort(dim=1, descending=True, stable=True).indices[:, :keep]
    trimmed = torch.zeros_like(flat).scatter(1, order, flat.gather(1, order))
    sign = torch.where(trimmed.sum(0) >= 0, 1, -1)
    agrees = trimmed.sign() == sign
    merged = (trimmed * agrees).sum(0) / agrees.sum(0).clamp(min=1)
    return merged.reshape(deltas.shape[1:])


def report(
    method: str,
    arithmetic: str,
    found: dict[str, torch.Tensor],
    start: dict[str, torch.Tensor],
    files: list[dict[str, torch.Tensor]],
    formula: Callable,
) -> None:
    wrong = change = otherwise = elements = 0.0
    for name, x in start.items():
        reference = x.double() + formula(torch.stack([file[name].double() - x.double() for file in files]))
        wrong += float((found[name].double() - reference).square().sum())
        change += float((reference - x.double()).square().sum())
        otherwise += int((found[name].bfloat16() != reference.bfloat16()).sum())
        elements += x.numel()
    error = (wrong / change) ** 0.5
    print(f"| {method} | {arithmetic} | {error:.1e} | {100 * otherwise / elements:.2f} % |", flush=True)


if __name__ == "__main__":
    main()
