"""LoRA adapters as runs, held against peft itself: made by it, and merged by it."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from command import own, soupkitchen
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, PeftType, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import (
    LABELS,
    adapter,
    gpt2,
    llama,
    make_pictures,
    save_tokenizer,
    shake,
    text_classifier,
    tokenizer,
    train_text_classifier,
)

from soupkitchen.checkpoints import Checkpoint, adapter_config, find_pool
from soupkitchen.checkpoints.adapter_config import (
    _END,
    _NOT_FOLLOWED,
    _SAYS_NOTHING,
    ADAPTER_CONFIG_NAME,
    AdapterConfig,
    Expressions,
)
from soupkitchen.checkpoints.adapters import open_adapter
from soupkitchen.errors import CheckpointError, IncompatibleError
from soupkitchen.evaluation import LiveModel
from soupkitchen.merging import Linear, Magnitude, TaskVectors
from soupkitchen.soup import Soup

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning",
    "ignore::FutureWarning",
    "ignore::RuntimeWarning:peft",  # peft's
)
CPU = torch.device("cpu")


def merged_by_peft(base: Path, folder: Path) -> dict[str, torch.Tensor]:
    model = PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(base), folder)
    return model.merge_and_unload().state_dict()


KINDS: dict[str, dict[str, Any]] = {
    "all linear": {"r": 2, "target_modules": "all-linear"},
    "expression": {"r": 2, "target_modules": r".*layers\.1\..*(q|up)_proj"},
    "excluded": {"r": 2, "target_modules": ["q_proj"], "exclude_modules": ["layers.0.self_attn.q_proj"]},
    "layers": {"r": 2, "target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"},
    "orthogonal": {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": "orthogonal"},
    "eva": {"r": 2, "target_modules": ["q_proj"], "init_lora_weights": "eva"},
    "mica": {"r": 2, "target_modules": ["q_proj", "embed_tokens"], "init_lora_weights": "mica"},
    "velora": {"r": 2, "target_modules": ["q_proj"], "velora_config": {"num_groups": 4}},
    "monteclora": {"r": 2, "target_modules": ["q_proj"], "monteclora_config": {}},
    "blocks": {
        "r": 4, "target_modules": ["q_proj", "o_proj", "v_proj"], "use_rslora": True,
        "use_bdlora": {
            "target_modules_bd_a": ["o_proj"], "target_modules_bd_b": ["q_proj"], "nblocks": 2,
            "match_strict": False,
        },
    },
    "tokens": {"r": 2, "target_modules": ["q_proj"], "trainable_token_indices": [3, 7, 40]},
    "tokens of the head": {
        "r": 2, "target_modules": ["q_proj"],
        "trainable_token_indices": {"embed_tokens": [4], "lm_head": [2, 1]},
    },
    "parameters": {"r": 2, "target_modules": ["k_proj"], "target_parameters": ["q_proj.weight"]},
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"]},
    "rslora": {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": "all-linear"},
    "dora": {"r": 2, "use_dora": True, "target_modules": ["q_proj", "down_proj"]},
    "patterns": {
        "r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "k_proj"],
        "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"layers.1.self_attn.q_proj": 3},
    },
    "head": {"r": 3, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "embedding": {"r": 3, "target_modules": ["embed_tokens", "up_proj"]},
    "embedding-dora": {"r": 3, "use_dora": True, "target_modules": ["embed_tokens"]},
    "head adapted": {"r": 2, "target_modules": ["q_proj", "lm_head"]},
    "patterns by expression": {
        "r": 2, "lora_alpha": 1, "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {r"layers\.(1|7)\.self_attn\.(q|k)_proj": 5, "v_proj": 3},
        "alpha_pattern": {r"model\.layers\.\d+\.self_attn\.v_.*": 9, r".*\.q_proj": 4},
    },
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_makes_the_model_that_peft_makes_of_it(kind, base, tmp_path):
    folder = adapter(base, tmp_path / "a", seed=1, **KINDS[kind])
    run = open_adapter(folder, "a", Checkpoint.open(base))
    expected = merged_by_peft(base, folder)
    read = dict(run.tensors())
    assert read.keys() == expected.keys()
    changed = 0
    for name, tensor in expected.items():
        torch.testing.assert_close(read[name], tensor, rtol=1e-5, atol=1e-6)
        changed += not torch.equal(tensor, load_file(base / "model.safetensors").get(name, tensor))
        if run.weights.leaves(name):
            assert torch.equal(read[name], load_file(base / "model.safetensors")[name])
    assert changed


def test_every_option_of_peft_is_known():
    """An option that is not is refused, so those of a new version of peft are looked at here first."""
    known = {one.name for one in fields(AdapterConfig)} | {*_SAYS_NOTHING, *_NOT_FOLLOWED}
    assert {one.name for one in fields(LoraConfig)} <= known


EDITS: dict[str, dict[str, Any]] = {
    "what is usual": {"target_modules": None},
    "other modules": {"target_modules": ["q_proj"]},
    "a module by its path": {"target_modules": ["model.layers.1.self_attn.v_proj"]},
    "an expression": {"target_modules": r"model\.layers\.\d+\.self_attn\.(q|o)_proj"},
    "all linear ones": {"target_modules": "ALL-linear"},
    "one layer": {"layers_to_transform": 1},
    "some layers": {"layers_to_transform": [0], "layers_pattern": ["h", "layers"]},
    "no layers": {"layers_to_transform": []},
    "no such layers": {"target_modules": ["q_proj", "model.layers.0.self_attn.v_proj"], "layers_pattern": "h",
                       "layers_to_transform": [1]},
    "excluded": {"exclude_modules": ["self_attn.q_proj"]},
    "excluded by an expression": {"exclude_modules": r".*\.0\..*"},
    "nothing saved whole": {"modules_to_save": None},
    "another rank": {"alpha_pattern": {r".*\.0\..*": 9}},
    "the default scale": {"lora_alpha": 3, "use_rslora": True},
    "no trained rows": {"trainable_token_indices": None},
    "other rows": {"trainable_token_indices": [9, 4]},
}  # fmt: skip


@pytest.fixture(scope="module")
def edited(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    options: dict[str, Any] = {
        "target_modules": ["q_proj", "v_proj", "embed_tokens"],
        "modules_to_save": ["lm_head"],
    }
    return adapter(base, tmp_path_factory.mktemp("edited") / "a", seed=1, r=2, **options)


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_configuration_selects_what_peft_selects_by_it(edit, edited, base, tmp_path):
    folder = shutil.copytree(edited, tmp_path / "a")
    if "rows" in edit:
        options = {"target_modules": ["q_proj"], "trainable_token_indices": [3, 5]}
        folder = adapter(base, tmp_path / "b", seed=1, r=2, **options)
    _edit(folder, **EDITS[edit])
    expected = merged_by_peft(base, folder)
    read = dict(open_adapter(folder, "a", Checkpoint.open(base)).tensors())
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(read[name], tensor, rtol=1e-5, atol=1e-6)


def test_biases_of_an_adapter_are_merged_as_by_peft(tmp_path):
    text_classifier().save_pretrained(tmp_path / "base")
    options = {"target_modules": ["query", "value"], "lora_bias": True, "bias": "lora_only"}
    of = transformers.AutoModelForSequenceClassification
    folder = adapter(tmp_path / "base", tmp_path / "a", 1, of=of, task_type="SEQ_CLS", r=2, **options)
    expected = PeftModel.from_pretrained(of.from_pretrained(tmp_path / "base"), folder).merge_and_unload()
    run = open_adapter(folder, "a", Checkpoint.open(tmp_path / "base"))
    read, start = dict(run.tensors()), load_file(tmp_path / "base" / "model.safetensors")
    for name, tensor in expected.state_dict().items():
        torch.testing.assert_close(read[name], tensor, rtol=1e-5, atol=1e-6)
    assert sum(not torch.equal(read[name], start[name]) for name in start if name.endswith("query.bias")) == 1


def mixture(kind: str) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0,
    }  # fmt: skip
    if kind == "mixtral":  # files hold each expert by itself
        return transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes, num_local_experts=3))
    if kind == "qwen":
        return transformers.Qwen3MoeForCausalLM(
            transformers.Qwen3MoeConfig(
                **sizes, moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2
            )
        )
    return transformers.GptOssForCausalLM(
        transformers.GptOssConfig(**sizes | {"intermediate_size": 16}, num_local_experts=3)
    )


@pytest.mark.parametrize("kind", ["mixtral", "qwen", "gpt-oss"])
@pytest.mark.parametrize("parameters", [["gate_up_proj", "down_proj"], ["down_proj"]], ids=len)
def test_parameters_of_mixtures_are_adapted_as_by_peft(parameters, kind, tmp_path):
    mixture(kind).save_pretrained(tmp_path / "base")
    options: dict[str, Any] = {
        "target_modules": ["q_proj"], "target_parameters": [f"mlp.experts.{name}" for name in parameters],
        "rank_pattern": {"experts.down_proj": 3}, "lora_dropout": 0.0,
    }  # fmt: skip
    folder = adapter(tmp_path / "base", tmp_path / "a", 1, r=2, **options)
    model = PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base"), folder
    )
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    expected, start = (load_file(tmp_path / name / "model.safetensors") for name in ("merged", "base"))
    run = open_adapter(folder, "a", Checkpoint.open(tmp_path / "base"))
    read = dict(run.tensors())
    assert read.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(read[name], tensor, rtol=1e-5, atol=1e-6)
        assert run.weights.leaves(name) == torch.equal(tensor, start[name])


def composite(kind: str) -> Any:
    """A model with GPT-2 inside, whose attention is square."""
    torch.manual_seed(0)
    decoder = gpt2().config
    decoder.is_decoder, decoder.add_cross_attention = True, True
    if kind == "speech":
        encoder: Any = transformers.Wav2Vec2Config(
            hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, conv_dim=(8,),
            conv_stride=(2,), conv_kernel=(3,), num_feat_extract_layers=1, num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
        )  # fmt: skip
        return transformers.SpeechEncoderDecoderModel(
            transformers.SpeechEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
        )
    if kind == "text":
        encoder = text_classifier().config
        return transformers.EncoderDecoderModel(
            transformers.EncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
        )
    encoder = transformers.ViTConfig(
        image_size=8,
        patch_size=4,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=24,
    )
    return transformers.VisionEncoderDecoderModel(
        transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(encoder, decoder)
    )


@pytest.mark.parametrize("kind", ["text", "vision", "speech"])
@pytest.mark.parametrize("dora", [False, True])
def test_conv1d_inside_of_a_composite_model_is_turned_as_by_peft(dora, kind, tmp_path):
    model = composite(kind)
    model.save_pretrained(tmp_path / "base")
    query = "query" if kind == "text" else "q_proj"
    options = {"target_modules": ["c_proj", "c_attn", "q_attn", query], "use_dora": dora}
    of = type(model)
    folder = adapter(tmp_path / "base", tmp_path / "a", 1, of=of, task_type=None, r=3, **options)
    merged = PeftModel.from_pretrained(of.from_pretrained(tmp_path / "base"), folder).merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    expected = load_file(tmp_path / "merged" / "model.safetensors")
    run = open_adapter(folder, "a", Checkpoint.open(tmp_path / "base"))
    assert len(run.weights.changed) >= 8
    for name, tensor in run.tensors():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_conv1d_and_linear_modules_in_one_adapter_are_each_turned_their_own_way(tied, dora, tmp_path):
    config = gpt2().config
    config.tie_word_embeddings = tied
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    targets = ["c_attn", "c_proj", *([] if tied else ["lm_head"])]
    options = {"target_modules": targets, "fan_in_fan_out": True, "use_dora": dora}
    folder = adapter(tmp_path / "base", tmp_path / "a", seed=2, r=3, **options)
    read = dict(open_adapter(folder, "a", Checkpoint.open(tmp_path / "base")).tensors())
    for name, tensor in merged_by_peft(tmp_path / "base", folder).items():
        if name in read:
            torch.testing.assert_close(read[name], tensor, rtol=1e-5, atol=1e-6)


def test_a_pool_of_adapters_finds_its_base_and_takes_little_memory(base, adapters):
    pool = find_pool(str(adapters))
    assert pool.base.path == base.resolve()
    assert [run.name for run in pool] == ["a", "b", "c", "d"]
    soup = Soup(Linear())
    for run in pool:
        soup.keep(run)
    changed = [name for name in pool.base.header if any(m in name for m in ("q_proj", "v_proj", "up_proj"))]
    assert sorted(soup._folds) == sorted(changed)  # what nobody adapts has no state


def test_files_of_an_adapter_and_of_its_base_that_changed_are_told(base, adapters, tmp_path):
    folders = [tmp_path / "base", tmp_path / "a"]
    for of, folder in zip((base, adapters / "a"), folders, strict=True):
        shutil.copytree(of, folder)
    run = open_adapter(folders[1], "a", Checkpoint.open(folders[0]))
    assert run.changed_files() == []
    files = [folders[0] / "model.safetensors", folders[1] / "adapter_model.safetensors"]
    for file in files:
        os.utime(file, ns=(0, 0))
    assert run.changed_files() == files


def test_the_average_of_adapters_is_that_of_the_models_that_peft_makes(base, adapters):
    pool = find_pool(str(adapters))
    models = [merged_by_peft(base, adapters / name) for name in "abcd"]
    merged = dict(Soup(Linear()).blend(pool.runs))
    for name, tensor in merged.items():
        mean = torch.stack([model[name].double() for model in models]).mean(0)
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "method", [TaskVectors(), TaskVectors(Magnitude(0.3), "mass", True), TaskVectors(Magnitude(0.3, "model"))]
)
def test_methods_give_the_same_for_adapters_and_for_the_models_they_make(method, base, adapters, tmp_path):
    pool = find_pool(str(adapters))
    models = []
    for run in pool:
        shutil.copytree(base, tmp_path / run.name)
        save_file(dict(run.tensors()), tmp_path / run.name / "model.safetensors", {"format": "pt"})
        models.append(Checkpoint.open(tmp_path / run.name))
    mixed = [pool.runs[0], models[1], pool.runs[2], models[3]]
    expected = dict(Soup(method, base=pool.base).blend(models))
    for runs in (pool.runs, mixed):
        for name, tensor in Soup(method, base=pool.base).blend(runs):
            # thresholds may fall between values that rounding makes unequal: few elements, if any
            close = torch.isclose(tensor, expected[name], rtol=1e-4, atol=1e-5)
            assert (~close).sum() <= 2, name


def test_tasting_and_keeping_adapters_gives_what_blending_them_does(adapters):
    pool = find_pool(str(adapters))
    for method in (Linear(), Linear(normalize=False), TaskVectors(Magnitude(0.5), "mass", True)):
        soup = Soup(method, base=pool.base)
        for run in pool.runs[:-1]:
            soup.keep(run)
        tasted = dict(soup.taste(pool.runs[-1]))
        soup.keep(pool.runs[-1])
        kept, blended = dict(soup.tensors()), dict(Soup(method, base=pool.base).blend(pool.runs))
        for name in blended:
            torch.testing.assert_close(tasted[name], blended[name], rtol=1e-6, atol=1e-7)
            torch.testing.assert_close(kept[name], blended[name], rtol=1e-6, atol=1e-7)


def test_changes_are_not_rounded_to_the_bases_dtype(tmp_path):
    llama().bfloat16().save_pretrained(tmp_path / "base")
    for seed in (1, 2):
        options = {"r": 2, "lora_alpha": 0.002, "target_modules": ["q_proj"]}  # far below bfloat16's step
        adapter(tmp_path / "base", tmp_path / f"runs/{seed}", seed, **options)
    pool = find_pool(str(tmp_path / "runs"))
    name = "model.layers.0.self_attn.q_proj.weight"
    merged = dict(Soup(TaskVectors(scale=1000.0), base=pool.base).blend(pool.runs))[name]
    changes = sum(run.weights.task_vector(name, CPU).double() for run in pool)
    start = load_file(tmp_path / "base" / "model.safetensors")[name].double()
    assert torch.equal(merged, (start + 1000 * changes).to(torch.bfloat16))


def test_a_live_model_is_built_from_an_adapter(base, adapters):
    pool = find_pool(str(adapters))
    live = LiveModel(pool.reference, transformers.AutoModelForCausalLM, CPU)
    tokens = torch.arange(20).reshape(2, 10)
    for name in "ad":
        live.fill(pool[name].tensors())
        model = PeftModel.from_pretrained(
            transformers.AutoModelForCausalLM.from_pretrained(base), adapters / name
        ).eval()
        with torch.no_grad():
            torch.testing.assert_close(live.model(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-5)


def test_an_adapter_may_bring_added_tokens(base, tmp_path):
    """As after `resize_token_embeddings`: peft then saves the embeddings whole."""
    folders, tokens = [tmp_path / "runs" / name for name in "ab"], torch.arange(53)[None]
    expected = {}
    for folder in folders:
        model = transformers.AutoModelForCausalLM.from_pretrained(base)
        model.resize_token_embeddings(53)
        peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"]))
        shake(peft, 0.1)
        peft.save_pretrained(folder, save_embedding_layers=True)
        fresh = transformers.AutoModelForCausalLM.from_pretrained(base)
        fresh.resize_token_embeddings(53)
        merged = PeftModel.from_pretrained(fresh, folder).merge_and_unload().eval()
        expected[folder.name] = merged
    pool = find_pool(str(tmp_path / "runs"))
    live = LiveModel(pool.reference, transformers.AutoModelForCausalLM, CPU)
    assert live.model.config.vocab_size == 53
    for run in pool:
        live.fill(run.tensors())
        with torch.no_grad():
            logits = expected[run.name](tokens).logits
            torch.testing.assert_close(live.model(tokens).logits, logits, rtol=1e-4, atol=1e-5)
    merged = dict(Soup(TaskVectors(normalize=True), base=pool.base).blend(pool.runs))
    for name, tensor in merged.items():
        mean = sum(model.state_dict()[name].double() for model in expected.values()) / 2
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-4, atol=1e-5)
    live.fill(merged.items())
    live.save(tmp_path / "soup", pool.reference)
    assert (
        transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "soup")
        .get_input_embeddings()
        .num_embeddings
        == 53
    )


# From the command line, with heads of their own


@pytest.fixture(scope="module")
def classifiers(tmp_path_factory: pytest.TempPathFactory, texts: Path) -> Path:
    """A bare encoder, and adapters of it that bring a head with three labels."""
    folder = tmp_path_factory.mktemp("classifiers")
    train = pd.read_csv(texts / "train.csv")
    trained = train_text_classifier(text_classifier(), train, rate=4e-3, epochs=14, seed=9)
    trained.bert.save_pretrained(folder / "base")
    save_tokenizer(folder / "base")
    inputs = tokenizer()(train["text"].tolist(), padding=True, return_tensors="pt")
    labels = torch.tensor([LABELS.index(label) for label in train["label"]])
    for seed, rank in enumerate((2, 4, 3)):
        torch.manual_seed(7)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(folder / "base", num_labels=3)
        options = LoraConfig(task_type="SEQ_CLS", r=rank, lora_alpha=8, target_modules=["query", "value"])
        model = get_peft_model(model, options).train()
        torch.manual_seed(seed)
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
        for rows in torch.randint(len(labels), (30, 20)):
            loss = model(**{key: value[rows] for key, value in inputs.items()}, labels=labels[rows]).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.save_pretrained(folder / "runs" / f"run{seed}")
    return folder


def numbered(texts: Path, folder: Path) -> Path:
    """The texts with labels by number: adapters don't know names."""
    folder.mkdir()
    for split in ("train", "validation", "test"):
        frame = pd.read_csv(texts / f"{split}.csv")
        frame["label"] = [LABELS.index(label) for label in frame["label"]]
        frame.to_csv(folder / f"{split}.csv", index=False)
    return folder


