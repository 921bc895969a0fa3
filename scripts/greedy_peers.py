#!/usr/bin/env python
"""Greedy soups as people make them without soupkitchen: the other sides of `benchmark_peers.py`.

`python scripts/greedy_peers.py WAY METHOD FOLDER OUT`, in a process of its own:

- `plain`: the paper's algorithm as plainly as it can be written. For each candidate all runs of the soup are
  loaded and merged, and all of held-out is scored.
- `everyday`: `mergekit-yaml` writes each candidate to disk, transformers loads it, and all of held-out is
  scored.

FOLDER has `runs/`, `base/` and `data/validation.csv`, with columns text and label (accuracy of a classifier
is what counts) or text alone (perplexity). OUT gets `told.json`: which candidates were kept, the score, how
many examples went through a model, weights read and bytes written before the soup.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

DENSITY = 0.2
METHODS: dict[str, dict[str, Any]] = {
    "linear": {"normalize": True},
    "ties": {"normalize": True, "density": DENSITY},
    "task_arithmetic": {"normalize": False},
    "dare_linear": {"normalize": True, "density": 0.5},
    "dare_ties": {"normalize": True, "density": 0.5},
}
"""Methods by mergekit's names, and ours, with the options that ours have by default."""
State = dict[str, torch.Tensor]


class Scorer:
    """Accuracy, or perplexity, on all of held-out, in batches as the data comes; higher is better."""

    def __init__(self, folder: Path, size: int, length: int) -> None:
        table = pd.read_csv(folder / "data" / "validation.csv")
        self.classifies = "label" in table
        self.kind: Any = AutoModelForSequenceClassification if self.classifies else AutoModelForCausalLM
        tokenizer = AutoTokenizer.from_pretrained(next((folder / "runs").iterdir()))
        texts, self.labels = table["text"].tolist(), list(table.get("label", ()))
        if not self.classifies:
            texts = [tokenizer.bos_token + text for text in texts]
        options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": length}
        parts = [texts[start : start + size] for start in range(0, len(texts), size)]
        self.batches = [tokenizer(part, return_tensors="pt", **options) for part in parts]
        self.size, self.examples = len(texts), 0

    @torch.inference_mode()
    def __call__(self, model: Any) -> float:
        self.examples += self.size
        return self._accuracy(model) if self.classifies else -self._perplexity(model)

    def _accuracy(self, model: Any) -> float:
        found = [int(n) for batch in self.batches for n in model(**batch).logits.argmax(-1)]
        names = [model.config.id2label[number] for number in found]
        return sum(name == label for name, label in zip(names, self.labels, strict=True)) / len(names)

    def _perplexity(self, model: Any) -> float:
        nats, tokens = 0.0, 0
        for batch in self.batches:
            ids, mask = batch["input_ids"], batch["attention_mask"]
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
            labels = ids[:, 1:].masked_fill(mask[:, 1:] == 0, -100)
            nats += float(torch.nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="sum"))
            tokens += int((labels != -100).sum())
        return math.exp(nats / tokens)


class Way:
    """A way to merge runs.

    Attributes:
        read, written: bytes of weights so far.
    """

    def __init__(self, method: str, folder: Path, kind: Any) -> None:
        self.method, self.folder, self.kind = method, folder, kind
        self.read = self.written = 0

    def single(self, run: Path) -> Any:
        self.read += _size(run)
        return self.kind.from_pretrained(run).eval()

    def merged(self, runs: list[Path]) -> Any:
        raise NotImplementedError


class Plain(Way):
    """Loads all runs of a soup for each candidate, and merges them in float32."""

    model: Any = None

    def merged(self, runs: list[Path]) -> Any:
        if self.model is None:
            self.model = self.kind.from_pretrained(runs[0]).eval()
        base = self._load(self.folder / "base") if self.method == "ties" else {}
        states = [self._load(run) for run in runs]
        merge = _ties if self.method == "ties" else _mean
        self.model.load_state_dict(
            {name: merge([state[name] for state in states], base.get(name)) for name in states[0]}
        )
        return self.model

    def _load(self, folder: Path) -> State:
        self.read += _size(folder)
        return load_file(folder / "model.safetensors")


class Everyday(Way):
    """Has mergekit write each candidate, and loads that."""

    scratch = Path()

    def merged(self, runs: list[Path]) -> Any:
        out, recipe = self.scratch / "merged", self.scratch / "recipe.yaml"
        told: dict[str, Any] = {
            "merge_method": self.method,
            "models": [{"model": str(run), "parameters": {"weight": 1.0}} for run in runs],
            "parameters": METHODS[self.method],
            "dtype": "float32",
        }
        if self.method != "linear":
            told["base_model"] = str(self.folder / "base")
            self.read += _size(self.folder / "base")
        recipe.write_text(yaml.safe_dump(told))
        shutil.rmtree(out, ignore_errors=True)
        command = [str(Path(sys.executable).with_name("mergekit-yaml")), str(recipe), str(out)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"mergekit-yaml failed:\n{done.stderr[-2000:]}")
        self.read += sum(map(_size, runs))
        self.written += sum(file.stat().st_size for file in out.iterdir())
        return self.single(out)


def greedy(runs: Sequence[Path], score: Scorer, way: Way) -> dict[str, Any]:
    """Wortsman et al. 2022, algorithm 1."""
    alone = [score(way.single(run)) for run in runs]
    order = sorted(range(len(runs)), key=lambda number: -alone[number])
    soup, best, decisions = [runs[order[0]]], alone[order[0]], []
    for number in order[1:]:
        scored = score(way.merged([*soup, runs[number]]))
        if scored > best:
            soup, best = [*soup, runs[number]], scored
        decisions.append([runs[number].name, soup[-1] == runs[number]])
    return {
        "decisions": decisions,
        "score": abs(best),
        "examples": score.examples,
        "read": way.read,
        "written": way.written,
    }


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


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


WAYS: dict[str, type[Way]] = {"plain": Plain, "everyday": Everyday}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("way", choices=list(WAYS))
    parser.add_argument("method", choices=list(METHODS), help="plain has linear and ties alone")
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=16)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    runs = sorted((arguments.folder / "runs").iterdir())
    score = Scorer(arguments.folder, arguments.batch_size, arguments.max_length)
    way = WAYS[arguments.way](arguments.method, arguments.folder, score.kind)
    if isinstance(way, Everyday):
        way.scratch = arguments.out
    (arguments.out / "told.json").write_text(json.dumps(greedy(runs, score, way)))


if __name__ == "__main__":
    main()
