"""The pool `lm`, in small: its adapters are peft's, and every command of docs/llms.md makes a soup of it."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from command import soupkitchen
from conftest import ROOT
from pages import commands
from transformers import AutoModelForCausalLM

from soupkitchen import demo

PAGE = ROOT / "docs" / "llms.md"
COMMANDS = [command for command in commands(PAGE) if "pool=lm" not in command.words]
SMALL = {
    "SIZES": {"train": 32, "validation": 12, "test": 8}, "LAYERS": 1, "WIDTH": 64, "PRETRAINED": 64,
}  # fmt: skip


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(ROOT / "scripts"))
    spec = importlib.util.spec_from_file_location("tune_llamas", ROOT / "scripts" / "tune_llamas.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tune_llamas"] = module
    spec.loader.exec_module(module)
    sys.path.pop(0)
    return module


@pytest.fixture(scope="module")
def pool(script: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pool that takes seconds, in the cache folder where the command looks for it."""
    cache = tmp_path_factory.mktemp("cache")
    folder = cache / "lm" / "seed-0"
    texts = demo.materials(Path(os.environ["SOUPKITCHEN_CACHE"]) / "demo" / "materials") / demo.TEXTS
    with pytest.MonkeyPatch.context() as patched:
        for name, value in SMALL.items():
            patched.setattr(script, name, value)
        patched.setattr(sys, "argv", ["tune_llamas.py", str(texts), str(folder)])
        script.main()
    (folder / "runs.complete").touch()
    return folder


def test_the_command_makes_a_soup_of_the_pool_by_the_perplexity_of_completions(pool, tmp_path):
    soupkitchen("pool=lm", f"cache_dir={pool.parents[1]}", "name=x", "evaluation.cache=null", cwd=tmp_path)
    table = pd.read_csv(tmp_path / "results/x/leaderboard.csv").set_index("model")
    assert len(table[table["kind"] == "single"]) == 8
    assert table.loc["soup", "heldout_perplexity"] <= table.loc["lr-5e-4", "heldout_perplexity"]
    assert table.loc["soup", "test_perplexity"] > 0


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_adapters_are_those_of_peft(script, pool):
    peft = pytest.importorskip("peft")
    base = AutoModelForCausalLM.from_pretrained(pool / "base")
    torch.manual_seed(0)
    adapters = script.add_adapters(base)
    for adapter in adapters.values():
        torch.nn.init.normal_(adapter.lora_B.weight, std=0.1)
    folder = pool.parent / "adapter"
    folder.mkdir()
    script.save_adapter(adapters, pool / "base", folder)
    theirs = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(pool / "base"), folder)
    tokens = torch.arange(3, 30)[None]
    with torch.inference_mode():
        torch.testing.assert_close(base(tokens).logits, theirs(tokens).logits)
        plain = AutoModelForCausalLM.from_pretrained(pool / "base")(tokens).logits
    assert (base(tokens).logits - plain).abs().max() > 0.01


def test_prompts_and_completions_are_the_beginnings_of_different_texts(pool):
    splits = {
        name: [json.loads(line) for line in (pool / f"data/{name}.jsonl").read_text().splitlines()]
        for name in ("train", "validation", "test")
    }
    assert {name: len(rows) for name, rows in splits.items()} == SMALL["SIZES"]
    prompts = [row["prompt"] for rows in splits.values() for row in rows]
    assert len(set(prompts)) == len(prompts)
    assert all(prompt.startswith(demo.TECHNICAL) for prompt in prompts)


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_each_command_of_the_page_makes_a_soup(command, pool, tmp_path):
    (tmp_path / "sft").mkdir()
    for name in ("lr-5e-4", "lr-1e-3", "lora-5e-3"):
        shutil.copytree(pool / "runs" / name, tmp_path / "sft" / name)
    shutil.copytree(pool / "base", tmp_path / "base")
    (tmp_path / "talks").mkdir()
    (tmp_path / "pairs").mkdir()
    for split in ("validation", "test"):
        rows = [json.loads(line) for line in (pool / f"data/{split}.jsonl").read_text().splitlines()]
        pairs = [
            {"prompt": row["prompt"], "chosen": row["completion"], "rejected": other["completion"]}
            for row, other in zip(rows, [*rows[1:], rows[0]], strict=True)
        ]
        for folder, told in {"talks": rows, "pairs": pairs}.items():
            (tmp_path / folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, told)))
    soupkitchen(*command.words[3:], "name=x", "evaluation.cache=null", cwd=tmp_path)
    assert (tmp_path / "results/x/soup/model.safetensors").exists()
    table = pd.read_csv(tmp_path / "results/x/leaderboard.csv")
    assert "soup" in table["model"].tolist()