@pytest.mark.parametrize("method", ["linear", "ties"])
def test_adapters_of_a_bare_encoder_cook(method, classifiers, texts, tmp_path):
    words = own(classifiers / "runs", numbered(texts, tmp_path / "texts"))
    soupkitchen(*words, f"method={method}", "name=x", cwd=tmp_path)
    table = pd.read_csv(tmp_path / "results/x/leaderboard.csv")
    best = table[table["kind"] == "single"]["heldout_accuracy"].max()
    assert table[table["kind"] == "soup"]["heldout_accuracy"].iloc[0] >= best > 0.5
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "results/x/soup")
    assert isinstance(model.base_model, transformers.BertModel)
    assert model.config.num_labels == 3


def peft_scores(base: Path, folder: Path, texts: Path) -> float:
    model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=3)
    model = PeftModel.from_pretrained(model, folder).eval()
    frame = pd.read_csv(texts / "validation.csv")
    inputs = tokenizer()(frame["text"].tolist(), padding=True, return_tensors="pt")
    with torch.no_grad():
        predicted = model(**inputs).logits.argmax(-1).numpy()
    return float(np.mean(predicted == frame["label"].to_numpy()))


@pytest.mark.parametrize("words", [(), ("output.rank=5",), ("method=ties", "output.rank=16")])
def test_a_soup_of_adapters_is_saved_as_one_that_peft_loads(words, classifiers, texts, tmp_path):
    data = numbered(texts, tmp_path / "texts")
    words = (*own(classifiers / "runs", data), "search=uniform", "output.format=adapter", *words, "name=x")
    result = soupkitchen(*words, cwd=tmp_path)
    assert "relative error of" in result.stderr
    table = pd.read_csv(tmp_path / "results/x/leaderboard.csv")
    scored = table[table["kind"] == "soup"]["heldout_accuracy"].iloc[0]
    loaded = peft_scores(classifiers / "base", tmp_path / "results/x/soup", data)
    if "output.rank=5" in words:
        assert f"as one adapter the soup scores {loaded:.4f}" in result.stderr or loaded == scored
    else:
        assert loaded == pytest.approx(scored)


