#!/usr/bin/env python
"""Measures pools that are large for the machine: peak memory of merging, and a whole greedy run.

    python scripts/big_models.py merge --billions 3 --folder /data     (an hour, 12 GB a billion on disk)
    python scripts/big_models.py greedy --folder /data                 (some minutes, 10 GB on disk)

`merge` makes a base and four bfloat16 checkpoints of a Llama of the size asked for, in shards, and
merges them with each method that is a fold, each in a process of its own, streaming from files to
files: what is in memory is a few tensors and one shard. `greedy` makes a pool of four models of a
billion parameters and lets `python -m soupkitchen` cook it on a small language-modelling task,
with 4 GiB for merge states, so that those of TIES (16 bytes a parameter) lie in files. Peak memory is
the process's own, mapped files included.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from benchmark_merging import warm
from measuring import measure

FOLDS = (
    "linear", "task_arithmetic", "dare_linear", "dare_ties", "ties", "slerp", "model_stock",
    "breadcrumbs", "breadcrumbs_ties", "della_linear", "della",
)  # fmt: skip
SHARD = "2GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", choices=["merge", "greedy", "one"])
    parser.add_argument("--billions", type=float, default=3.0, help="parameters of each checkpoint")
    parser.add_argument("--folder", type=Path, required=True, help="where checkpoints are made and kept")
    parser.add_argument("--methods", nargs="+", choices=FOLDS, default=FOLDS)
    arguments = parser.parse_args()
    if arguments.what == "one":
        merge_one(arguments.folder, arguments.methods[0])
    elif arguments.what == "merge":
        merge(arguments.folder, arguments.billions, arguments.methods)
    else:
        greedy(arguments.folder)


def merge(folder: Path, billions: float, methods: list[str]) -> None:
    parameters = make_checkpoints(folder, billions, runs=4)
    print(f"Four bfloat16 checkpoints of {parameters / 1e9:.2f} billion parameters, and their base.\n")
    print("| method | s | peak memory, GiB |")
    print("|---|---|---|")
    for method in methods:
        warm(folder)
        command = [sys.executable, str(Path(__file__).resolve()), "one", "--folder", str(folder)]
        taken = measure([*command, "--methods", method], threads=None)
        print(f"| {method} | {taken.wall:.0f} | {taken.peak:.1f} |", flush=True)


def merge_one(folder: Path, name: str) -> None:
    """Merges to `<folder>/merged`, and checks that transformers loads what was written."""
    from transformers import AutoModelForCausalLM

    from soupkitchen.checkpoints import find_pool
    from soupkitchen.options import files
    from soupkitchen.options.building import build
    from soupkitchen.soup import Soup

    method: Any = build(files.compose("method", name))
    pool = find_pool(str(folder / "runs"), base=str(folder / "base"))
    out = folder / "merged"
    shutil.rmtree(out, ignore_errors=True)
    shapes = {name: info.shape for name, info in pool.reference.header.items()}
    write(Soup(method, base=pool.base).blend(pool.runs), shapes, out)
    shutil.copy(pool.reference.path / "config.json", out)
    _, report = AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    if report["missing_keys"] or report["unexpected_keys"]:
        raise SystemExit(f"{out} is not whole: {report}")


def write(tensors: Iterator[tuple[str, torch.Tensor]], shapes: dict[str, Any], folder: Path) -> None:
    """Writes bfloat16 tensors as they come to shards, in transformers' layout."""
    from huggingface_hub import split_torch_state_dict_into_shards
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    empty = {name: torch.empty(shape, dtype=torch.bfloat16, device="meta") for name, shape in shapes.items()}
    plan = split_torch_state_dict_into_shards(empty, max_shard_size=SHARD)
    waiting = {file: set(names) for file, names in plan.filename_to_tensors.items()}
    held: dict[str, dict[str, torch.Tensor]] = {file: {} for file in waiting}
    for name, tensor in tensors:
        file = plan.tensor_to_filename[name]
        held[file][name] = tensor
        if held[file].keys() == waiting[file]:
            save_file(held.pop(file), folder / file, {"format": "pt"})
    index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def make_checkpoints(folder: Path, billions: float, runs: int) -> int:
    """Makes `base` and `runs/run0`, … unless they are there; the number of parameters."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    width = 2560
    layer = 13 * width * width
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=-(-round(billions * 1e9) // layer),
        num_attention_heads=width // 64,
        tie_word_embeddings=True,
        dtype="bfloat16",
        architectures=["LlamaForCausalLM"],
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {name: tuple(p.shape) for name, p in sorted(model.named_parameters())}
    for number, path in enumerate([folder / "base", *(folder / "runs" / f"run{n}" for n in range(runs))]):
        if (path / "config.json").exists():
            continue
        shutil.rmtree(path, ignore_errors=True)
        write(random_tensors(shapes, number), shapes, path)
        config.save_pretrained(path)
    return sum(torch.Size(shape).numel() for shape in shapes.values())


def random_tensors(shapes: dict[str, Any], number: int) -> Iterator[tuple[str, torch.Tensor]]:
    """The base's tensors are random; those of run `number` differ from them by a hundredth."""
    for position, (name, shape) in enumerate(shapes.items()):
        tensor = torch.empty(shape, dtype=torch.bfloat16)
        tensor.normal_(0, 0.02, generator=torch.Generator().manual_seed(position))
        if number:
            change = torch.empty(shape, dtype=torch.bfloat16)
            generator = torch.Generator().manual_seed(1_000_000 * number + position)
            tensor += change.normal_(0, 0.0002, generator=generator)
        yield name, tensor


def greedy(folder: Path) -> None:
    """A greedy run over one starting model and three candidates of a billion parameters."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    parameters = make_checkpoints(folder / "billion", 1.0, runs=4)
    words = [f"w{number}" for number in range(990)]
    vocabulary = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", eos_token="[PAD]"
    )
    for run in sorted((folder / "billion" / "runs").iterdir()):
        tokenizer.save_pretrained(run)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(990, (24, 24), generator=generator).tolist()
    lines = [json.dumps({"text": " ".join(f"w{word}" for word in row)}) + "\n" for row in drawn]
    for split, part in {"validation": lines[:16], "test": lines[16:]}.items():
        (folder / f"{split}.jsonl").write_text("".join(part))
    data = f"{{validation: {folder / 'validation.jsonl'}, test: {folder / 'test.jsonl'}}}"
    print(f"A greedy run over four models of {parameters / 1e9:.2f} billion parameters, bfloat16.\n")
    print("| method | min | peak memory, GiB | soup |")
    print("|---|---|---|---|")
    for method in ("linear", "ties"):
        shutil.rmtree(folder / "results" / method, ignore_errors=True)
        words = [
            f"pool.path={folder}/billion/runs", f"pool.base={folder}/billion/base", f"method={method}",
            "task=language_modeling", f"task.data.path={data}", f"name={method}", "evaluation.cache=null",
            f"results_dir={folder}/results", "runtime.batch_size=8", "runtime.max_memory={cpu: 6GiB}",
        ]  # fmt: skip
        taken = measure([sys.executable, "-m", "soupkitchen", *words], threads=None)
        table = (folder / "results" / method / "leaderboard.csv").read_text().splitlines()
        soup = next(line for line in table if ",soup,soup," in line).split(",")[3]
        print(f"| {method} | {taken.wall / 60:.1f} | {taken.peak:.1f} | {soup} |", flush=True)
        shutil.rmtree(folder / "results" / method / "soup")


if __name__ == "__main__":
    main()
