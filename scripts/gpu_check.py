#!/usr/bin/env python
"""Checks soupkitchen on this machine's accelerator, measures it, and writes results/gpu_check.md.

    python scripts/gpu_check.py                          (a GPU of 24 GB or more: under 8 minutes)
    python scripts/gpu_check.py --device cpu --millions 1 --texts 8 --skip-demo        (to see that it runs)

0. The tests marked `gpu`, where pytest is installed and the tests are there.
1. Every merge method: merges on the device beside those on the CPU.
2. The demo, ranking to verified files.
3. Four runs of a Llama with random weights, and their base: what merging reads in a second beside what a
   plain copy to the device does, and what reading ahead is worth; texts a second beside a plain
   transformers loop; mixed precision; the same spread by `runtime.device_map=auto`; batches that are too
   large for the memory.
Needs nothing prepared. Figures come from one run, with the device's name and the date; read the ratios.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import llama_pool
import pandas as pd
import torch

from soupkitchen import methods, metrics
from soupkitchen.checkpoints import Pool, find_pool
from soupkitchen.evaluation import Runtime, evaluator_of, load_splits
from soupkitchen.evaluation.identity import versions
from soupkitchen.executors import Bench, Request
from soupkitchen.experiment.measuring import peak, reset_peak
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.options import files
from soupkitchen.search import Mixture
from soupkitchen.soup import Mixer, Recipe
from soupkitchen.soup.reader import ReadAhead, TensorReader
from soupkitchen.tasks import Data, LanguageModeling, Several

RUNS, WORDS, BATCH = 4, 128, 16
NAMES = [f"run-{number}" for number in range(RUNS)]
TOLERANCE = 2e-6
"""The tolerance, as a share of a tensor's largest magnitude: sums in another order round otherwise."""

lines: list[str] = []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", default="auto", help="as runtime.device")
    parser.add_argument("--millions", type=int, default=1000, help="parameters of each Llama")
    parser.add_argument("--texts", type=int, default=256, help="of 128 tokens, that are scored")
    parser.add_argument("--skip-demo", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("results/gpu_check.md"))
    given = parser.parse_args()
    device = Runtime(device=given.device).accelerator().device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    say(f"# {name}, {datetime.now():%F}\n")
    say(", ".join(f"{package} {version}" for package, version in versions().items()) + "\n")
    if given.device == "auto":
        run_tests()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_pool(folder / "small", 1, torch.float32, given.texts)
        check_methods(find_pool(str(folder / "small" / "runs"), base=str(folder / "small" / "base")), device)
        if not given.skip_demo:
            check_demo(str(device), folder)
        make_pool(folder / "large", given.millions, torch.bfloat16, given.texts)
        measure(folder / "large", str(device))
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"\nwritten to {given.output}")


def say(line: str) -> None:
    lines.append(line)
    print(line, flush=True)


def run_tests() -> None:
    """Runs the tests that are for GPUs, and says what came of them."""
    tests = Path(__file__).parents[1] / "tests"
    if importlib.util.find_spec("pytest") is None or not tests.is_dir():
        say("Tests: not run, as there is no pytest or no folder of tests here.\n")
        return
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", str(tests / "test_gpu.py")]
    told = subprocess.run(command, cwd=tests.parent, capture_output=True, text=True)
    print(told.stdout)
    say(f"Tests: {told.stdout.splitlines()[-1]}\n")


def make_pool(folder: Path, millions: int, dtype: torch.dtype, number: int) -> None:
    """A base and runs that differ from it by a hundredth, a tokenizer, and texts of random words."""
    width = 64 * max(round((millions * 1e6 / 16 / 12) ** 0.5 / 64), 1)
    llama_pool.make_noise(folder, RUNS, 16, width, number, WORDS, change=2e-4, dtype=dtype)


def check_methods(pool: Pool, device: torch.device) -> None:
    """Sets merges on the device beside those on the CPU."""
    say("## Merges beside the CPU's\n")
    say("| method | largest difference, in shares of the largest magnitude |\n|---|---|")
    for file in sorted((files.folder("conf") / "method").glob("*.yaml")):
        (recipe,) = Recipes(getattr(methods, file.stem)()).of(Mixture(tuple(NAMES[:3])))[:1]
        expected = {name: x.clone() for name, x in Mixer(pool).tensors(recipe)}
        worst = 0.0
        for name, x in Mixer(pool, device).tensors(recipe):
            apart = (x.cpu() - expected[name]).abs().max() / expected[name].abs().max()
            worst = max(worst, float(apart))
        say(f"| {file.stem} | {worst:.1e}{'' if worst <= TOLERANCE else ' **too much**'} |")


def check_demo(device: str, folder: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "soupkitchen",
        f"runtime.device={device}",
        f"results_dir={folder}",
        "name=demo",
    ]
    with timed() as seconds:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    table = pd.read_csv(folder / "demo" / "leaderboard.csv")
    scores = table.set_index("kind")["heldout_accuracy"]
    single = table.loc[table["kind"] == "single", "heldout_accuracy"].max()
    say(f"\n## The demo\n\nSoup {scores['soup']:.4f}, best single run {single:.4f}, in {seconds():.0f} s.")


