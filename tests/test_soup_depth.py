"""Which part of a model's depth a tensor is in, for the names that real models' files have."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st

from soupkitchen.checkpoints import Checkpoint, find_pool
from soupkitchen.soup.coefficients import layers, parts

SIZES = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
T5_SIZES = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2}
Find = Callable[[re.Match[str]], int]


def stage(*depths: int) -> Find:
    """The layer of a block, by the numbers of its stage and of the block."""
    return lambda found: sum(depths[: int(found[1])]) + int(found[2])


def number(found: re.Match[str]) -> int:
    return int(found[1])


ARCHITECTURES: dict[str, tuple[str, dict[str, Any], int, list[tuple[str, Find]], str]] = {
    # class, options, layers, where these are by name, and what comes before the first
    "bert": ("BertForMaskedLM", dict(num_hidden_layers=12, **SIZES), 12,
             [(r"bert\.encoder\.layer\.(\d+)\.", number)], r"bert\.embeddings\."),
    "gpt2": ("GPT2LMHeadModel", {"n_embd": 16, "n_head": 2, "n_layer": 12}, 12,
             [(r"transformer\.h\.(\d+)\.", number)], r"transformer\.w[tp]e\."),
    "llama": ("LlamaForCausalLM", dict(num_hidden_layers=5, **SIZES), 5,
              [(r"model\.layers\.(\d+)\.", number)], r"model\.embed_tokens\."),
    "neox": ("GPTNeoXForCausalLM", dict(num_hidden_layers=4, **SIZES), 4,
             [(r"gpt_neox\.layers\.(\d+)\.", number)], r"gpt_neox\.embed_in\."),
    "mixtral": ("MixtralForCausalLM",
                {"num_hidden_layers": 4, "num_key_value_heads": 2, "num_local_experts": 4, **SIZES}, 4,
                [(r"model\.layers\.(\d+)\.", number)], r"model\.embed_tokens\."),
    "mpnet": ("MPNetForSequenceClassification", dict(num_hidden_layers=6, **SIZES), 6,
              [(r"mpnet\.encoder\.layer\.(\d+)\.", number)],
              r"mpnet\.embeddings\.|mpnet\.encoder\.relative_attention_bias"),
    "minilm": ("BertModel", dict(num_hidden_layers=6, **SIZES), 6,
               [(r"encoder\.layer\.(\d+)\.", number)], r"embeddings\."),
    "vit": ("ViTForImageClassification", dict(num_hidden_layers=12, **SIZES), 12,
            [(r"vit\.(?:encoder\.layer|layers)\.(\d+)\.", number)], r"vit\.embeddings\."),
    "resnet": ("ResNetForImageClassification", {}, 16,
               [(r"resnet\.encoder\.stages\.(\d)\.layers\.(\d+)\.", stage(3, 4, 6, 3))], r"resnet\.embedder"),
    "convnext": ("ConvNextForImageClassification", {}, 18,
                 [(r"convnext\.encoder\.stages\.(\d)\.layers\.(\d+)\.", stage(3, 3, 9, 3)),
                  (r"convnext\.encoder\.stages\.(\d)\.downsampling_layer()",
                   lambda found: (0, 3, 6, 15)[int(found[1])])], r"convnext\.embeddings"),
    "swin": ("SwinForImageClassification", {}, 12,
             [(r"swin\.encoder\.layers\.(\d)\.blocks\.(\d+)\.", stage(2, 2, 6, 2)),
              (r"swin\.encoder\.layers\.(\d)\.downsample", lambda found: (0, 2, 4)[int(found[1])])],
             r"swin\.embeddings"),
    "segformer": ("SegformerForImageClassification", {}, 8,
                  [(r"segformer\.(?:encoder\.block\.(\d)\.|stages\.(\d)\.blocks\.)(\d)\.",
                    lambda found: 2 * int(found[1] or found[2]) + int(found[3])),
                   (r"segformer\.(?:stages|encoder\.patch_embeddings|encoder\.layer_norm)\.(\d)\.",
                    lambda found: 2 * int(found[1]))], r"nothing"),
    "t5": ("T5ForConditionalGeneration", dict(num_layers=6, num_decoder_layers=3, **T5_SIZES), 9,
           [(r"encoder\.block\.(\d+)\.", number), (r"decoder\.block\.(\d+)\.", lambda m: 6 + int(m[1])),
            (r"encoder\.final_layer_norm", lambda m: 5), (r"decoder\.embed_tokens", lambda m: 6)],
           r"shared|encoder\.embed_tokens"),
    "bart": ("BartForConditionalGeneration",
             {"d_model": 16, "encoder_layers": 3, "decoder_layers": 3, "encoder_attention_heads": 2,
             "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}, 6,
             [(r"model\.encoder\.layers\.(\d+)\.", number),
              (r"model\.decoder\.layers\.(\d+)\.", lambda m: 3 + int(m[1])),
              (r"model\.decoder\.(embed|layernorm_embedding)", lambda m: 3)], r"model\.(shared|encoder)"),
    "clip": ("CLIPModel",
             {"vision_config": {"num_hidden_layers": 4, **SIZES}, "text_config": {"num_hidden_layers": 2,
             **SIZES}}, 6,
             [(r"vision_model\.encoder\.layers\.(\d+)\.", number),
              (r"text_model\.encoder\.layers\.(\d+)\.", lambda m: 4 + int(m[1])),
              (r"vision_model\.post_layernorm", lambda m: 3), (r"text_model\.embeddings", lambda m: 4)],
             r"vision_model\.(embeddings|pre_layrnorm)"),
    "xlm": ("XLMWithLMHeadModel", {"emb_dim": 16, "n_heads": 2, "n_layers": 3}, 3,
            [(r"transformer\.(?:attentions|layer_norm[12]|ffns)\.(\d)\.", number)],
            r"transformer\.(\w*embeddings|layer_norm_emb|position)"),
}  # fmt: skip
"""XLM numbers what layers consist of, and has no name for layers."""


def made(name: str, options: dict[str, Any]) -> Any:
    kind = getattr(transformers, name)
    return kind(kind.config_class(**options))


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> tuple[list[str], int, list[tuple[str, Find]], str]:
    name, options, count, where, before = ARCHITECTURES[request.param]
    with torch.device("meta"):
        return list(made(name, options).state_dict()), count, where, before


def expected(names: list[str], count: int, where: list[tuple[str, Find]], before: str) -> dict[str, int]:
    """Each tensor's layer, by the table above."""
    told = {}
    for name in names:
        found = [layer(match) for pattern, layer in where if (match := re.match(pattern, name))]
        told[name] = found[0] if found else 0 if re.match(before, name) else count - 1
    return told


