"""A tiny model of every architecture that transformers has for a kind of model, without a table of them.

Configurations are made small by the names of what they hold; `OWN` has what that gets wrong.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto import modeling_auto

KINDS = {
    "text_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "language_modeling": "AutoModelForCausalLM",
    "text_generation": "AutoModelForSeq2SeqLM",
    "question_answering": "AutoModelForQuestionAnswering",
    "image_classification": "AutoModelForImageClassification",
    "embedding_similarity": "AutoModel",
}
"""The class that loads the models of a task."""
_MAPPINGS = {
    "text_classification": "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES",
    "token_classification": "MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES",
    "language_modeling": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "text_generation": "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES",
    "question_answering": "MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES",
    "image_classification": "MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES",
    "embedding_similarity": "MODEL_MAPPING_NAMES",
}

VOCABULARY, POSITIONS, IMAGE = 96, 64, 32
_NUMBERS: dict[str, int | None] = {
    ".*token_id .*token_index .*_token_ids?": None,
    ".*vocab_size .*vocab_size_per_layer_input": VOCABULARY,
    ".*layers n_layer depth num_blocks num_residual_layers": 2,
    ".*num_key_value_heads num_kv_heads kv_n_heads": 1,
    ".*num_heads .*num_attention_heads .*attention_heads n_heads? .*_heads": 2,
    ".*head_dim d_kv dim_head .*head_size d_head": 8,
    ".*intermediate_size .*ffn_dim d_ff mlp_dim d_inner .*dim_feedforward .*ffn_hidden_size dff dim_ff": 32,
    "feed_forward_size": 32,
    ".*hidden_size d_model n_embd .*embed_dim .*embedding_dim .*hidden_dim dim emb_dim .*embedding_size": 16,
    "word_embed_proj_dim projection_dim out_hidden_size pooler_output_size lru_width entity_emb_size": 16,
    "n_positions max_.*positions? n_ctx max_seq_len model_max_length max_.*position_embeddings": POSITIONS,
    "context_length": POSITIONS,
    "num_experts num_local_experts n_routed_experts moe_num_experts": 4,
    "num_experts_per_tok moe_topk num_experts_per_token moe_k moe_top_k": 2,
    "n_group topk_group": 1,
    "q_lora_rank kv_lora_rank .*lora_rank": 8,
    "image_size img_size": IMAGE,
    "patch_size": 8,
    "window_size sliding_window": 4,
}
"""Small numbers by patterns of names, with spaces between; a later one overrides an earlier one."""
_LISTS: dict[str, Callable[[int], list[int]]] = {
    "depths layer_depths num_blocks blocks_per_stage depth": lambda n: [1] * n,
    "hidden_sizes embed_dims? dims stage_out_channels encoder_hidden_sizes": lambda n: [
        8 * (i + 1) for i in range(n)
    ],
    "num_heads num_attention_heads": lambda n: [2] * n,
}

_THETA = {"rope_type": "default", "rope_theta": 10000.0}
_BOTH = ["linear_attention", "full_attention"]
_STAGES = {"depths": [1, 1], "num_heads": [2, 2]}
OWN: dict[str, dict[str, Any]] = {
    "bamba": {
        "attn_layer_indices": [1], "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8,
        "mamba_chunk_size": 8,
    },
    "bit": {"num_groups": 4, "embedding_size": 8},
    "blt": {"encoder_hash_byte_group_vocab": 32},
    "codegen": {"n_head": 4, "n_embd": 32, "rotary_dim": 4},
    "cvt": {"depth": [1, 2, 3]},
    "dbrx": {
        "attn_config": {"kv_n_heads": 1, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "n_routed_experts": 4, "first_k_dense_replace": 1},
    "donut-swin": _STAGES,
    "dots1": {
        "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
    },
    "efficientnet": {
        "width_coefficient": 0.25, "depth_coefficient": 0.3, "kernel_sizes": [3, 5],
        "in_channels": [32, 16], "out_channels": [16, 24], "strides": [1, 2], "num_block_repeats": [1, 1],
        "expand_ratios": [1, 2], "hidden_dim": 320, "num_hidden_layers": None,
    },
    "esm": {"vocab_size": VOCABULARY, "mask_token_id": 5},
    "flaubert": {"emb_dim": 16},
    "gemma3n_text": {
        "num_kv_shared_layers": 0, "layer_types": ["sliding_attention", "full_attention"],
        "intermediate_size": [32, 32], "activation_sparsity_pattern": [0.0, 0.0],
        "vocab_size_per_layer_input": VOCABULARY, "hidden_size_per_layer_input": 8,
    },
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "window_size": 4},
    "gptj": {"rotary_dim": 4},
    "granitemoehybrid": {"layer_types": _BOTH, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_chunk_size": 8},
    "hgnet_v2": {
        "stem_channels": [3, 8, 8], "stage_in_channels": [8, 8], "stage_mid_channels": [8, 8],
        "stage_out_channels": [8, 16], "stage_num_blocks": [1, 1], "stage_downsample": [False, True],
        "stage_downsample_strides": [2, 2], "stage_light_block": [False, True], "stage_kernel_size": [3, 5],
        "stage_numb_of_layers": [2, 2], "hidden_sizes": [8, 16], "depths": [1, 1],
    },
    "hiera": {
        "image_size": [IMAGE, IMAGE], "embed_dim": 8, "num_query_pool": 1, "masked_unit_size": [2, 2],
        "masked_unit_attention": [True, False], **_STAGES,
    },
    "hunyuan_v1_dense": {"rope_parameters": _THETA, "head_dim": 8},
    "hunyuan_v1_moe": {"rope_parameters": _THETA, "head_dim": 8},
    "imagegpt": {"n_positions": IMAGE * IMAGE},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4, "mamba_d_state": 4},
    "layoutlmv3": {"coordinate_size": 2, "shape_size": 4, "input_size": IMAGE},
    "led": {"attention_window": 4},
    "levit": {"hidden_sizes": [16, 32, 48], "key_dim": [8, 8, 8], "patch_size": 16},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_dense_layers": 1},
    "lilt": {"hidden_size": 48},
    "longformer": {"attention_window": 4, "sep_token_id": 2, "eos_token_id": 2},
    "mamba2": {"num_heads": 4, "head_dim": 8, "n_groups": 2, "state_size": 8, "chunk_size": 8},
    "ministral": {"rope_parameters": _THETA, "head_dim": 8},
    "mistral4": {"head_dim": 16, "qk_head_dim": 16},
    "mobilebert": {"intra_bottleneck_size": 16, "true_hidden_size": 16, "num_feedforward_networks": 2},
    "mobilenet_v1": {"depth_multiplier": 0.1},
    "mobilenet_v2": {"depth_multiplier": 0.1},
    "mobilevit": {"hidden_sizes": [8, 12, 16], "neck_hidden_sizes": [4, 8, 8, 8, 8, 8, 16]},
    "mobilevitv2": {
        "base_attn_unit_dims": [16, 16, 16], "width_multiplier": 0.25, "n_attn_blocks": [1, 1, 1],
        "output_stride": 8,
    },
    "nemotron": {"num_key_value_heads": 1},
    "perceiver": {
        "num_latents": 4, "d_latents": 16, "num_self_attends_per_block": 1, "num_self_attention_heads": 2,
        "num_cross_attention_heads": 2,
    },
    "pp_lcnet": {"scale": 0.1, "class_expand": 32},
    "pvt": {"num_labels": 3},
    "recurrent_gemma": {"num_hidden_layers": 3, "attention_window_size": 8},
    "reformer": {"axial_pos_embds_dim": [8, 8], "axial_pos_shape": [8, 8]},
    "siglip2_vision_model": {"num_patches": 16},
    "swin": _STAGES,
    "t5": {"decoder_start_token_id": 0},
    "textnet": {"stem_out_channels": 8},
    "xmod": {"default_language": "en_XX"},
    "zamba": {
        "layers_block_type": ["linear_attention", "hybrid", "hybrid"], "num_hidden_layers": 3,
        "attention_hidden_size": 32, "attention_head_dim": 16, "mamba_dt_rank": 4, "n_mamba_heads": 2,
    },
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"], "n_mamba_heads": 4, "mamba_headdim": 8,
        "mamba_d_state": 8, "chunk_size": 8, "attention_hidden_size": 32, "attention_head_dim": 16,
        "adapter_rank": 4,
    },
}  # fmt: skip
"""What a type needs otherwise."""


def classes_of(task: str) -> dict[str, tuple[str, ...]]:
    """The names of the classes that transformers has for a task, by model type."""
    found = getattr(modeling_auto, _MAPPINGS[task])
    return {of: (names,) if isinstance(names, str) else tuple(names) for of, names in sorted(found.items())}


def small_config(model_type: str, task: str, **labels: Any) -> PreTrainedConfig:
    """The configuration of a tiny model of that type."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = CONFIG_MAPPING[model_type]
        config = kind(**{**_small(kind), **OWN.get(model_type, {}), **labels})
    text = config.get_text_config()
    if getattr(text, "pad_token_id", None) is None:
        text.pad_token_id = 0
    config.architectures = [classes_of(task)[model_type][-1]]
    return config


