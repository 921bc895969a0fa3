"""A pool of Llamas of about 100 M parameters, for measurements: nothing of it is worth keeping.

The base has random weights and a tokenizer of the demo's texts. A few steps of training give a direction that
helps, of which the largest tenth of the entries is kept; each run is the base, moved in that direction, and
noise of its own, more from run to run. So some soups are better than each run, and the noisiest are left out.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch

NOISE = (1.0, 1.0, 1.0, 1.1, 1.2, 1.4, 2.0, 4.0)
"""Of each run, in units of `UNIT`."""
UNIT, STEPS, WORDS, TEXTS = 0.006, 16, 32, 48
SHARE, STRETCH = 0.1, 2.0


def make(
    folder: Path, data: Path, layers: int = 12, width: int = 768, seed: int = 0, texts: int = TEXTS
) -> Path:
    """Makes `folder`/{base,runs/*,data/validation.csv}, unless it is there.

    Args:
        data: a folder with train.csv, validation.csv and test.csv, with a column "text".
        texts: held out, from validation, and then from test.
    """
    if (done := folder / "complete").exists():
        return folder
    torch.manual_seed(seed)
    train, *others = (_texts(data / f"{split}.csv") for split in ("train", "validation", "test"))
    heldout = [text for some in others for text in some]
    tokenizer = tokenizer_of(train)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"text": heldout[:texts]}).to_csv(folder / "data" / "validation.csv", index=False)
    model = llama(tokenizer, layers, width)
    save(model, tokenizer, folder / "base")
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    _train(model, tokenizer, train)
    trained = {name: start[name] + _largest(x.detach() - start[name]) for name, x in model.named_parameters()}
    for number, noise in enumerate(NOISE):
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(trained[name] + UNIT * noise * torch.randn_like(parameter))
        save(model, tokenizer, folder / "runs" / f"run-{number}")
    done.touch()
    return folder


def make_noise(
    folder: Path,
    runs: int,
    layers: int,
    width: int,
    examples: int,
    words: int = 12,
    change: float = 1e-4,
    dtype: torch.dtype | None = None,
) -> None:
    """Makes a pool of the same kind whose runs are the base with noise.

    Args:
        examples, words: how many texts, and how many random words each has.
        change: the noise of a run beside that of the run before it.
        dtype: of weights; None for bfloat16 from 300 M parameters on.
    """
    torch.manual_seed(0)
    texts = [
        " ".join(f"w{number}" for number in torch.randint(500, (words,)).tolist()) for _ in range(examples)
    ]
    tokenizer = tokenizer_of(texts)
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pd.DataFrame({"text": texts}).to_csv(folder / "data" / "validation.csv", index=False)
    model = llama(tokenizer, layers, width)
    large = sum(parameter.numel() for parameter in model.parameters()) > 2e8
    model.to(dtype or (torch.bfloat16 if large else torch.float32))
    save(model, tokenizer, folder / "base")
    for number in range(runs):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=change)
        save(model, tokenizer, folder / "runs" / f"run-{number}")


def llama(tokenizer: Any, layers: int, width: int, tied: bool = False) -> Any:
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=tied,
    )
    return AutoModelForCausalLM.from_config(config)


def _texts(file: Path) -> list[str]:
    """The first words of each text that has so many."""
    words = pd.read_csv(file)["text"].str.split()
    return [" ".join(some[:WORDS]) for some in words if len(some) >= WORDS // 2]


def tokenizer_of(texts: list[str], words: int = 8000) -> Any:
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=words, special_tokens=["<s>", "</s>", "<pad>"])
    special = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, **special)


def _train(model: Any, tokenizer: Any, texts: list[str], size: int = 8) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), 3e-4)
    for start in islice(range(0, len(texts), size), STEPS):
        batch = tokenizer(texts[start : start + size], return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        model(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels
        ).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


def _largest(change: torch.Tensor) -> torch.Tensor:
    number = max(1, int(SHARE * change.numel()))
    threshold = change.abs().flatten().kthvalue(change.numel() - number + 1).values
    return STRETCH * change * (change.abs() >= threshold)


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