def test_the_exact_adapter_has_the_ranks_together_and_the_average_change(base, adapters, tmp_path):
    from soupkitchen.output.adapter import concatenated, truncated, write_adapter

    runs = find_pool(str(adapters), exclude=["d"]).runs
    weights = [1.0, 2.0, 1.0]
    factored = concatenated(runs, weights)
    assert factored.rank == 7  # v_proj: 4 + 3
    (tmp_path / "soup").mkdir()
    write_adapter(runs, factored, {}, tmp_path / "soup")
    models = [merged_by_peft(base, adapters / name) for name in "abc"]
    changes: dict[str, torch.Tensor] = {}
    start = load_file(base / "model.safetensors")
    for name, tensor in merged_by_peft(base, tmp_path / "soup").items():
        mean = sum(w * model[name].double() for w, model in zip(weights, models, strict=True)) / 4
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-5, atol=1e-6)
        if "q_proj" in name or "v_proj" in name or "up_proj" in name:
            changes[name] = (mean - start[name].double()).float()
    cut = truncated(runs, changes.items(), 2)
    lost = total = 0.0
    for name, change in changes.items():
        factors = cut.tensors[name]
        lost += float((change.double() - (factors.up.double() @ factors.down.double())).square().sum())
        total += float(change.double().square().sum())
    assert cut.error == pytest.approx((lost / total) ** 0.5, rel=1e-4)
    assert cut.rank == 2
    assert truncated(runs, changes.items(), 7).error < 1e-6


