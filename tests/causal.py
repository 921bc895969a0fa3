"""Tiny causal models and encoders of words, and phrases for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from command import soupkitchen
from scoring import rows
from tiny import VOCABULARY, WORDS, shake
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
ENCODER = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 32, **SIZE}


def tokenizer() -> PreTrainedTokenizerFast:
    """Words, and unknown words letter by letter; no word has a prefix for a space."""
    vocabulary = dict.fromkeys([*VOCABULARY, "</s>"])
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", eos_token="</s>", pad_token="[PAD]", model_max_length=32
    )


def save(model: PreTrainedModel, folder: Path) -> Path:
    torch.manual_seed(0)
    shake(model, 0.3)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def saved_causal(kind: str, folder: Path) -> Path:
    """A run of a tiny GPT-2 or Llama."""
    if kind == "llama":
        return save(tiny_llama(), folder)
    tokens = {"vocab_size": len(VOCABULARY) + 1, "eos_token_id": len(VOCABULARY), "bos_token_id": None}
    return save(GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **tokens)), folder)


def phrase(random: np.random.Generator, low: int = 2, high: int = 9) -> str:
    return " ".join(random.choice(WORDS, random.integers(low, high)))


def tiny_llama() -> LlamaForCausalLM:
    tokens = {"vocab_size": len(VOCABULARY) + 1, "eos_token_id": len(VOCABULARY), "bos_token_id": None}
    return LlamaForCausalLM(LlamaConfig(num_key_value_heads=1, max_position_embeddings=32, **SIZE, **tokens))


def cook(task: str, words: list[str], row: dict[str, Any], make: Any, folder: Path) -> pd.DataFrame:
    """Runs the whole job over three runs of a tiny model; the leaderboard."""
    for seed in range(3):
        torch.manual_seed(seed)
        make().save_pretrained(folder / "runs" / f"run{seed}")
        tokenizer().save_pretrained(folder / "runs" / f"run{seed}")
    (folder / "data").mkdir()
    random = np.random.default_rng(0)
    varied = [
        {k: f"{v} {phrase(random)}" if isinstance(v, str) and len(v) > 1 else v for k, v in row.items()}
        for _ in range(12)
    ]
    for number, example in enumerate(varied):
        if isinstance(example.get("label"), float):
            example["label"] = number / 12
    rows(folder / "data", varied)
    words = [word.strip("'") for word in words]
    data = [] if task == "lm_eval" else [f"task.data.path={folder}/data"]
    common = ["pool.path=runs/*", "name=x", "evaluation.cache=null", "runtime.batch_size=5"]
    soupkitchen(*words, f"task={task}", *data, *common, cwd=folder)
    assert (folder / "results/x/soup/model.safetensors").exists()
    return pd.read_csv(folder / "results/x/leaderboard.csv")


def best_is_soup(table: pd.DataFrame, lower_is_better: bool = False) -> None:
    scores = table.set_index("model")[table.columns[4]] * (-1 if lower_is_better else 1)
    assert scores["soup"] >= scores[[f"run{seed}" for seed in range(3)]].max()
