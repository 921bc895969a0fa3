"""Filling the one live model in place, for families that transformers renames, ties and fuses."""

from __future__ import annotations

import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from soupkitchen.checkpoints import Checkpoint, TensorInfo, names
from soupkitchen.checkpoints.names import parameter_names
from soupkitchen.errors import CheckpointError
from soupkitchen.evaluation import LiveModel
from soupkitchen.models.auto import load_model

CPU = torch.device("cpu")
SMALL = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
TOKENS = torch.arange(1, 9).reshape(2, 4)
PIXELS = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)
FAMILIES: dict[str, tuple[Any, Any, dict[str, torch.Tensor]]] = {
    "gpt2-tied": (
        transformers.AutoModelForCausalLM,
        transformers.GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, n_positions=16),
        {"input_ids": TOKENS},
    ),
    "llama": (
        transformers.AutoModelForCausalLM,
        transformers.LlamaConfig(vocab_size=40, num_key_value_heads=1, **SMALL),
        {"input_ids": TOKENS},
    ),
    "mixtral-fused": (
        transformers.AutoModelForCausalLM,
        transformers.MixtralConfig(vocab_size=40, num_key_value_heads=1, num_local_experts=2, **SMALL),
        {"input_ids": TOKENS},
    ),
    "vit-renamed": (
        transformers.AutoModelForImageClassification,
        transformers.ViTConfig(image_size=8, patch_size=4, **SMALL),
        {"pixel_values": PIXELS},
    ),
    "dinov2-renamed": (
        transformers.AutoModelForImageClassification,
        transformers.Dinov2Config(
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
        transformers.AutoModelForImageClassification,
        transformers.SwinConfig(
            image_size=8, patch_size=2, embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=2
        ),
        {"pixel_values": PIXELS},
    ),
    "resnet-batchnorm": (
        transformers.AutoModelForImageClassification,
        transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic"),
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
def test_a_filled_model_answers_as_from_pretrained_does(family, tmp_path):
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
def test_a_saved_model_has_the_files_tensors_again(family, tmp_path):
    model_class = FAMILIES[family][0]
    first, second = make(family, tmp_path / "first", 0), make(family, tmp_path / "second", 1)
    live = LiveModel(first, model_class, CPU)
    live.fill(second.tensors())
    live.save(tmp_path / "saved", first)
    saved, expected = (load_file(f / "model.safetensors") for f in (tmp_path / "saved", second.path))
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], expected[name]) for name in expected)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_called_as_in_the_loaded_model(family, tmp_path):
    run = make(family, tmp_path, 0)
    loaded = FAMILIES[family][0].from_pretrained(run.path).state_dict()
    called = parameter_names(run.path, run.header)
    assert all(torch.equal(loaded[name], run.tensor(file)) for file, name in called.items())
    fused = {file for file in run.header if ".experts." in file}
    assert called.keys() == run.header.keys() - fused
    assert any(file != name for file, name in called.items()) == ("renamed" in family or bool(fused))


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The file tensors whose values were looked at."""
    names: list[str] = []
    tensor = Checkpoint.tensor

    def noted(self: Checkpoint, name: str) -> torch.Tensor:
        names.append(name)
        return tensor(self, name)

    monkeypatch.setattr(Checkpoint, "tensor", noted)
    return names


@pytest.mark.parametrize("family", FAMILIES)
def test_values_are_compared_once_a_pool(family, tmp_path, compared):
    model_class, _, inputs = FAMILIES[family]
    first, second = make(family, tmp_path / "first", 0), make(family, tmp_path / "second", 1)
    live = LiveModel(first, model_class, CPU)
    fused = family == "mixtral-fused"
    assert sorted(compared) == ([] if fused else sorted(first.header))
    compared.clear()
    for run in (second, first):
        live.load(run)
        assert live.in_place != fused
        expected = logits(model_class.from_pretrained(second.path), inputs)
        live.fill(second.tensors())
        assert torch.equal(logits(live.model, inputs), expected)
    assert compared == []


def test_a_map_is_not_kept_for_files_of_other_names(tmp_path, compared):
    first, second = make("gpt2-tied", tmp_path / "first", 0), make("gpt2-tied", tmp_path / "second", 1)
    tensors = load_file(second.path / "model.safetensors")
    tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")
    save_file(tensors, second.path / "model.safetensors", {"format": "pt"})
    second = Checkpoint.open(second.path)
    live = LiveModel(first, transformers.AutoModelForCausalLM, CPU)
    compared.clear()
    live.load(second)
    assert sorted(compared) == sorted(second.header)
    live.fill((name, tensor + 1) for name, tensor in second.tensors())
    torch.testing.assert_close(live.model.lm_head.weight.data, tensors["lm_head.weight"] + 1)


def test_a_map_is_not_kept_for_a_model_with_other_ties(tmp_path):
    first, second = make("gpt2-tied", tmp_path / "first", 0), make("gpt2-tied", tmp_path / "second", 1)
    live = LiveModel(first, transformers.AutoModelForCausalLM, CPU)
    kept = live._names
    assert kept is not None
    assert kept.is_for(second, live.model)
    live.model.lm_head.weight = torch.nn.Parameter(live.model.lm_head.weight.detach().clone())
    assert not kept.is_for(second, live.model)


@pytest.mark.parametrize("family", ["vit-renamed", "mixtral-fused"])
def test_a_model_that_has_other_values_than_its_files_is_not_filled_in_place(family, tmp_path, monkeypatch):
    run = make(family, tmp_path, 0)

    def changed(*given: Any) -> Any:
        model = load_model(*given)
        with torch.no_grad():
            next(iter(model.parameters())).view(-1)[-1].add_(
                1
            )  # as of a row that transformers initialises anew
        return model

    monkeypatch.setattr("soupkitchen.models.auto.load_model", changed)
    assert not LiveModel(run, FAMILIES[family][0], CPU).in_place


def test_names_that_loading_exchanges_are_followed(tmp_path, monkeypatch):
    """As of a list of renames in which one tensor gets the name that another had."""
    run = make("llama", tmp_path, 0)
    one, other = (f"model.layers.0.self_attn.{kind}_proj.weight" for kind in "kv")
    exchanged = {one: other, other: one}

    def load(*given: Any) -> Any:
        model = load_model(*given)
        model.load_state_dict({to: run.tensor(name) for name, to in exchanged.items()}, strict=False)
        return model

    traced = {name: exchanged.get(name, name) for name in run.header}
    monkeypatch.setattr(names, "_trace", lambda *_: (traced, []))
    monkeypatch.setattr("soupkitchen.models.auto.load_model", load)
    live = LiveModel(run, transformers.AutoModelForCausalLM, CPU)
    live.fill((name, tensor + 1) for name, tensor in run.tensors())
    assert torch.equal(live.model.get_parameter(one), run.tensor(other) + 1)


def test_tensors_that_are_equal_are_not_taken_for_each_other(tmp_path):
    """Weights of ones, biases of zeros: names tell, and no values could."""
    model_class, config, inputs = FAMILIES["vit-renamed"]
    model = model_class.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1)
    model.save_pretrained(tmp_path / "equal")
    second = make("vit-renamed", tmp_path / "second", 1)
    live = LiveModel(Checkpoint.open(tmp_path / "equal"), model_class, CPU)
    assert live.in_place
    live.fill(second.tensors())
    assert torch.equal(logits(live.model, inputs), logits(model_class.from_pretrained(second.path), inputs))


def test_old_names_of_layer_norm_are_followed(text_runs, tmp_path):
    """As TensorFlow's BERTs have them."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(text_runs / "a")
    model.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    tensors = load_file(file)
    for new, name in old.items():
        tensors = {key.replace(new, name): tensor for key, tensor in tensors.items()}
    save_file(tensors, file, {"format": "pt"})
    run = Checkpoint.open(tmp_path)
    assert any("gamma" in name for name in run.header)
    live = LiveModel(run, transformers.AutoModelForSequenceClassification, CPU)
    assert live.in_place
    live.fill((name, tensor + 1) for name, tensor in run.tensors())
    for name, tensor in model.state_dict().items():
        assert torch.equal(live.model.state_dict()[name], tensor + 1)