# What cannot be merged


def _edit(folder: Path, **values: Any) -> None:
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture
def spoiled(base: Path, adapters: Path, tmp_path: Path) -> Iterator[Path]:
    for name in ("a", "b"):
        shutil.copytree(adapters / name, tmp_path / "runs" / name)
    return tmp_path / "runs"


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"init_lora_weights": "pissa_niter_4"}, "changed the base model when training began"),
        ({"kasa_config": {"beta": 0.1}}, "kasa_config cannot be merged"),
        ({"arrow_config": {"top_k": 3}}, "arrow_config cannot be merged"),
        ({"use_qalora": True}, "use_qalora cannot be merged"),
        ({"alora_invocation_tokens": [1]}, "alora_invocation_tokens cannot be merged"),
        ({"layer_replication": [[0, 2]]}, "layer_replication cannot be merged"),
        ({"use_bdlora": {"nblocks": 0}}, "nblocks=0 should be at least 1"),
        ({"use_bdlora": 3}, "adapter_config.json: use_bdlora"),
        ({"trainable_token_indices": {"a": "b"}}, "adapter_config.json: trainable_token_indices"),
        ({"target_modules": {"a": "b"}}, "adapter_config.json: target_modules"),
        ({"layers_to_transform": "all"}, "adapter_config.json: layers_to_transform"),
        ({"alpha_pattern": {"q_proj": [1]}}, r"adapter_config.json: alpha_pattern\.q_proj"),
        ({"r": 0}, "r=0 should be a whole number of at least 1"),
        ({"use_tomorrow": 3}, "the option use_tomorrow is not known here"),
        ({"target_modules": ["nothing"]}, "selects none of the modules"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save names lm_head, but its files hold no"),
        ({"trainable_token_indices": [1]}, "names rows that its files do not hold"),
        ({"lora_bias": True}, "has no lora_B.bias"),
        ({"r": 5}, "has rank 2, where adapter_config.json says 5"),
        ({"use_dora": True}, "no lora_magnitude_vector"),
        ({"base_model_name_or_path": None}, "does not say what it was trained on"),
        ({"base_model_name_or_path": "/nowhere/model"}, "its base model is not there"),
        ({"base_model_name_or_path": "x" * 300}, ""),
        ({"lora_alpha": float("nan")}, ""),
        ({"lora_alpha": 10**400}, ""),
        ({"alpha_pattern": {"(": 3}}, "alpha_pattern"),
        ({"rank_pattern": ["q_proj"]}, "rank_pattern"),
        ({"modules_to_save": 3}, "adapter_config.json: modules_to_save: Input should be"),
    ],
)
def test_adapters_that_cannot_be_merged_are_named(values, complaint, spoiled):
    _edit(spoiled / "b", **values)
    with pytest.raises(IncompatibleError, match=f"b +.*{complaint}"):
        find_pool(str(spoiled))


