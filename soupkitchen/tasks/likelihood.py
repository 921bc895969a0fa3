"""Log-likelihoods of texts under a causal language model, for perplexity and multiple choice.

An example is one or more *passages*: tokens of which the last ones are scored, each given all before it.
Passages of a batch are padded on the right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from soupkitchen.errors import DataError
from soupkitchen.tasks.base import Processor
from soupkitchen.tasks.texts import at_once

_LOGITS = 1 << 24
"""Logits that are float32 at once: 64 MiB, and as much again for results."""


def beginning(tokenizer: Processor) -> int:
    """The token that a text without context follows: the beginning of a sequence, or the end of the last.

    Raises:
        DataError: if the tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    raise DataError("the tokenizer has neither a bos_token nor an eos_token for texts to follow")


def encode(tokenizer: Processor, text: str) -> list[int]:
    """The tokens of `text` alone, without special ones."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def collate(examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of examples with columns `passages` (tokens) and `scored` (how many of the last count).

    Returns:
        `input_ids` and `attention_mask` (passages, tokens), `scored` (passages,), and `passages`
        (examples,), how many each example has.
    """
    passages = [passage for example in examples for passage in example["passages"]]
    width = max(map(len, passages))  # any token pads: it comes last and is masked
    return {
        "input_ids": torch.tensor([p + [0] * (width - len(p)) for p in passages]),
        "attention_mask": torch.tensor([[1] * len(p) + [0] * (width - len(p)) for p in passages]),
        "scored": torch.tensor([count for example in examples for count in example["scored"]]),
        "passages": torch.tensor([len(example["passages"]) for example in examples]),
    }


def log_likelihoods(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The sum of log p of each passage's scored tokens, in nats: float32 (passages,).

    A forward pass takes as many passages as the batch has examples, so `runtime.batch_size`, and the halving
    of batches if memory runs out, bound it.
    """
    number = len(batch["passages"])
    parts = zip(
        *(batch[name].split(number) for name in ("input_ids", "attention_mask", "scored")), strict=True
    )
    return torch.cat([_log_likelihoods(model, *part) for part in parts])


def _log_likelihoods(
    model: torch.nn.Module, tokens: torch.Tensor, mask: torch.Tensor, scored: torch.Tensor
) -> torch.Tensor:
    """As `log_likelihoods`, in one forward pass. Only logits that count become float32, a slice at a time."""
    lengths = mask.sum(1, keepdim=True)
    width = int(lengths.max())
    tokens, mask = tokens[:, :width], mask[:, :width]
    logits = model(input_ids=tokens, attention_mask=mask, **at_once(model)).logits
    position = torch.arange(1, width, device=tokens.device)[None]
    counts = (position < lengths) & (position >= lengths - scored[:, None])
    passages, before = counts.nonzero(as_tuple=True)
    log_p = torch.zeros(counts.shape, device=logits.device)
    few = max(1, _LOGITS // logits.shape[-1])
    for passage, place in zip(passages.split(few), before.split(few), strict=True):
        these = logits[passage, place].float()
        chosen = these.gather(-1, tokens[passage, place + 1, None])[:, 0]
        log_p[passage, place] = chosen - these.logsumexp(-1)
    return log_p.sum(1)
