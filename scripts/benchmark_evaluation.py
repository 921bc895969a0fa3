#!/usr/bin/env python
"""Measures scoring: examples per second, beside the plainest loop and transformers' pipeline.

    python scripts/benchmark_evaluation.py        (2 minutes; cooks the demo's pool if it is not there)

The demo's model and 300 of its test texts, cut to 16 and to 128 tokens. The loop
tokenises once, sorts by length and runs batches of 64 in inference mode; the pipeline is used as it
comes. Each is timed several times, in turn, after a warm-up; the best counts. Prints Markdown; read ratios.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from soupkitchen import demo, metrics
from soupkitchen.checkpoints import Checkpoint
from soupkitchen.evaluation import Runtime, evaluator_of, load_splits
from soupkitchen.tasks import Data, Several, TextClassification

TEXTS, BATCH, LENGTHS, REPEATS = 300, 64, (16, 128), 2


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    cooked = demo.cook(Path("~/.cache/soupkitchen").expanduser(), seed=0)
    run = cooked / "runs" / "lr-3e-4"
    texts = pd.read_csv(cooked / "data" / "test.csv")["text"].tolist()[:TEXTS]
    print("| tokens | | examples a second | soupkitchen is |")
    print("|---|---|---|---|")
    for length in LENGTHS:
        compare(run, cooked / "data", texts, length)


def compare(run: Path, data: Path, texts: list[str], length: int) -> None:
    ways: dict[str, Callable[[], object]] = {
        "soupkitchen": ours(run, data, length),
        "plain loop, batches sorted by length": loop(run, texts, length),
        "transformers.pipeline as it comes": piped(run, texts, length),
    }
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(1 + REPEATS):
        for name, way in ways.items():
            started = time.perf_counter()
            way()
            if round_:
                times[name].append(time.perf_counter() - started)
    fastest = min(times["soupkitchen"])
    for name, taken in times.items():
        print(
            f"| {length} | {name} | {len(texts) / min(taken):.0f} | {min(taken) / fastest:.2f} × as fast |",
            flush=True,
        )


def ours(run: Path, data: Path, length: int) -> Callable[[], object]:
    tasks = Several.of(
        TextClassification(Data(str(data), f"test[:{TEXTS}]"), metrics.load("accuracy"), max_length=length)
    )
    splits = load_splits(tasks)
    evaluator = evaluator_of(Checkpoint.open(run), tasks, splits, Runtime(batch_size=BATCH))
    return lambda: evaluator.score("heldout")


def loop(run: Path, texts: list[str], length: int) -> Callable[[], object]:
    model = AutoModelForSequenceClassification.from_pretrained(run).eval()
    tokenizer = AutoTokenizer.from_pretrained(run)
    encoded = [tokenizer(text, truncation=True, max_length=length)["input_ids"] for text in texts]
    encoded.sort(key=len, reverse=True)

    @torch.inference_mode()
    def score() -> list[int]:
        labels: list[int] = []
        for start in range(0, len(encoded), BATCH):
            batch = tokenizer.pad({"input_ids": encoded[start : start + BATCH]}, return_tensors="pt")
            labels += model(**batch).logits.argmax(-1).tolist()
        return labels

    return score


def piped(run: Path, texts: list[str], length: int) -> Callable[[], object]:
    classify = pipeline("text-classification", model=str(run))
    return lambda: classify(texts, truncation=True, max_length=length)


if __name__ == "__main__":
    main()
