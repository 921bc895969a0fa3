"""Tiny models, a tiny tokenizer and made-up texts."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

LABELS = ("apples", "boats", "clouds")
WORDS = [f"w{i}" for i in range(60)]
VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
TOKENS = [*VOCABULARY, "[MASK]"]
"""Of `bert_tokenizer`."""


def make_texts(number: int, seed: int) -> pd.DataFrame:
    """Texts of 3 to 12 words; each label prefers words of its own, with some noise. All different."""
    random = np.random.default_rng(seed)
    rows: dict[str, str] = {}
    while len(rows) < number:
        label = int(random.integers(len(LABELS)))
        own = random.integers(20 * label, 20 * label + 20, size=random.integers(2, 5))
        noise = random.integers(0, 60, size=random.integers(2, 8))
        words = random.permutation(np.concatenate([own, noise]))
        rows[" ".join(WORDS[word] for word in words)] = LABELS[label]
    return pd.DataFrame({"text": list(rows), "label": list(rows.values())})


def make_pictures(folder: Path, number: int = 16) -> None:
    """Images of 8 × 8 pixels by split and label, "dark" and "light": so many of each."""
    random = np.random.default_rng(0)
    for split in ("train", "validation", "test"):
        for label, name in enumerate(("dark", "light")):
            (folder / split / name).mkdir(parents=True)
            for index in range(number):
                pixels = np.clip(random.normal(90 + 60 * label, 70, (8, 8, 3)), 0, 255).astype("uint8")
                Image.fromarray(pixels).save(folder / split / name / f"{index}.png")


def tokenizer() -> transformers.PreTrainedTokenizerFast:
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", model_max_length=32
    )


def bert_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """As `tokenizer`, with [CLS] before each text, [SEP] after it, and [MASK]."""
    numbers = {token: number for number, token in enumerate(TOKENS)}
    backend = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    named = dict(zip(names, ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"), strict=True))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=32, **named)


def save_tokenizer(folder: Path) -> None:
    tokenizer().save_pretrained(folder)


def text_classifier(labels: tuple[str, ...] = LABELS) -> transformers.BertForSequenceClassification:
    """A tiny BERT; the same weights every time."""
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=32,
        id2label=dict(enumerate(labels)),
        label2id={label: i for i, label in enumerate(labels)},
    )
    return transformers.BertForSequenceClassification(config)


def train_text_classifier(
    model: transformers.BertForSequenceClassification,
    train: pd.DataFrame,
    rate: float,
    epochs: int,
    seed: int,
) -> transformers.BertForSequenceClassification:
    """Trains `model` in place, at a rate that does not decay, on texts drawn with replacement."""
    model, encode = model.train(), tokenizer()
    inputs = encode(train["text"].tolist(), padding=True, return_tensors="pt")
    labels = torch.tensor([LABELS.index(label) for label in train["label"]])
    torch.manual_seed(100 + seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    for rows in torch.randint(len(labels), (epochs * len(labels) // 20, 20)):
        batch = {name: value[rows] for name, value in inputs.items()}
        loss = model(**batch, labels=labels[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


def shake(model: torch.nn.Module, by: float) -> Any:
    """Adds noise of that standard deviation to every parameter of `model`, in place."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    return model


def average(runs: Path, names: list[str]) -> dict[str, torch.Tensor]:
    """The plain float64 average of the runs' tensors, rounded once to float32."""
    files = [load_file(runs / name / "model.safetensors") for name in names]
    return {key: torch.stack([f[key].double() for f in files]).mean(0).float() for key in files[0]}


def llama(vocabulary: int = 50) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    return transformers.LlamaForCausalLM(config).eval()


def gpt2() -> transformers.GPT2LMHeadModel:
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=50, n_embd=16, n_layer=2, n_head=2, n_positions=32, bos_token_id=0, eos_token_id=0
    )
    return transformers.GPT2LMHeadModel(config).eval()


def adapter(
    base: Path,
    folder: Path,
    seed: int,
    *,
    of: Any = transformers.AutoModelForCausalLM,
    task_type: str | None = "CAUSAL_LM",
    **options: Any,
) -> Path:
    """An adapter of the model in `base`, whose every trained value is random, saved by peft."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft calls what transformers has renamed
        model = get_peft_model(of.from_pretrained(base), LoraConfig(task_type=task_type, **options))
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "magnitude" in name:
                parameter.mul_(1 + 0.3 * torch.rand_like(parameter))
            elif parameter.requires_grad:
                parameter.copy_(0.3 * torch.randn_like(parameter))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return folder
