#!/usr/bin/env python
"""Measures scoring: examples per CPU second, beside the plainest loop and transformers' pipeline.

    python scripts/benchmark_evaluation.py        (10 minutes; cooks the demo's pool if it is not there)
    python scripts/benchmark_evaluation.py --cases images

Texts: the demo's model and its test texts, cut to 16, 128 and 512 tokens. Images: a ViT (22 M parameters,
224 pixels, random weights). Generation: a Llama (20 M, random weights) that writes 32 tokens after each
prompt. The loops make batches once, sorted by length, and run them in inference mode; the pipeline is used
as it comes. `runtime.compile=true` is measured after it has compiled. Each is timed several times, in turn,
after a warm-up, on one thread; the best counts. Prints Markdown; read ratios.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import llama_pool
import numpy as np
import pandas as pd
import torch
from PIL import Image
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ViTConfig,
    ViTImageProcessor,
    pipeline,
)

from soupkitchen import demo, metrics
from soupkitchen.checkpoints import Checkpoint
from soupkitchen.evaluation import Runtime, evaluator_of, load_splits
from soupkitchen.tasks import Data, ImageClassification, Several, Task, TextClassification, TextGeneration

LENGTHS = {16: 320, 128: 128, 512: 32}
"""Numbers of texts by number of tokens."""
BATCH, REPEATS, NEW_TOKENS, IMAGES, PROMPTS = 32, 3, 32, 48, 64
Ways = dict[str, Callable[[], object]]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=["texts", "images", "generation"])
    chosen = parser.parse_args().cases or ["texts", "images", "generation"]
    torch.set_num_threads(1)
    print("| | | examples a CPU second | soupkitchen is |")
    print("|---|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        for case in chosen:
            for what, size, ways in CASES[case](Path(scratch)):
                compare(what, size, ways)


def compare(what: str, size: int, ways: Ways) -> None:
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_ in range(1 + REPEATS):
        for name, way in ways.items():
            started = time.process_time()
            way()
            if round_:
                times[name].append(time.process_time() - started)
    fastest = min(times["soupkitchen"])
    for name, taken in times.items():
        print(
            f"| {what} | {name} | {size / min(taken):.1f} | {min(taken) / fastest:.2f} × as fast |",
            flush=True,
        )


def texts(scratch: Path) -> Iterator[tuple[str, int, Ways]]:
    cooked = demo.cook(Path("~/.cache/soupkitchen").expanduser(), seed=0)
    run, table = cooked / "runs" / "lr-3e-4", pd.read_csv(cooked / "data" / "test.csv")
    table = table[[len(text.split()) > max(LENGTHS) for text in table["text"]]]  # none is padded
    tokenizer = AutoTokenizer.from_pretrained(run)
    for length, size in LENGTHS.items():
        data = scratch / f"texts-{length}"
        data.mkdir()
        some = table.iloc[np.arange(size) % len(table)]
        some.to_csv(data / "validation.csv", index=False)
        task = TextClassification(Data(str(data)), metrics.load("accuracy"), max_length=length)
        listed = some["text"].tolist()
        encoded = [tokenizer(text, truncation=True, max_length=length)["input_ids"] for text in listed]
        batches = [tokenizer.pad({"input_ids": part}, return_tensors="pt") for part in parts(encoded)]
        ways: Ways = {
            "soupkitchen": ours(run, task),
            "soupkitchen, runtime.compile=true": ours(run, task, compile=True),
            "plain loop": loop(classifier(AutoModelForSequenceClassification, run), batches),
            "transformers.pipeline": partial(
                pipeline("text-classification", model=str(run)), listed, truncation=True, max_length=length
            ),
        }
        yield f"{length} tokens", size, ways


def images(scratch: Path) -> Iterator[tuple[str, int, Ways]]:
    run, data = scratch / "vit", scratch / "images"
    torch.manual_seed(0)
    config = ViTConfig(hidden_size=384, num_attention_heads=6, intermediate_size=1536, num_labels=2)
    model: Any = AutoModelForImageClassification.from_config(config).eval()
    model.save_pretrained(run)
    processor = ViTImageProcessor()
    processor.save_pretrained(run)
    rng, made = np.random.default_rng(0), []
    for number in range(IMAGES):
        folder = data / "validation" / f"LABEL_{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        made.append(Image.fromarray(rng.integers(0, 255, (224, 224, 3), dtype=np.uint8)))
        made[-1].save(folder / f"{number}.png")
    task = ImageClassification(Data(str(data)), metrics.load("accuracy"))
    batches = [processor(part, return_tensors="pt") for part in parts(made)]
    ways: Ways = {
        "soupkitchen": ours(run, task),
        "soupkitchen, runtime.compile=true": ours(run, task, compile=True),
        "plain loop": loop(classifier(AutoModelForImageClassification, run), batches),
        "transformers.pipeline": partial(pipeline("image-classification", model=str(run)), made),
    }
    yield "images of 224 pixels", IMAGES, ways


def generation(scratch: Path) -> Iterator[tuple[str, int, Ways]]:
    folder = scratch / "llama"
    llama_pool.make_noise(folder, runs=0, layers=6, width=512, examples=PROMPTS)
    run, data = folder / "base", scratch / "prompts"
    data.mkdir()
    told = pd.read_csv(folder / "data" / "validation.csv")["text"].tolist()
    pd.DataFrame({"prompt": told, "answer": "w1"}).to_csv(data / "validation.csv", index=False)
    tokenizer = AutoTokenizer.from_pretrained(run)
    model = AutoModelForCausalLM.from_pretrained(run).eval()
    model.generation_config.eos_token_id = None  # all write as much
    model.generation_config.save_pretrained(run)
    encoded = sorted((tokenizer(prompt)["input_ids"] for prompt in told), key=len, reverse=True)
    batches = [
        tokenizer.pad({"input_ids": part}, padding_side="left", return_tensors="pt")
        for part in parts(encoded)
    ]

    def write(batch: Mapping[str, torch.Tensor]) -> list[str]:
        out = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
        )
        return tokenizer.batch_decode(out[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)

    task = TextGeneration(Data(str(data)), metrics.load("exact_match"), max_new_tokens=NEW_TOKENS)
    yield "32 tokens written", PROMPTS, {"soupkitchen": ours(run, task), "plain loop": loop(write, batches)}


CASES = {"texts": texts, "images": images, "generation": generation}


def parts(listed: list[Any]) -> Iterator[list[Any]]:
    yield from (listed[start : start + BATCH] for start in range(0, len(listed), BATCH))


def ours(run: Path, task: Task, **options: Any) -> Callable[[], object]:
    tasks = Several.of(task)
    runtime = Runtime(device="cpu", batch_size=BATCH, threads=1, **options)
    evaluator = evaluator_of(Checkpoint.open(run), tasks, load_splits(tasks), runtime)
    return lambda: evaluator.score("heldout")


def classifier(kind: Any, run: Path) -> Callable[[Any], torch.Tensor]:
    model = kind.from_pretrained(run).eval()

    def step(batch: Any) -> torch.Tensor:
        found: torch.Tensor = model(**batch).logits.argmax(-1)
        return found

    return step


def loop(step: Callable[[Any], Any], batches: list[Any]) -> Callable[[], object]:
    def score() -> list[Any]:
        with torch.inference_mode():
            return [one for batch in batches for one in step(batch)]

    return score


if __name__ == "__main__":
    main()
