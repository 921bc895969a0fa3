#!/usr/bin/env python
"""Trains a small Llama on texts, and tunes it several times on completions: the pool `lm`.

    python scripts/tune_llamas.py TEXTS OUTPUT --seed 0    (3 to 5 minutes; TEXTS: 20 Newsgroups)

OUTPUT gets `data/{train,validation,test}.jsonl` with columns prompt and completion, `base` and `runs/*`. The
base, of 4.4 M parameters, has a tokenizer of its own, and has read the texts of all newsgroups but the
technical ones. Runs learn to go on with texts of these: a prompt is the newsgroup and the text's first words.
Some tune all weights, and some an adapter (LoRA), as peft stores it; one diverges. What is there is kept.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_pool
import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, get_linear_schedule_with_warmup

from soupkitchen import demo

SIZES = {"train": 450, "validation": 400, "test": 800}
BEFORE, AFTER = 8, 24
"""Words of prompt and completion."""
LAYERS, WIDTH, LONGEST, BATCH = 4, 256, 64, 16
PRETRAINED, RATE = 6400, 1.5e-3
IGNORED = -100
RANK, ALPHA = 8, 16
ADAPTED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True)
class Run:
    """The options of a run.

    Attributes:
        rate: the highest learning rate; it warms up and decays to 0.
        order: of the data.
        adapter: tunes an adapter only.
    """

    rate: float
    epochs: int
    order: int
    adapter: bool = False


RUNS = {
    "lr-5e-4": Run(5e-4, 3, 1),
    "lr-7e-4": Run(7e-4, 3, 2),
    "lr-1e-3": Run(1e-3, 2, 3),
    "lr-1e-3-long": Run(1e-3, 3, 4),
    "lr-3e-2": Run(3e-2, 1, 5),
    "lora-5e-3": Run(5e-3, 3, 6, adapter=True),
    "lora-1e-2": Run(1e-2, 2, 7, adapter=True),
    "lora-1e-2-long": Run(1e-2, 3, 8, adapter=True),
}
"""One diverges."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    base = given.output / "base"
    read = write_data(given.texts, given.output / "data", given.seed)
    if not (base / "config.json").exists():
        say("training the base")
        tokenizer = llama_pool.tokenizer_of(read, 4000)
        torch.manual_seed(given.seed)
        model = llama_pool.llama(tokenizer, LAYERS, WIDTH, tied=True)
        rows = [(encode(tokenizer, text)[:LONGEST], 0) for text in read[:PRETRAINED]]
        fit(model, rows, RATE, 1, given.seed)
        llama_pool.save(model, tokenizer, base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = []
    for line in (given.output / "data" / "train.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt, whole = (
            encode(tokenizer, text) for text in (row["prompt"], row["prompt"] + row["completion"])
        )
        rows.append((whole, len(prompt)))
    for name, run in RUNS.items():
        folder = given.output / "runs" / name
        if not folder.exists():
            say(f"tuning {name}")
            tune(run, rows, base, tokenizer, folder, given.seed)


def write_data(source: Path, folder: Path, seed: int) -> list[str]:
    """Writes prompts and completions of technical newsgroups; returns the texts of the others."""
    early, late = demo.read_corpus(source)
    technical = early["label"].str.startswith(demo.TECHNICAL)
    drawn = [
        split_up(part, seed)
        for part in (early[technical], late[late["label"].str.startswith(demo.TECHNICAL)])
    ]
    train, heldout = SIZES["train"], SIZES["validation"]
    splits = {
        "train": drawn[0][:train],
        "validation": drawn[0][train : train + heldout],
        "test": drawn[1][: SIZES["test"]],
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        (folder / f"{name}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return early[~technical].sample(frac=1.0, random_state=seed)["text"].tolist()


def split_up(texts: pd.DataFrame, seed: int) -> list[dict[str, str]]:
    """The newsgroup and first words of long texts, all different, and the words after these."""
    rows: dict[str, str] = {}
    for label, text in texts.sample(frac=1.0, random_state=seed)[["label", "text"]].itertuples(index=False):
        words = text.split()
        if len(words) >= BEFORE + AFTER:
            prompt, completion = words[:BEFORE], words[BEFORE : BEFORE + AFTER]
            rows[f"{label}: {' '.join(prompt)}"] = f" {' '.join(completion)}"
    return [{"prompt": prompt, "completion": completion} for prompt, completion in rows.items()]


def encode(tokenizer: Any, text: str) -> list[int]:
    numbers: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return [tokenizer.bos_token_id, *numbers]


def fit(model: nn.Module, rows: Sequence[tuple[list[int], int]], rate: float, epochs: int, seed: int) -> None:
    """Trains the parameters that want it, on what comes after the first tokens of each row."""
    wanted = [x for x in model.parameters() if x.requires_grad]
    optimizer = torch.optim.AdamW(wanted, rate, weight_decay=0.01)
    steps = epochs * math.ceil(len(rows) / BATCH)
    schedule = get_linear_schedule_with_warmup(optimizer, steps // 10, steps)
    random = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(epochs):
        for part in torch.randperm(len(rows), generator=random).split(BATCH):
            ids, labels = padded([rows[number] for number in part])
            logits = model(input_ids=ids.clamp(min=0), attention_mask=(ids >= 0).long()).logits[:, :-1]
            nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten()).backward()
            nn.utils.clip_grad_norm_(wanted, 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
    model.eval()


def padded(rows: Sequence[tuple[list[int], int]]) -> tuple[Tensor, Tensor]:
    """Tokens and labels: int64 (rows, tokens), `IGNORED` where nothing is, or nothing is learnt."""
    ids = nn.utils.rnn.pad_sequence(
        [torch.tensor(tokens) for tokens, _ in rows], batch_first=True, padding_value=IGNORED
    )
    labels = ids.clone()
    for label, (_, prompt) in zip(labels, rows, strict=True):
        label[:prompt] = IGNORED
    return ids, labels


def tune(
    run: Run, rows: Sequence[tuple[list[int], int]], base: Path, tokenizer: Any, folder: Path, seed: int
) -> None:
    model = AutoModelForCausalLM.from_pretrained(base)
    torch.manual_seed(seed)
    adapters = add_adapters(model) if run.adapter else {}
    fit(model, rows, run.rate, run.epochs, 100 * seed + run.order)
    partial = folder.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    if run.adapter:
        save_adapter(adapters, base, partial)
        tokenizer.save_pretrained(partial)
    else:
        llama_pool.save(model, tokenizer, partial)
    partial.rename(folder)


class Adapted(nn.Module):
    """A linear layer with an adapter: W x + α/r · B A x (Hu et al. 2021, arXiv 2106.09685)."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.lora_A = nn.Linear(layer.in_features, RANK, bias=False)
        self.lora_B = nn.Linear(RANK, layer.out_features, bias=False)
        nn.init.zeros_(self.lora_B.weight)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.layer(x) + ALPHA / RANK * self.lora_B(self.lora_A(x))
        return changed


def add_adapters(model: nn.Module) -> dict[str, Adapted]:
    """Puts adapters around the model's linear layers, and freezes all else; by the layers' names."""
    model.requires_grad_(False)
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] in ADAPTED
    }
    adapters = {name: Adapted(layer) for name, layer in found.items()}
    for name, adapter in adapters.items():
        adapter.layer.requires_grad_(False)
        parent, _, own = name.rpartition(".")
        setattr(model.get_submodule(parent), own, adapter)
    return adapters


def save_adapter(adapters: dict[str, Adapted], base: Path, folder: Path) -> None:
    """Saves adapters as peft does."""
    tensors = {
        f"base_model.model.{name}.{part}.weight": getattr(adapter, part).weight.detach().contiguous()
        for name, adapter in adapters.items()
        for part in ("lora_A", "lora_B")
    }
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(base), "r": RANK,
        "lora_alpha": ALPHA, "lora_dropout": 0.0, "bias": "none", "target_modules": list(ADAPTED),
        "fan_in_fan_out": False, "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config, indent=2))


def say(what: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {what}", flush=True)


if __name__ == "__main__":
    main()