def test_buffers_of_old_files_are_ignored_and_said_once(text_runs, tmp_path, caplog):
    caplog.set_level("INFO")
    name = "bert.embeddings.position_ids"
    for run in ("a", "b"):
        transformers.AutoModelForSequenceClassification.from_pretrained(text_runs / run).save_pretrained(
            tmp_path / run
        )
        file = tmp_path / run / "model.safetensors"
        save_file({**load_file(file), name: torch.arange(32)[None]}, file, {"format": "pt"})
    live = LiveModel(Checkpoint.open(tmp_path / "a"), transformers.AutoModelForSequenceClassification, CPU)
    live.load(Checkpoint.open(tmp_path / "b"))
    assert live.in_place
    assert live.ignores(name)
    assert not live.ignores("classifier.bias")
    assert [r.message for r in caplog.records if "has no use for" in r.message] == [
        f"transformers has no use for {name} of the runs' files"
    ]
    live.fill(Checkpoint.open(tmp_path / "b").tensors())


def test_models_of_which_parameters_are_no_single_file_tensors_are_told_once(tmp_path, caplog):
    caplog.set_level("INFO")
    run = make("mixtral-fused", tmp_path, 0)
    LiveModel(run, transformers.AutoModelForCausalLM, CPU).load(run)
    assert caplog.text.count("MixtralForCausalLM rearranges tensors of its files") == 1


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is Linux's")
@pytest.mark.parametrize("family", ["llama", "mixtral-fused"])
def test_finding_where_tensors_go_takes_no_memory(family):
    """Even of the largest models: this one has 47 or 7 billion parameters."""
    config = {"llama": transformers.LlamaConfig(), "mixtral-fused": transformers.MixtralConfig()}[family]
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    header = {name: TensorInfo(tuple(x.shape), "BF16") for name, x in model.state_dict().items()}
    assert sum(info.elements for info in header.values()) > 6e9
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmHWM")
    found, mismatched = names._trace(type(model), model.config, header)
    assert memory("VmHWM") - before < 64 << 20
    assert mismatched == []
    assert found == {name: name for name in header}


