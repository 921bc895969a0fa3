#!/usr/bin/env python
"""Measures what it saves to hold ingredients while a search tries other coefficients of the same runs.

    python scripts/benchmark_evolution.py                             (1 minute; about 30 M parameters)
    python scripts/benchmark_evolution.py --millions 1000 --runs 8    (some minutes)

Makes a Llama of about the size asked for, LoRA adapters of it, and full models that differ from it, as
safetensors and as PyTorch's own files; all random. Then merges the same runs over and over with other
coefficients for each quarter of the depth, as an evolutionary search does, each mixture written into a
model's tensors on the device that accelerate finds (or `--device`), with what was read held and without,
in turn. Prints Markdown; read ratios, not seconds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from soupkitchen.checkpoints import Pool, find_pool
from soupkitchen.merging import Linear, Magnitude, MergeMethod, TaskVectors
from soupkitchen.soup import Mixer, Recipe

METHODS: dict[str, MergeMethod] = {
    "linear": Linear(),
    "task_arithmetic": TaskVectors(scale=0.3),
    "ties": TaskVectors(Magnitude(0.2), "mass", normalize=True),
}
PARTS = 4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--millions", type=int, default=30, help="parameters of each model")
    parser.add_argument("--runs", type=int, default=5, help="in each pool")
    parser.add_argument("--rank", type=int, default=16, help="of the adapters")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--proposals", type=int, default=8, help="that are timed; the fastest counts")
    parser.add_argument("--device", help="cpu, cuda, mps; what accelerate finds without")
    arguments = parser.parse_args()
    device = torch.device(arguments.device) if arguments.device else Accelerator().device
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        make_pools(folder, arguments.millions, arguments.runs, arguments.rank, arguments.dtype)
        print(f"{arguments.runs} runs of {arguments.millions} M {arguments.dtype} parameters on {device}.\n")
        print("| pool | method | read each time, ms | held, ms | times faster | held, MiB |")
        print("|---|---|---|---|---|---|")
        for kind in ("adapters", "safetensors", "pickles"):
            pool = find_pool(str(folder / kind), base=str(folder / "base"))
            for name, method in METHODS.items():
                print(f"| {kind} | {name} | {row(pool, method, device, arguments.proposals)} |", flush=True)


def row(pool: Pool, method: MergeMethod, device: torch.device, proposals: int) -> str:
    """The fastest of some merges, taken in turn."""
    torch.manual_seed(0)
    names = [run.name for run in pool]
    live = {name: tensor.to(device, copy=True) for name, tensor in pool.reference.tensors()}
    mixers = {again: Mixer(pool, device, caching=again) for again in (False, True)}
    taken: dict[bool, list[float]] = {again: [] for again in mixers}
    for number in range(1 + proposals):
        told = [tuple(torch.rand(PARTS).tolist()) for _ in names]
        recipe = Recipe.of(names, method, told)
        for again, mixer in mixers.items():
            started = time.perf_counter()
            for name, tensor in mixer.tensors(recipe):
                live[name].copy_(tensor)
            float(next(iter(live.values())).reshape(-1)[0])  # waits until the device is done
            if number:  # the first reads, and warms caches
                taken[again].append(time.perf_counter() - started)
    plain, held = (1000 * min(taken[again]) for again in (False, True))
    return f"{plain:.0f} | {held:.0f} | {plain / held:.2f} | {held_bytes(mixers[True]) / 2**20:.0f}"


def held_bytes(mixer: Mixer) -> int:
    held: Any = mixer._cache
    return sum(x.nbytes for tensors in (held._exact, held._changes) for x in tensors.values())


def make_pools(folder: Path, millions: int, runs: int, rank: int, dtype: str) -> None:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, LlamaConfig

    width = 512 if millions < 100 else 768 if millions < 500 else 2048
    layers = max(PARTS, round(millions * 1e6 / (13 * width * width)))  # attention, and an MLP of 3 · width
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
    )
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).to(getattr(torch, dtype)).save_pretrained(folder / "base")
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    lora = LoraConfig(task_type="CAUSAL_LM", r=rank, target_modules=targets)
    for number in range(runs):
        model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=dtype)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.0002 * torch.randn_like(parameter))
        model.save_pretrained(folder / "safetensors" / f"run{number}")
        pickled = folder / "pickles" / f"run{number}"
        model.config.save_pretrained(pickled)
        torch.save(model.state_dict(), pickled / "pytorch_model.bin")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft calls what transformers has renamed
            adapted = get_peft_model(AutoModelForCausalLM.from_pretrained(folder / "base", dtype=dtype), lora)
            for name, parameter in adapted.named_parameters():
                if "lora_" in name:
                    torch.nn.init.normal_(parameter, std=0.01)
            adapted.save_pretrained(str(folder / "adapters" / f"run{number}"))


if __name__ == "__main__":
    main()