def measure(folder: Path, device: str) -> None:
    """Merges and scores the large pool."""
    pool = find_pool(str(folder / "runs"), base=str(folder / "base"))
    size = sum(file.stat().st_size for file in (folder / "runs" / NAMES[0]).glob("*.safetensors"))
    bench = bench_of(pool, folder, device)
    on = bench.evaluator.accelerator.device
    say(f"\n## Runs of {size / 2e9:.2f} B parameters, bfloat16: {size / 2**30:.2f} GiB each\n")
    with timed(on) as seconds:
        for _, tensor in pool[NAMES[-1]].tensors():
            tensor.to(on)
    copied = size / seconds() / 2**30
    say(f"A plain copy of a run's tensors to the device: {copied:.2f} GiB/s.\n")
    say("| method | candidate, s | GiB/s read | of the copy | without reading ahead, s | peak memory, GiB |")
    say("|---|---|---|---|---|---|")
    for method in ("linear", "slerp", "task_arithmetic", "ties", "dare_ties", "model_stock"):
        merged = Recipes(getattr(methods, method)(), "bfloat16")
        two, three = (merged.of(Mixture(tuple(NAMES[:k])))[0] for k in (2, 3))
        reset_peak(on)
        taken: dict[bool, float] = {}
        for ahead in (False, True):
            reader = ReadAhead(on, 1 << 30) if ahead else TensorReader(on)
            bench.mixer = Mixer(pool, on, bench.evaluator.live.dtype_of, reader=reader)
            bench.fill(two, growing=True)
            bench.fill(three, growing=True)  # the state is that of two now
            times = []
            for _ in range(3):
                with timed(on) as seconds:
                    bench.fill(three, growing=True)
                times.append(seconds())
            taken[ahead] = min(times)
            bench.mixer.forget()
        rate = size / taken[True] / 2**30
        most = peak(on).device
        say(
            f"| {method} | {taken[True]:.2f} | {rate:.2f} | {rate / copied:.2f} | {taken[False]:.2f} "
            f"| {'' if most is None else f'{most:.2f}'} |"
        )
    ours, plain = throughput(bench, folder, on)
    say(f"\nTexts of {WORDS} tokens a second: {ours:.0f}, by a plain transformers loop {plain:.0f}.")
    score = scored(bench)
    say(f"\nPerplexity: {score:.3f}.")
    others: dict[str, dict[str, Any]] = {"runtime.dtype=bfloat16": {"dtype": "bfloat16"}}
    if on.type == "cuda":
        others |= {
            "runtime.device_map=auto": {"device_map": "auto"},
            "batches of 100,000": {"batch_size": 100_000},
        }
    del bench
    for what, options in others.items():
        again = bench_of(pool, folder, device, **options)
        found = scored(again)
        batches = again.evaluator.examples.batch_size
        say(f"With {what}: {found:.3f}, batches of {batches}.")
        again.evaluator.release()


def bench_of(pool: Pool, folder: Path, device: str, **options: Any) -> Bench:
    data = Data(str(folder / "data"))
    tasks = Several.of(LanguageModeling(data, metrics.load("perplexity"), max_length=WORDS))
    runtime = Runtime(**{"device": device, "batch_size": BATCH, **options})
    evaluator = evaluator_of(pool.reference, tasks, load_splits(tasks), runtime, pool=pool)
    return Bench(evaluator, Mixer(pool, evaluator.accelerator.device, evaluator.live.dtype_of))


def scored(bench: Bench) -> float:
    scoring = bench.score(Request("the base's first run", Recipe.single(NAMES[0])))
    assert scoring.evaluation is not None, scoring.error
    return float(bench.evaluator.tasks.shown(scoring.evaluation.score))


def throughput(bench: Bench, folder: Path, on: torch.device) -> tuple[float, float]:
    """Texts a second: ours, and those of the plainest loop over the same batches. The best of three each."""
    texts = pd.read_csv(folder / "data" / "validation.csv")["text"].tolist()
    tokens = bench.evaluator.processor(texts, return_tensors="pt", truncation=True, max_length=WORDS)[
        "input_ids"
    ]

    @torch.inference_mode()
    def loop() -> None:
        for batch in tokens.split(BATCH):
            logits = bench.evaluator.live.model(input_ids=batch.to(on)).logits[:, :-1].float()
            torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten().to(on)).item()

    taken: dict[Callable[[], object], list[float]] = {lambda: bench.evaluator.score("heldout"): [], loop: []}
    for _ in range(4):
        for way, seconds_of in taken.items():
            with timed(on) as seconds:
                way()
            seconds_of.append(seconds())
    ours, plain = (len(texts) / min(times[1:]) for times in taken.values())
    return ours, plain


@contextmanager
def timed(on: torch.device | None = None) -> Iterator[Callable[[], float]]:
    wait(on)
    started = time.perf_counter()
    ended: list[float] = []
    yield lambda: ended[0]
    wait(on)
    ended.append(time.perf_counter() - started)


def wait(on: torch.device | None) -> None:
    if on is not None and on.type == "cuda":
        torch.cuda.synchronize(on)


if __name__ == "__main__":
    main()
