"""How likely a causal language model finds texts: what perplexity and multiple choice rest on.

An example is one or more *passages*: tokens of which the last ones are scored, each
given all before it. Passages of a batch are padded on the right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from soupkitchen.errors import DataError
from soupkitchen.tasks.base import Processor


def beginning(tokenizer: Processor) -> int:
    """The token that a text without context follows: the beginning of a sequence, or the end of the last.

    Raises:
        DataError: where the tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    raise DataError("the tokenizer has neither a bos_token nor an eos_token for texts to follow")


def encode(tokenizer: Processor, text: str) -> list[int]:
    """The tokens of `text` alone, without special ones."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def collate(examples: Sequence[Mapping[str, Any]], padding: int) -> dict[str, torch.Tensor]:
    """A batch of examples with columns `passages` (tokens) and `scored` (how many of the last count).

    Returns:
        `input_ids` and `attention_mask` (passages, tokens), `scored` (passages,), and `passages`
        (examples,), how many each example has.
    """
    passages = [passage for example in examples for passage in example["passages"]]
    width = max(map(len, passages))
    return {
        "input_ids": torch.tensor([p + [padding] * (width - len(p)) for p in passages]),
        "attention_mask": torch.tensor([[1] * len(p) + [0] * (width - len(p)) for p in passages]),
        "scored": torch.tensor([count for example in examples for count in example["scored"]]),
        "passages": torch.tensor([len(example["passages"]) for example in examples]),
    }


def log_likelihoods(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """For each passage, the sum of log p of its scored tokens, in nats: float32 (passages,)."""
    tokens, mask = batch["input_ids"], batch["attention_mask"]
    logits = model(input_ids=tokens, attention_mask=mask).logits[:, :-1]
    chosen = logits.gather(-1, tokens[:, 1:, None])[..., 0].float()
    log_p = chosen - logits.float().logsumexp(-1)
    lengths = mask.sum(1, keepdim=True)
    position = torch.arange(1, tokens.shape[1], device=tokens.device)[None]
    counts = (position < lengths) & (position >= lengths - batch["scored"][:, None])
    return torch.where(counts, log_p, 0.0).sum(1)


def by_example(values: torch.Tensor, passages: torch.Tensor) -> list[torch.Tensor]:
    """One value a passage, split by example."""
    return list(values.split(passages.tolist()))