def _small(kind: Any) -> dict[str, Any]:
    default = kind()
    inner = {
        name: type(value) for name, value in vars(default).items() if isinstance(value, PreTrainedConfig)
    }
    for name, of in inner.items():
        inner[name] = {**_small(of), **OWN.get(of.model_type, {}), "model_type": of.model_type}
    values = {name: value for name, value in vars(default).items() if not name.startswith("_")}
    own = {
        name: _smaller(name, value)
        for name, value in values.items()
        if name not in ("rope_parameters", "num_labels")
    }
    small = {name: value for name, value in own.items() if value is not None}
    layers = values.get("num_hidden_layers")
    for name, value in values.items():
        long = isinstance(value, (list, tuple)) and len(value) == layers and layers != 2
        if long and name not in small and name != "layer_types" and name in _defaults(kind):
            small[name] = list(value)[:2]
    if "layer_types" in getattr(kind, "__dataclass_fields__", {}) and layers:
        kinds = list(dict.fromkeys(values.get("layer_types") or ()))
        if len(kinds) > 1:
            small |= {"layer_types": kinds, "num_hidden_layers": len(kinds)}
    if isinstance(rope := values.get("rope_parameters"), dict) and "mrope_section" in rope:
        small["rope_parameters"] = {**rope, "mrope_section": [1, 1, 2]}
    return {**small, **inner}