@pytest.mark.parametrize("kind", [kind.value for kind in PeftType if kind != PeftType.LORA])
def test_adapters_of_other_kinds_are_refused_by_name(kind, tmp_path):
    (tmp_path / ADAPTER_CONFIG_NAME).write_text(json.dumps({"peft_type": kind, "target_modules": ["q"]}))
    with pytest.raises(CheckpointError, match=f"an adapter of type {kind} is no low-rank task vector"):
        AdapterConfig.read(tmp_path, "llama")


def test_an_adapter_of_another_base_is_named(spoiled, base, tmp_path):
    shutil.copytree(spoiled / "a", spoiled / "c")
    other = llama()
    with torch.no_grad():
        other.lm_head.weight.add_(1)
    other.save_pretrained(tmp_path / "other")
    _edit(spoiled / "b", base_model_name_or_path=str(tmp_path / "other"))
    with pytest.raises(IncompatibleError, match=r"b +it was trained on .*other, and others on .*llama"):
        find_pool(str(spoiled))
    with pytest.raises(IncompatibleError, match=r"b +it was trained on .*other, which is another model"):
        find_pool(str(spoiled), base=str(base))
    gpt2().save_pretrained(tmp_path / "gpt2")
    for name in ("a", "b", "c"):
        _edit(spoiled / name, base_model_name_or_path="org/elsewhere")
    with pytest.raises(IncompatibleError, match="is that its base"):
        find_pool(str(spoiled), base=str(tmp_path / "gpt2"))


