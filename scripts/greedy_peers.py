#!/usr/bin/env python
"""Greedy soups as people make them without soupkitchen: the other sides of `benchmark_peers.py`.

`python scripts/greedy_peers.py WAY METHOD FOLDER OUT`, in a process of its own:

- `plain`: the paper's algorithm as plainly as it can be written. For each candidate all runs of the soup are
  loaded and merged, and all of held-out is scored.
- `everyday`: `mergekit-yaml` writes each candidate to disk, transformers loads it, and all of held-out is
  scored.

FOLDER has `runs/`, `base/` and `data/validation.csv` (columns text, label). OUT gets `told.json`: which
candidates were kept, the score, how many examples went through a model, and bytes written before the soup.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

BATCH, LENGTH, DENSITY = 32, 16, 0.2
State = dict[str, torch.Tensor]


class Scorer:
    """Accuracy on all of held-out, in batches as the data comes."""

    def __init__(self, folder: Path) -> None:
        table = pd.read_csv(folder / "data" / "validation.csv")
        tokenizer = AutoTokenizer.from_pretrained(next((folder / "runs").iterdir()))
        texts, self.labels = table["text"].tolist(), table["label"].tolist()
        starts = range(0, len(texts), BATCH)
        options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": LENGTH}
        parts = [texts[start : start + BATCH] for start in starts]
        self.batches = [tokenizer(part, return_tensors="pt", **options) for part in parts]
        self.examples = 0

    @torch.inference_mode()
    def __call__(self, model: Any) -> float:
        found = [int(n) for batch in self.batches for n in model(**batch).logits.argmax(-1)]
        self.examples += len(found)
        names = [model.config.id2label[number] for number in found]
        return sum(name == label for name, label in zip(names, self.labels, strict=True)) / len(names)


def greedy(runs: Sequence[Path], score: Scorer, merged: Callable[[list[Path]], Any]) -> dict[str, Any]:
    """Wortsman et al. 2022, algorithm 1."""
    alone = [score(AutoModelForSequenceClassification.from_pretrained(run).eval()) for run in runs]
    order = sorted(range(len(runs)), key=lambda number: -alone[number])
    soup, best, decisions = [runs[order[0]]], alone[order[0]], []
    for number in order[1:]:
        scored = score(merged([*soup, runs[number]]))
        if scored > best:
            soup, best = [*soup, runs[number]], scored
        decisions.append([runs[number].name, soup[-1] == runs[number]])
    return {"decisions": decisions, "score": best, "examples": score.examples}


def plain(method: str, folder: Path) -> Callable[[list[Path]], Any]:
    """Loads all runs of a soup for each candidate, and merges them in float32."""
    model = AutoModelForSequenceClassification.from_pretrained(next((folder / "runs").iterdir())).eval()
    base = load_file(folder / "base" / "model.safetensors") if method == "ties" else {}

    def merged(runs: list[Path]) -> Any:
        states = [load_file(run / "model.safetensors") for run in runs]
        merge = _ties if method == "ties" else _mean
        model.load_state_dict({name: merge([s[name] for s in states], base.get(name)) for name in states[0]})
        return model

    return merged


def _mean(tensors: Sequence[torch.Tensor], _: torch.Tensor | None) -> torch.Tensor:
    return torch.stack(list(tensors)).mean(0)


def _ties(tensors: Sequence[torch.Tensor], base: torch.Tensor | None) -> torch.Tensor:
    """Yadav et al. 2023, algorithm 1, tensor by tensor; a tensor that the base lacks is averaged."""
    if base is None:
        return _mean(tensors, None)
    trimmed = []
    for tensor in tensors:
        change = tensor - base
        kept = max(int(DENSITY * change.numel()), 1)
        chosen = change.abs().flatten().topk(kept).indices
        mask = torch.zeros(change.numel()).index_fill_(0, chosen, 1.0).view_as(change)
        trimmed.append(change * mask)
    stacked = torch.stack(trimmed)
    agree = (stacked.sign() == stacked.sum(0).sign()) & (stacked != 0)
    return base + (stacked * agree).sum(0) / agree.sum(0).clamp(min=1)


def everyday(method: str, folder: Path, scratch: Path, written: list[int]) -> Callable[[list[Path]], Any]:
    """Has mergekit write each candidate, and loads that."""
    out, recipe = scratch / "merged", scratch / "recipe.yaml"

    def merged(runs: list[Path]) -> Any:
        told: dict[str, Any] = {
            "merge_method": method,
            "models": [{"model": str(run), "parameters": {"weight": 1.0}} for run in runs],
            "parameters": {"normalize": True, **({"density": DENSITY} if method == "ties" else {})},
            "dtype": "float32",
        }
        if method == "ties":
            told["base_model"] = str(folder / "base")
        recipe.write_text(yaml.safe_dump(told))
        shutil.rmtree(out, ignore_errors=True)
        command = [str(Path(sys.executable).with_name("mergekit-yaml")), str(recipe), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"mergekit-yaml failed:\n{done.stderr[-2000:]}")
        written.append(sum(file.stat().st_size for file in out.iterdir()))
        return AutoModelForSequenceClassification.from_pretrained(out).eval()

    return merged


def main() -> None:
    way, method, folder, out = sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
    torch.set_num_threads(int(sys.argv[5]))
    runs, written = sorted((folder / "runs").iterdir()), list[int]()
    merged = plain(method, folder) if way == "plain" else everyday(method, folder, out, written)
    told = greedy(runs, Scorer(folder), merged)
    (out / "told.json").write_text(json.dumps({**told, "written": sum(written)}))


if __name__ == "__main__":
    main()