def test_every_tensor_is_in_the_part_of_its_layer(model):
    names, count, *_ = model
    assert layers(names) == count
    for groups in (1, 2, 3, 4, count):
        found = parts(names, groups)
        assert found == {name: layer * groups // count for name, layer in expected(*model).items()}
        assert set(found.values()) == set(range(min(groups, count)))


def test_the_order_of_names_does_not_matter(model):
    names, *_ = model
    shuffled = names[:]
    random.Random(0).shuffle(shuffled)
    assert parts(shuffled, 4) == parts(names, 4) == parts(sorted(names), 4)


@pytest.mark.parametrize("name", ["vit", "mixtral", "swin", "t5"])
def test_names_in_files_are_understood_too(name, tmp_path):
    """transformers saves other names than its models have now."""
    kind, options, count, where, before = ARCHITECTURES[name]
    if name == "swin":
        options = {
            "image_size": 32,
            "patch_size": 2,
            "window_size": 2,
            "embed_dim": 8,
            "num_heads": [1, 1, 2, 2],
        }
    if name == "mixtral":
        options = {**options, "vocab_size": 50}
    made(kind, options).save_pretrained(tmp_path)
    names = list(Checkpoint.open(tmp_path).header)
    assert layers(names) == count
    assert parts(names, count) == expected(names, count, where, before)


def test_experts_and_sublayers_are_in_their_layer():
    names = [f"model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight" for i in range(4) for e in range(8)]
    assert {name: int(name.split(".")[2]) for name in names} == parts(names, 4)
    names = [f"encoder.block.{i}.layer.{k}.layer_norm.weight" for i in range(6) for k in range(2)]
    assert {name: int(name.split(".")[2]) for name in names} == parts(names, 6)


def test_torchvisions_and_segformers_names_are_understood():
    blocks = [f"layer{s}.{b}.conv{c}.weight" for s in (1, 2, 3, 4) for b in (0, 1) for c in (1, 2)]
    found = parts([*blocks, "conv1.weight", "bn1.running_mean", "fc.weight"], 8)
    assert found["conv1.weight"] == found["bn1.running_mean"] == 0
    assert found["fc.weight"] == 7
    assert [found[f"layer{s}.{b}.conv1.weight"] for s in (1, 2, 3, 4) for b in (0, 1)] == list(range(8))
    names = [
        f"segformer.encoder.{what}.{s}.weight"
        for what in ("patch_embeddings", "layer_norm")
        for s in range(4)
    ]
    names += [f"segformer.encoder.block.{s}.{b}.mlp.weight" for s in range(4) for b in range(2)]
    found = parts(names, 8)
    assert found["segformer.encoder.block.3.1.mlp.weight"] == 7
    assert found["segformer.encoder.patch_embeddings.3.weight"] == 6


def test_a_numbered_head_is_no_layer():
    names = [f"vit.encoder.layer.{i}.output.weight" for i in range(4)]
    names += ["classifier.0.weight", "classifier.2.weight", "vit.embeddings.cls_token"]
    assert layers(names) == 4
    found = parts(names, 2)
    assert found["classifier.0.weight"] == found["classifier.2.weight"] == 1
    assert found["vit.embeddings.cls_token"] == 0


def test_what_has_no_layers_is_embeddings_and_the_rest():
    assert layers(["embed.weight", "head.weight"]) == 0
    assert parts(["embed.weight", "head.weight"], 3) == {"embed.weight": 0, "head.weight": 2}


def test_adapters_have_the_names_of_their_base(adapters):
    for run in find_pool(str(adapters)):
        found = parts(run.header, 2)
        assert found.keys() == run.header.keys()
        assert all(found[name] == int(name.split(".")[2]) for name in found if ".layers." in name)
        assert found["model.embed_tokens.weight"] == 0
        assert found["lm_head.weight"] == found["model.norm.weight"] == 1
    own = [f"base_model.model.model.layers.{i}.self_attn.q_proj.lora_A.weight" for i in range(4)]
    assert list(parts(own, 4).values()) == [0, 1, 2, 3]


words = st.sampled_from(["layer", "layers", "h", "experts", "embed", "head", "stages", "0", "1", "7", "norm"])


@given(st.lists(st.lists(words, min_size=1, max_size=6).map(".".join), unique=True), st.integers(1, 6))
def test_whatever_the_names_every_tensor_has_a_part(names, groups):
    found = parts(names, groups)
    assert found.keys() == set(names)
    assert set(found.values()) <= set(range(groups))
    if layers(names) >= groups:
        assert set(found.values()) == set(range(groups))