def test_an_adapter_that_names_a_base_that_is_elsewhere_takes_the_one_given(spoiled, base):
    for name in ("a", "b"):
        _edit(spoiled / name, base_model_name_or_path="org/some-model")
    assert find_pool(str(spoiled), base=str(base)).base.path == base
    with pytest.raises(IncompatibleError, match=r"pool\.base=… says where"):
        find_pool(str(spoiled))


def test_tensors_of_an_unknown_kind_are_never_passed_over(spoiled):
    file = spoiled / "b" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(iter(tensors))
    save_file({**tensors, name.replace("lora_A.weight", "lora_diag"): torch.zeros(2)}, file)
    with pytest.raises(IncompatibleError, match="of a kind of adapter that cannot be merged"):
        find_pool(str(spoiled))
    save_file({name: tensors[name]}, file)
    with pytest.raises(IncompatibleError, match="only lora_A is there"):
        find_pool(str(spoiled))
    file.unlink()
    with pytest.raises(IncompatibleError, match=r"no adapter_model\.safetensors"):
        find_pool(str(spoiled))


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["output.format=adapter", "method=ties"], "output.rank"),
        (["output.rank=4"], "output.rank is for output.format=adapter"),
        (["output.format=adapter", "output.rank=0"], "output.rank=0 should be a whole number of at least 1"),
        (["output.format=lora"], "choose full or adapter"),
    ],
)
def test_adapter_options_that_contradict_are_refused(words, complaint, classifiers, texts, tmp_path):
    data = numbered(texts, tmp_path / "texts")
    result = soupkitchen(*own(classifiers / "runs", data), *words, cwd=tmp_path, fails=True)
    assert complaint in result.stderr