def _defaults(kind: Any) -> set[str]:
    return {
        n
        for n, f in getattr(kind, "__dataclass_fields__", {}).items()
        if isinstance(f.default, (list, tuple))
    }


def _smaller(name: str, value: Any) -> Any:
    """A small value, or None for the one that it has."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        found = [small for names, small in _NUMBERS.items() if _is_one(name, names)]
        if not found:
            return None
        if found[-1] is None:
            return None if value < VOCABULARY else _TOKENS.get(name, 64 + sum(map(ord, name)) % 32)
        return min(found[-1], value) if value > 0 else None
    if isinstance(value, (list, tuple)) and value and all(isinstance(x, int) for x in value):
        if re.fullmatch(r".*token_ids?", name):
            return [3] if max(value) >= VOCABULARY else None
        lists = [small for names, small in _LISTS.items() if _is_one(name, names)]
        return lists[-1](len(value)) if lists else None
    return None


def _is_one(name: str, patterns: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns.split())


_TOKENS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "decoder_start_token_id": 2}


def inputs(task: str, config: PreTrainedConfig) -> Mapping[str, torch.Tensor]:
    """Two examples, as models of that task take them."""
    if task == "image_classification":
        return {"pixel_values": torch.linspace(-1, 1, 2 * 3 * IMAGE * IMAGE).reshape(2, 3, IMAGE, IMAGE)}
    tokens = torch.arange(4, 18).reshape(2, 7)
    eos = getattr(config.get_text_config(), "eos_token_id", None)
    tokens[:, [2, 3, -1] if task == "question_answering" else [-1]] = eos if isinstance(eos, int) else 3
    both = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    return {**both, "decoder_input_ids": tokens[:, :3]} if task == "text_generation" else both