def memory(kind: str) -> int:
    """Bytes of this process, as Linux says."""
    (line,) = [x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith(kind)]
    return int(line.split()[1]) << 10


def test_a_tensor_of_another_shape_than_the_model_has_is_named(tmp_path):
    run = make("vit-renamed", tmp_path, 0)
    live = LiveModel(run, transformers.AutoModelForImageClassification, CPU)
    header = {**run.header, "classifier.bias": TensorInfo((7,), "F32")}
    weights = SimpleNamespace(header=header, tensor=run.tensor)
    other = Checkpoint("b", run.path, run.config, weights, adapted=run)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match=r"classifier\.bias has shape \[7\], where ViTFor.* has \[2\]"):
        names.NameMap.find(other, live.model)


def test_the_dtype_of_a_tensor_is_looked_up_by_the_parameters_name(tmp_path):
    run = make("vit-renamed", tmp_path, 0)
    live = LiveModel(run, transformers.AutoModelForImageClassification, CPU)
    live.model._get_dtype_plan = lambda dtype: {"q_proj": torch.float32}
    kept = {name for name in run.header if live.dtype_of(name, torch.float16) == torch.float32}
    assert kept == {name for name in run.header if "attention.query" in name} != set()


def test_filling_writes_into_the_parameters_themselves(tmp_path):
    first, second = make("llama", tmp_path / "first", 0), make("llama", tmp_path / "second", 1)
    live = LiveModel(first, transformers.AutoModelForCausalLM, CPU)
    addresses = [parameter.data_ptr() for parameter in live.model.parameters()]
    live.fill(second.tensors())
    assert [parameter.data_ptr() for parameter in live.model.parameters()] == addresses


def test_files_are_not_changed_by_filling(tmp_path):
    first, second = make("llama", tmp_path / "first", 0), make("llama", tmp_path / "second", 1)
    before = (first.path / "model.safetensors").read_bytes()
    LiveModel(first, transformers.AutoModelForCausalLM, CPU).fill(second.tensors())
    assert (first.path / "model.safetensors").read_bytes() == before


def test_weights_keep_the_dtype_of_their_files(tmp_path):
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(FAMILIES["llama"][1]).bfloat16().save_pretrained(tmp_path)
    live = LiveModel(Checkpoint.open(tmp_path), transformers.AutoModelForCausalLM, CPU)
    assert {parameter.dtype for parameter in live.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("family", ["llama", "vit-renamed"])
def test_a_missing_tensor_is_an_error(family, tmp_path):
    run = make(family, tmp_path, 0)
    live = LiveModel(run, FAMILIES[family][0], CPU)
    with pytest.raises(CheckpointError, match="half filled"):
        live.fill((name, tensor) for name, tensor in run.tensors() if "layernorm" not in name)


def test_a_tensor_without_a_place_is_an_error(tmp_path):
    run = make("llama", tmp_path, 0)
    live = LiveModel(run, transformers.AutoModelForCausalLM, CPU)
    with pytest.raises(CheckpointError, match=r"no place for the tensor 'extra\.weight'"):
        live.fill([*run.tensors(), ("extra.weight", torch.zeros(1))])


def test_a_model_without_the_tasks_head_is_refused(tmp_path):
    run = make("llama", tmp_path, 0)
    with pytest.raises(CheckpointError, match="fine-tuned for another task"):
        LiveModel(run, transformers.AutoModelForSequenceClassification, CPU)


def test_tensors_that_the_model_would_drop_are_refused(tmp_path):
    run = make("llama", tmp_path, 0)
    file = run.path / "model.safetensors"
    save_file({**load_file(file), "value_head.weight": torch.zeros(2)}, file, {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"value_head\.weight.*no place"):
        LiveModel(Checkpoint.open(tmp_path), transformers.AutoModelForCausalLM, CPU)


def test_a_model_of_another_kind_is_refused(tmp_path):
    run = make("llama", tmp_path, 0)
    with pytest.raises(CheckpointError, match="AutoModelForImageClassification cannot load it"):
        LiveModel(run, transformers.AutoModelForImageClassification, CPU)


def test_released_models_are_gone(text_runs):
    live = LiveModel(Checkpoint.open(text_runs / "a"), transformers.AutoModelForSequenceClassification, CPU)
    before = weakref.ref(live.model)
    live.load(Checkpoint.open(text_runs / "b"))
    assert before() is None
    expected = load_file(text_runs / "b" / "model.safetensors")["classifier.bias"]
    torch.testing.assert_close(live.model.classifier.bias.data, expected, rtol=0, atol=0)