def test_a_pool_of_models_is_not_saved_as_an_adapter(text_runs, texts, tmp_path):
    result = soupkitchen(*own(text_runs, texts), "output.format=adapter", cwd=tmp_path, fails=True)
    assert "needs a pool of LoRA adapters" in result.stderr


def test_a_pickled_adapter_with_code_is_refused(spoiled):
    (spoiled / "b" / "adapter_model.safetensors").unlink()
    torch.save({"x": print}, spoiled / "b" / "adapter_model.bin")
    with pytest.raises((CheckpointError, IncompatibleError), match="more than tensors"):
        find_pool(str(spoiled))


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama whose head is its embedding."""
    folder = tmp_path_factory.mktemp("tied") / "base"
    model = llama()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(folder)
    return folder


APART: dict[str, dict[str, Any]] = {
    "embedding trained whole": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "head trained whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "embedding adapted": {"target_modules": ["q_proj", "embed_tokens"]},
    "head adapted": {"target_modules": ["q_proj", "lm_head"]},
}


@pytest.mark.parametrize("kind", APART)
def test_an_embedding_and_a_head_that_are_tied_and_trained_apart_are_refused(kind, tied, tmp_path):
    folder = adapter(tied, tmp_path / "a", 1, r=2, **APART[kind])
    model = PeftModel.from_pretrained(transformers.AutoModelForCausalLM.from_pretrained(tied), folder).eval()
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tokens = torch.arange(50)[None]
    with torch.no_grad():  # peft's model has two tensors where the base has one
        embedded = embedding(tokens)[0]
        assert not torch.allclose(head(torch.eye(16)), embedded.T, atol=1e-3)
    with pytest.raises(CheckpointError, match=r"(embed_tokens|lm_head)\.weight was trained apart from"):
        open_adapter(folder, "a", Checkpoint.open(tied))


@pytest.mark.parametrize("how", ["tied", "resized", "elsewhere", "rows", "resized, rows"])
def test_an_embedding_and_a_head_that_stay_tied_are_as_peft_has_them(how, tied, tmp_path):
    options: dict[str, Any] = {"target_modules": ["q_proj"]}
    if how == "tied":
        options |= {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}

    if "rows" in how:
        options |= {"trainable_token_indices": [3, 49] if how == "rows" else [3, 51, 52]}

    def fresh() -> Any:
        torch.manual_seed(4)  # new rows are drawn
        model = transformers.AutoModelForCausalLM.from_pretrained(tied)
        if "resized" in how:
            model.resize_token_embeddings(53)
        return model

    model = get_peft_model(fresh(), LoraConfig(task_type="CAUSAL_LM", r=2, **options))
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path / "a")
    tokens = torch.tensor([[*range(18), 49, 52 if "resized" in how else 48]])
    model = PeftModel.from_pretrained(fresh(), tmp_path / "a").eval()
    run = open_adapter(tmp_path / "a", "a", Checkpoint.open(tied))
    live = LiveModel(run, transformers.AutoModelForCausalLM, CPU)
    live.fill(run.tensors())
    with torch.no_grad():
        torch.testing.assert_close(live.model(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-5)


# Regular expressions for modules

atoms = st.sampled_from([
    "a", "b", r"\.", ".", r"\d", r"\w", "[ab]", "[^a]", "[a-c0-9]", r"[\d_]", "(a|b)", "(?:ab|c)",
    "(a|)", "(?=a)", "(?!b)", "^", "$", "layers", r"\d+", "()", "(a*)", "(?:a+b)*", "(a|ab)(c|bcd)",
])  # fmt: skip
repeats = st.sampled_from(["", "", "", "*", "+", "?", "{2}", "{0,1}", "{1,3}", "{2,}", "*?", "+?"])
expressions = st.lists(st.tuples(atoms, repeats), min_size=1, max_size=5).map(
    lambda parts: "".join(f"(?:{atom}){repeat}" if repeat else atom for atom, repeat in parts)
)
modules = st.text("ab.cd019_", max_size=9) | st.sampled_from(["layers.0.q_proj", "layers.10.layers"])


def ends_with(module: str, pattern: str) -> bool:
    return Expressions().match(_END.replace("{}", pattern), module)


@pytest.mark.slow
@settings(max_examples=2000, deadline=None)
@given(expressions | st.sampled_from(["a", r".*\.q_proj", "a.b", r"layers\.\d+\..*"]), modules)
def test_expressions_match_as_re_has_them_match(pattern, module):
    assert ends_with(module, pattern) == bool(re.match(rf"(.*\.)?({pattern})$", module))


CATASTROPHIC = [
    r"(\w+)+!", r"(a|a)*!", r"(a|aa)+!", r"(.*)*(.*)*!", r"a?" * 60 + "a" * 60 + "!", r"(((a*)*)*)*!",
    "(a|a)" * 60 + "!", r"(?:a{1,9}){1,20}!", r"a*" * 30 + "!", r"(?=(a+)+!)a", r"(a+)\1+\1+!",
]  # fmt: skip


@pytest.mark.parametrize("pattern", CATASTROPHIC)
def test_no_expression_takes_longer_than_it_may(pattern, monkeypatch):
    monkeypatch.setattr(adapter_config, "_MATCHING_SECONDS", 0.2)
    begin, expressions = time.process_time(), Expressions()
    for _ in range(20):  # all of them together
        with suppress(TimeoutError):
            assert not expressions.match(_END.replace("{}", pattern), "a" * 120)
    assert time.process_time() - begin < 2


@pytest.mark.parametrize(
    "pattern",
    [
        *(r"(?i)a", r"(?<=a)b", r".*(?P<x>l)(?P=x)", "(?R)", "(", "*", "(" * 5000, "a|" * 6000, r"{e}a"),
        *("a{9999999999999}", r"(?:(?:(?:a{100}){100}){100}){100}"),  # more memory than there is
    ],
)
def test_expressions_that_are_not_followed_are_refused(pattern, spoiled):
    _edit(spoiled / "b", rank_pattern={pattern: 2})
    with pytest.raises(IncompatibleError, match=r"b +.*rank_pattern=.* cannot be understood"):
        find_pool(str(spoiled))


def test_a_classifier_on_a_causal_base_is_built_without_its_language_head(base, tmp_path):
    for seed in (1, 2):
        torch.manual_seed(seed)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
        model = get_peft_model(model, LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["q_proj"]))
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(tmp_path / "runs" / f"run{seed}")
    pool = find_pool(str(tmp_path / "runs"))
    live = LiveModel(pool.reference, transformers.AutoModelForSequenceClassification, CPU)
    live.model.config.pad_token_id = 0
    tokens = torch.arange(1, 21).reshape(2, 10)
    for run in pool:
        live.fill(run.tensors())
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=2, pad_token_id=0
        )
        model = PeftModel.from_pretrained(model, run.path).eval()
        with torch.no_grad():
            torch.testing.assert_close(live.model(tokens).logits, model(tokens).logits, rtol=1e-4, atol=1e-5)


# Models whose modules transformers calls otherwise than files do


@pytest.fixture(scope="module")
def vits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny ViT, whose files say ``attention.query`` where it says ``q_proj``; adapters; images."""
    folder = tmp_path_factory.mktemp("vits")
    make_pictures(folder / "data")
    torch.manual_seed(0)
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=24, id2label={0: "dark", 1: "light"}, label2id={"dark": 0, "light": 1},
    )  # fmt: skip
    transformers.ViTForImageClassification(config).save_pretrained(folder / "base")
    transformers.ViTImageProcessorPil(size={"height": 8, "width": 8}).save_pretrained(folder / "base")
    for seed, rank in enumerate((2, 3, 2)):
        adapter(
            folder / "base", folder / "runs" / f"run{seed}", seed,
            of=transformers.AutoModelForImageClassification, task_type=None, r=rank,
            target_modules=["q_proj", "o_proj", "fc1"], modules_to_save=["classifier"],
        )  # fmt: skip
    return folder


