"""Filling the one live model in place, for families that transformers renames, ties and fuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    Dinov2Config,
    GPT2Config,
    LlamaConfig,
    MixtralConfig,
    ResNetConfig,
    SwinConfig,
    ViTConfig,
)

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.names import parameter_names
from soupkitchen.errors import CheckpointError
from soupkitchen.evaluation import LiveModel

CPU = torch.device("cpu")
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TOKENS = torch.arange(1, 9).reshape(2, 4)
PIXELS = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
FAMILIES: dict[str, tuple[Any, Any, dict[str, torch.Tensor]]] = {
    "gpt2-tied": (
        AutoModelForCausalLM,
        GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=16),
        {"input_ids": TOKENS},
    ),
    "llama": (
        AutoModelForCausalLM,
        LlamaConfig(vocab_size=40, num_key_value_heads=1, **SMALL),
        {"input_ids": TOKENS},
    ),
    "mixtral-fused": (
        AutoModelForCausalLM,
        MixtralConfig(vocab_size=40, num_key_value_heads=1, num_local_experts=2, **SMALL),
        {"input_ids": TOKENS},
    ),
    "vit-renamed": (
        AutoModelForImageClassification,
        ViTConfig(image_size=8, patch_size=4, **SMALL),
        {"pixel_values": PIXELS},
    ),
    "dinov2-renamed": (
        AutoModelForImageClassification,
        Dinov2Config(
            image_size=8,
            patch_size=4,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            mlp_ratio=2,
        ),
        {"pixel_values": PIXELS},
    ),
    "swin-renamed": (
        AutoModelForImageClassification,
        SwinConfig(image_size=8, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=2),
        {"pixel_values": PIXELS},
    ),
    "resnet-batchnorm": (
        AutoModelForImageClassification,
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
        {"pixel_values": PIXELS},
    ),
}


def make(family: str, folder: Path, seed: int) -> Checkpoint:
    model_class, config, _ = FAMILIES[family]
    torch.manual_seed(seed)
    model = model_class.from_config(config)
    with torch.no_grad():
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.is_floating_point():
                tensor.add_(torch.rand_like(tensor) * 0.1)
    model.save_pretrained(folder)
    return Checkpoint.open(folder)


def logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(**inputs).logits


@pytest.mark.parametrize("family", FAMILIES)
def test_a_filled_model_answers_as_from_pretrained_does(family: str, tmp_path: Path) -> None:
    model_class, _, inputs = FAMILIES[family]
    first, second = make(family, tmp_path / "first", 0), make(family, tmp_path / "second", 1)
    live = LiveModel(first, model_class, CPU)
    assert live.in_place == (family != "mixtral-fused")
    expected = {run: logits(model_class.from_pretrained(run.path), inputs) for run in (first, second)}
    assert not torch.equal(expected[first], expected[second])
    for run in (second, first, second):
        live.fill(run.tensors())
        assert torch.equal(logits(live.model, inputs), expected[run])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_has_the_files_tensors_again(family: str, tmp_path: Path) -> None:
    model_class = FAMILIES[family][0]
    first, second = make(family, tmp_path / "first", 0), make(family, tmp_path / "second", 1)
    live = LiveModel(first, model_class, CPU)
    live.fill(second.tensors())
    live.save(tmp_path / "saved")
    saved, expected = (load_file(f / "model.safetensors") for f in (tmp_path / "saved", second.path))
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], expected[name]) for name in expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_called_as_in_the_loaded_model(family: str, tmp_path: Path) -> None:
    run = make(family, tmp_path, 0)
    loaded = FAMILIES[family][0].from_pretrained(run.path).state_dict()
    names = parameter_names(run.path, run.header)
    assert all(torch.equal(loaded[name], run.tensor(file)) for file, name in names.items())
    fused = {file for file in run.header if ".experts." in file}
    assert names.keys() == run.header.keys() - fused
    assert any(file != name for file, name in names.items()) == ("renamed" in family or bool(fused))


def test_filling_writes_into_the_parameters_themselves(tmp_path: Path) -> None:
    first, second = make("llama", tmp_path / "first", 0), make("llama", tmp_path / "second", 1)
    live = LiveModel(first, AutoModelForCausalLM, CPU)
    addresses = [parameter.data_ptr() for parameter in live.model.parameters()]
    live.fill(second.tensors())
    assert [parameter.data_ptr() for parameter in live.model.parameters()] == addresses


def test_files_are_not_changed_by_filling(tmp_path: Path) -> None:
    first, second = make("llama", tmp_path / "first", 0), make("llama", tmp_path / "second", 1)
    before = (first.path / "model.safetensors").read_bytes()
    LiveModel(first, AutoModelForCausalLM, CPU).fill(second.tensors())
    assert (first.path / "model.safetensors").read_bytes() == before


def test_weights_keep_the_dtype_of_their_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(FAMILIES["llama"][1]).bfloat16().save_pretrained(tmp_path)
    live = LiveModel(Checkpoint.open(tmp_path), AutoModelForCausalLM, CPU)
    assert {parameter.dtype for parameter in live.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("family", ["llama", "vit-renamed"])
def test_a_missing_tensor_is_an_error(family: str, tmp_path: Path) -> None:
    run = make(family, tmp_path, 0)
    live = LiveModel(run, FAMILIES[family][0], CPU)
    with pytest.raises(CheckpointError, match="half filled"):
        live.fill((name, tensor) for name, tensor in run.tensors() if "layernorm" not in name)


def test_a_tensor_without_a_place_is_an_error(tmp_path: Path) -> None:
    run = make("llama", tmp_path, 0)
    live = LiveModel(run, AutoModelForCausalLM, CPU)
    with pytest.raises(CheckpointError, match=r"no place for the tensor 'extra\.weight'"):
        live.fill([*run.tensors(), ("extra.weight", torch.zeros(1))])


def test_a_model_without_the_tasks_head_is_refused(tmp_path: Path) -> None:
    run = make("llama", tmp_path, 0)
    with pytest.raises(CheckpointError, match="fine-tuned for another task"):
        LiveModel(run, AutoModelForSequenceClassification, CPU)


def test_tensors_that_the_model_would_drop_are_refused(tmp_path: Path) -> None:
    run = make("llama", tmp_path, 0)
    file = run.path / "model.safetensors"
    save_file({**load_file(file), "value_head.weight": torch.zeros(2)}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"value_head\.weight.*no place"):
        LiveModel(Checkpoint.open(tmp_path), AutoModelForCausalLM, CPU)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    run = make("llama", tmp_path, 0)
    with pytest.raises(CheckpointError, match="AutoModelForImageClassification cannot load it"):
        LiveModel(run, AutoModelForImageClassification, CPU)
