"""The tokenizer or image processor of a pool: chosen once, told where it is not the run's, saved as it is."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch
from command import own, soupkitchen
from tiny import adapter, gpt2, make_pictures, text_classifier, tokenizer
from transformers import AutoTokenizer, ViTConfig, ViTForImageClassification, ViTImageProcessor

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.models.processors import warn_of_files

TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def strip(run: Path) -> None:
    """Takes the tokenizer's files away."""
    for name in (*TOKENIZER, "special_tokens_map.json"):
        (run / name).unlink(missing_ok=True)


def score(folder: Path, model: str = "a") -> float:
    table = pd.read_csv(folder / "results/x/leaderboard.csv").set_index("model")
    return float(table.loc[model, "heldout_accuracy"])


def test_the_soup_has_the_runs_tokenizer_byte_by_byte(copy_runs, texts, tmp_path):
    runs = copy_runs("a", "b")
    for run in (runs / "a", runs / "b"):
        (run / "chat_template.jinja").write_text("{{ messages }}")
    soupkitchen(*own(runs, texts), "task.max_length=5", "name=x", cwd=tmp_path)
    soup = tmp_path / "results/x/soup"
    for name in (*TOKENIZER, "chat_template.jinja"):
        assert (soup / name).read_bytes() == (runs / "a" / name).read_bytes()
    assert len(AutoTokenizer.from_pretrained(soup)("w1 " * 20)["input_ids"]) == 20


@pytest.mark.parametrize("lacking", [["a"], ["a", "c"]])
def test_a_run_without_tokenizer_is_scored_with_that_of_another(copy_runs, texts, tmp_path, lacking):
    runs = copy_runs("a", "b", "c")
    soupkitchen(*own(runs, texts), "name=x", cwd=tmp_path)
    right = score(tmp_path)
    for name in lacking:
        strip(runs / name)
    said = soupkitchen(*own(runs, texts), "name=x", "overwrite=true", cwd=tmp_path)
    assert score(tmp_path) == right
    assert ("b: all runs" in said.stdout + said.stderr or "runs/b" in said.stdout + said.stderr) == (
        len(lacking) == 2
    )
    assert (tmp_path / "results/x/soup/tokenizer.json").read_bytes() == (
        runs / "b" / "tokenizer.json"
    ).read_bytes()


def test_where_no_run_has_a_tokenizer_the_bases_is_taken(copy_runs, texts, tmp_path):
    runs = copy_runs("a", "b")
    soupkitchen(*own(runs, texts), "name=x", cwd=tmp_path)
    right = score(tmp_path)
    text_classifier().save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    for name in ("a", "b"):
        strip(runs / name)
    words = (*own(runs, texts), f"pool.base={tmp_path}/base", "name=x", "overwrite=true")
    said = soupkitchen(*words, cwd=tmp_path)
    assert score(tmp_path) == right
    assert "has no tokenizer of its own" in said.stdout + said.stderr


def test_a_base_with_another_vocabulary_lends_no_tokenizer(copy_runs, texts, tmp_path):
    runs = copy_runs("a", "b")
    text_classifier().save_pretrained(tmp_path / "base")
    tokenizer().save_pretrained(tmp_path / "base")
    config = json.loads((tmp_path / "base/config.json").read_text())
    (tmp_path / "base/config.json").write_text(json.dumps({**config, "vocab_size": 7}))
    for name in ("a", "b"):
        strip(runs / name)
    words = (*own(runs, texts), f"pool.base={tmp_path}/base", "name=x")
    assert "no tokenizer" in soupkitchen(*words, cwd=tmp_path, fails=True).stderr


def test_a_tokenizer_in_the_hubs_cache_is_links_and_is_copied(text_runs, texts, tmp_path):
    hub = tmp_path / "hub"
    for name in ("a", "b"):
        snapshot, blobs = hub / f"models--x--{name}/snapshots/1", hub / f"models--x--{name}/blobs"
        snapshot.mkdir(parents=True)
        blobs.mkdir()
        for file in (text_runs / name).iterdir():
            shutil.copy(file, blobs / f"blob-{file.name}")
            (snapshot / file.name).symlink_to(os.path.relpath(blobs / f"blob-{file.name}", snapshot))
    pool = f"pool.path=[{hub}/models--x--a/snapshots/1,{hub}/models--x--b/snapshots/1]"
    soupkitchen(pool, *own(text_runs, texts)[1:], "name=x", cwd=tmp_path)
    saved = tmp_path / "results/x/soup/tokenizer.json"
    assert not saved.is_symlink()
    assert saved.read_bytes() == (text_runs / "a/tokenizer.json").read_bytes()


def test_adapters_are_saved_with_the_tokenizer_of_their_base(tmp_path):
    gpt2().save_pretrained(tmp_path / "base")
    tokens = tokenizer()
    tokens.add_special_tokens({"eos_token": "w1"})
    tokens.save_pretrained(tmp_path / "base")
    for seed, name in enumerate("ab"):
        adapter(tmp_path / "base", tmp_path / "runs" / name, seed, r=2, target_modules=["c_attn"])
    lines = "\n".join(json.dumps({"text": f"w{i} w2 w{i + 3}"}) for i in range(6))
    (tmp_path / "data").mkdir()
    (tmp_path / "data/validation.jsonl").write_text(lines)
    soupkitchen(
        "pool.path=runs/*", "task=language_modeling", "task.data.path=data", "task.data.test=null",
        "output.format=adapter", "evaluation.cache=null", "name=x", "task.max_length=3", cwd=tmp_path,
    )  # fmt: skip
    soup = tmp_path / "results/x/soup"
    assert (soup / "adapter_config.json").exists()
    assert (soup / "tokenizer.json").read_bytes() == (tmp_path / "base/tokenizer.json").read_bytes()


def vit_runs(folder: Path) -> Path:
    for seed, name in enumerate("abc"):
        torch.manual_seed(seed)
        config = ViTConfig(
            image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=16, id2label={0: "dark", 1: "light"}, label2id={"dark": 0, "light": 1},
        )  # fmt: skip
        ViTForImageClassification(config).save_pretrained(folder / name)
        ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=[0.1] * 3).save_pretrained(folder / name)
    return folder


def test_a_run_without_image_processor_is_scored_with_that_of_another(tmp_path):
    runs = vit_runs(tmp_path / "runs")
    make_pictures(tmp_path / "pictures", 6)
    words = ("pool.path=runs/*", "task=image_classification", "task.data.path=pictures", "name=x")
    words += ("evaluation.cache=null",)
    soupkitchen(*words, cwd=tmp_path)
    right = [score(tmp_path, name) for name in "abc"]
    (runs / "a/preprocessor_config.json").unlink()
    said = soupkitchen(*words, "overwrite=true", cwd=tmp_path)
    assert "a has no image processor of its own" in said.stdout + said.stderr
    assert [score(tmp_path, name) for name in "abc"] == right
    soup = tmp_path / "results/x/soup/preprocessor_config.json"
    assert soup.read_bytes() == (runs / "b/preprocessor_config.json").read_bytes()


def test_a_file_that_nothing_is_known_of_is_named_before_the_work(copy_runs, caplog):
    runs = copy_runs("a")
    for name in ("trainer_state.json", "README.md", "optimizer.pt", ".gitattributes", "eval_results.json"):
        (runs / "a" / name).write_text("{}")
    run = Checkpoint.open(runs / "a")
    warn_of_files(run)
    assert not caplog.records
    (runs / "a" / "labels_of_mine.json").write_text("{}")
    warn_of_files(run)
    (record,) = caplog.records
    assert "holds labels_of_mine.json, of which" in record.getMessage()