def vit_merged_by_peft(vits: Path, adapter: Path, folder: Path) -> dict[str, torch.Tensor]:
    """By names in files."""
    base = transformers.AutoModelForImageClassification.from_pretrained(vits / "base")
    PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def test_adapters_of_renamed_modules_make_the_model_that_peft_makes(vits, tmp_path):
    start = load_file(vits / "base" / "model.safetensors")
    for run in find_pool(str(vits / "runs")):
        expected = vit_merged_by_peft(vits, run.path, tmp_path / run.name)
        read = dict(run.tensors())
        assert read.keys() == expected.keys() == start.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(read[name], tensor, rtol=1e-5, atol=1e-6)
        changed = {name for name in start if not torch.equal(start[name], expected[name])}
        assert len(changed) == 2 * 3 + 2  # in each of two layers; the head
        assert all(run.weights.leaves(name) for name in start.keys() - changed)


def test_adapters_of_renamed_modules_are_cooked_and_saved_as_one(vits, tmp_path):
    words = (
        f"pool.path={vits}/runs", "task=image_classification", f"task.data.path={vits}/data",
        "evaluation.cache=null", "runtime.batch_size=8", "search=uniform", "name=x",
    )  # fmt: skip
    soupkitchen(*words, "output.format=adapter", cwd=tmp_path)
    soup = vit_merged_by_peft(vits, tmp_path / "results" / "x" / "soup", tmp_path / "soup")
    names = [f"run{number}" for number in range(3)]
    runs = [vit_merged_by_peft(vits, vits / "runs" / name, tmp_path / name) for name in names]
    for name, tensor in soup.items():
        mean = torch.stack([run[name].double() for run in runs]).mean(0)
        torch.testing.assert_close(tensor.double(), mean, rtol=1e-4, atol=1e-5)
