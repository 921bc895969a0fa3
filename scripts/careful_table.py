#!/usr/bin/env python
"""What a soup gains on a pool that was tuned with care: a random search of a classifier, over three seeds.

    python scripts/careful_table.py train --folder FOLDER    (an hour on a core; goes on where it was)
    python scripts/careful_table.py table --folder FOLDER    (some 15 minutes)

Unlike the demo's, whose runs are short, these have a warm-up and a learning rate that decays to 0, 2 to 5
epochs of 1,200 texts of 20 Newsgroups, and options drawn at random as in Wortsman et al. 2022: learning rate,
epochs, label smoothing, weight decay, seed. 1,000 held-out texts choose, 4,000 others test. One pool has 30
runs, two others 8 each. The ensemble averages the probabilities of the runs that the greedy soup keeps.
Prints Markdown.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import softmax
from scipy.stats import bootstrap
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from soupkitchen import demo

RUNS = {0: 30, 1: 8, 2: 8}
"""By seed, which draws texts and options."""
SIZES = {"train": 1200, "validation": 1000, "test": 4000}
LENGTH = 24
SCRIPTS = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["train", "table"])
    parser.add_argument("--folder", type=Path, required=True, help="where the runs are kept")
    arguments = parser.parse_args()
    if arguments.what == "train":
        for seed in sorted(RUNS, reverse=True):
            train(arguments.folder / f"seed-{seed}", seed)
        return
    print(
        "| seed | runs | | best single | uniform | greedy soup | of | their ensemble | soup − best, on test |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for seed in RUNS:
        print(row(arguments.folder / f"seed-{seed}", seed), flush=True)


def train(folder: Path, seed: int) -> None:
    materials = demo.materials(Path("~/.cache/soupkitchen").expanduser() / "demo" / "materials")
    demo.write_splits(materials / demo.TEXTS, folder / "data", seed, SIZES)
    words = {
        "model": materials / demo.MODEL,
        "data.path": folder / "data",
        "data.max_length": LENGTH,
        "output": folder / "runs",
        "seed": seed,
        "frozen_layers": 4,
        "arguments": "{per_device_train_batch_size: 16, lr_scheduler_type: linear, warmup_steps: 0.1, "
        "dataloader_pin_memory: false, use_cpu: true}",
        "runs": searched(seed),
    }
    script = str(SCRIPTS / "finetune_pool.py")
    subprocess.run([sys.executable, script, *(f"{key}={value}" for key, value in words.items())], check=True)


def searched(seed: int) -> str:
    """A random search's runs, as Hydra reads them."""
    rng = np.random.default_rng(seed)
    runs = []
    for number in range(RUNS[seed]):
        options = {
            "learning_rate": f"{np.exp(rng.uniform(np.log(1e-4), np.log(8e-4))):.2e}",
            "num_train_epochs": rng.integers(2, 6),
            "label_smoothing_factor": rng.choice([0.0, 0.1]),
            "weight_decay": rng.choice([0.0, 0.01, 0.1]),
            "seed": number,
        }
        runs.append(f"run-{number:02}: {{{', '.join(f'{key}: {value}' for key, value in options.items())}}}")
    return f"{{{', '.join(runs)}}}"


def row(folder: Path, seed: int) -> str:
    words = {
        "pool.path": folder / "runs",
        "task": "text_classification",
        "task.data.path": folder / "data",
        "task.max_length": LENGTH,
        "results_dir": folder / "results",
        "name": "careful",
    }
    command = [sys.executable, "-m", "soupkitchen", *(f"{key}={value}" for key, value in words.items())]
    subprocess.run(command, check=True, stdout=sys.stderr)
    results = folder / "results" / "careful"
    board = pd.read_csv(results / "leaderboard.csv", keep_default_na=False)
    best, uniform, soup = (
        board[board["kind"] == kind].sort_values("heldout_accuracy", kind="stable").iloc[-1]
        for kind in ("single", "uniform", "soup")
    )
    uniform = board[board["model"] == "uniform"].iloc[0]
    kept = soup["ingredients"].split(";")
    single, merged = (
        right(path, folder / "data") for path in (folder / "runs" / best["model"], results / "soup")
    )
    together = ensemble([folder / "runs" / name for name in kept], folder / "data")
    gain = merged[1] - single[1]
    interval = bootstrap((gain,), np.mean, method="percentile", rng=0, batch=100).confidence_interval
    told = [
        seed,
        RUNS[seed],
        "held-out / test",
        *(
            f"{100 * float(one['heldout_accuracy']):.1f} / {100 * float(one['test_accuracy']):.1f}"
            for one in (best, uniform, soup)
        ),
        len(kept),
        " / ".join(f"{100 * part.mean():.1f}" for part in together),
        f"{100 * gain.mean():+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]",
    ]
    return f"| {' | '.join(map(str, told))} |"


def right(model: Path, data: Path) -> list[np.ndarray]:
    """Which held-out and which test examples `model` gets right: float, one for each."""
    return [(logits.argmax(-1) == labels).astype(float) for logits, labels in answers(model, data)]


def ensemble(models: list[Path], data: Path) -> list[np.ndarray]:
    """The same of the mean of what several think probable."""
    told = [answers(model, data) for model in models]
    return [
        (sum(softmax(logits, axis=-1) for logits, _ in split).argmax(-1) == split[0][1]).astype(float)
        for split in zip(*told, strict=True)
    ]


@torch.inference_mode()
def answers(model: Path, data: Path, size: int = 64) -> list[tuple[np.ndarray, np.ndarray]]:
    """Logits and labels of the held-out and the test split, by transformers alone."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded: Any = AutoModelForSequenceClassification.from_pretrained(model).eval()
    told = []
    for split in ("validation", "test"):
        table = pd.read_csv(data / f"{split}.csv")
        texts = table["text"].tolist()
        options: dict[str, Any] = {"padding": True, "truncation": True, "max_length": LENGTH}
        batches = [
            tokenizer(texts[start : start + size], return_tensors="pt", **options)
            for start in range(0, len(texts), size)
        ]
        logits = torch.cat([loaded(**batch).logits for batch in batches])
        told.append((logits.numpy(), table["label"].map(loaded.config.label2id).to_numpy()))
    return told


if __name__ == "__main__":
    main()
