"""Checks of tokenizers and models that tasks on texts share, and log-likelihoods of texts.

For likelihoods an example is one or more *passages*: tokens of which the last ones are scored, each given
all before it. Passages of a batch are padded on the right.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from datasets import Dataset
from transformers import PreTrainedModel

from soupkitchen.errors import CheckpointError, DataError
from soupkitchen.tasks.base import Processor, Task
from soupkitchen.tasks.columns import row_of

log = logging.getLogger(__name__)
_LOGITS = 1 << 24
"""Logits in float32 at once: 64 MiB, and as much for results."""


def longest(tokenizer: Processor, model: PreTrainedModel, option: int | None) -> int:
    """The most tokens of an input: `option`, or the tokenizer's and the model's limit."""
    config: Any = model.config
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    positions = next((limit for limit in limits if isinstance(limit, int) and limit > 0), 1 << 30)
    return option or min(tokenizer.model_max_length, positions)


def check_tokens(
    task: Task,
    split: Dataset,
    option: str,
    tokens: Sequence[Sequence[int]],
    model: PreTrainedModel,
    padding: Processor | None = None,
) -> None:
    """Checks that each example has tokens, and the model an embedding for each.

    Args:
        option: names the column.
        padding: the tokenizer that pads; None if any token would do.

    Raises:
        CheckpointError: if the padding token has no embedding.
        DataError: if an example is wrong.
    """
    rows, column = embedding_rows(model), getattr(task, option)
    remedy = (
        "the tokenizer is that of another model, or was given tokens that the model was not; put the model's "
        "own tokenizer into the folder of the run"
    )
    for number, text in enumerate(tokens):
        if text and (rows is None or max(text) < rows):
            continue
        where = f"task.{option}={column}: row {row_of(split, number)}"
        if not text:
            raise DataError(f"{where} is empty, it has no tokens; fill it, or leave the row out")
        raise DataError(
            f"{where} has the token {max(text)}, and the model's embedding only {rows} rows: {remedy}"
        )
    if padding is not None and rows is not None and (getattr(padding, "pad_token_id", None) or 0) >= rows:
        raise CheckpointError(
            f"the tokenizer pads with {padding.pad_token!r}, token {padding.pad_token_id}, and the model's "
            f"embedding has only {rows} rows: {remedy}"
        )


def embedding_rows(model: PreTrainedModel) -> int | None:
    """The number of the model's token embeddings; None if unknown."""
    try:
        rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    except (NotImplementedError, AttributeError):
        return None
    return rows if isinstance(rows, int) else None


def pad_alike(tokenizer: Processor, model: PreTrainedModel) -> None:
    """Makes model and tokenizer pad with one token: classifying decoders look for the last other one.

    Raises:
        CheckpointError: if the tokenizer cannot pad.
    """
    config: Any = model.config.get_text_config()
    padding = config.pad_token_id
    if isinstance(padding, int) and 0 <= padding < len(tokenizer):
        if tokenizer.pad_token_id != padding:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(padding)
        return
    if tokenizer.pad_token_id is None:
        raise CheckpointError(
            f"the tokenizer of {type(model).__name__} has no pad_token, eos_token or unk_token to pad "
            "batches with; give it a pad_token (tokenizer_config.json)"
        )
    config.pad_token_id = tokenizer.pad_token_id
    log.warning(
        "config.json names no pad_token_id, which %s needs for batches: taken is the tokenizer's %r, %d; the "
        "config.json of the saved soup names it (that of an adapter's base stays as it is)",
        type(model).__name__,
        tokenizer.pad_token,
        tokenizer.pad_token_id,
    )


@torch.inference_mode()
def check_causal(model: PreTrainedModel) -> None:
    """Checks that no token sees later ones.

    Raises:
        CheckpointError: if one does, as in a masked language model.
    """
    rows = embedding_rows(model) or 2
    texts = [torch.tensor([[0, 1 % rows, 0, last]]).to(model.device) for last in (0, min(rows, 100) - 1)]
    try:
        first, second = (
            model(input_ids=text, attention_mask=torch.ones_like(text)).logits[0, :-1].float()
            for text in texts
        )
    except Exception:  # a model that cannot take four tokens fails where it is scored
        return
    rounding = torch.finfo(model.dtype).eps ** 0.5 * first.abs().max()
    if (first - second).abs().max() > rounding:
        raise CheckpointError(
            f"{type(model).__name__} lets tokens see those that come after them (a masked language model?), "
            "so how likely it finds a text says nothing; this task needs causal models (BERT and its like: "
            "is_decoder=true in config.json, if it was trained so)"
        )


def at_once(model: torch.nn.Module) -> dict[str, bool]:
    """The argument that keeps a decoder from storing keys and values.

    A 7 B model stores 17 GB (half precision) for 64 texts of 512 tokens.
    """
    return {"use_cache": False} if _takes_use_cache(type(unwrapped(model)).forward) else {}


@cache
def _takes_use_cache(forward: Callable[..., Any]) -> bool:
    return "use_cache" in inspect.signature(forward).parameters


def unwrapped(model: Any) -> PreTrainedModel:
    """The model without accelerate's wrapper."""
    return getattr(model, "module", model)


# Likelihoods


def beginning(tokenizer: Processor) -> int:
    """The token before a text without context: bos, else eos.

    Raises:
        DataError: if the tokenizer has neither.
    """
    for token in (tokenizer.bos_token_id, tokenizer.eos_token_id):
        if token is not None:
            return token
    raise DataError("the tokenizer has neither a bos_token nor an eos_token for texts to follow")


def encode(tokenizer: Processor, text: str) -> list[int]:
    """The tokens of `text`, without special ones."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def collate_passages(examples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch of examples with columns `passages` (tokens) and `scored`: how many of the last count, or 1 for
    each token that does and 0 for others.

    Returns:
        `input_ids`, `attention_mask` and `scored` (passages, tokens), and `passages` (examples,), how many
        each example has.
    """
    passages = [passage for example in examples for passage in example["passages"]]
    width = max(map(len, passages))  # any token pads: it comes last and is masked
    marks = [mark for example in examples for mark in example["scored"]]
    marks = [
        mark if isinstance(mark, list) else [0] * (len(p) - mark) + [1] * mark
        for p, mark in zip(passages, marks, strict=True)
    ]
    return {
        "input_ids": torch.tensor([p + [0] * (width - len(p)) for p in passages]),
        "attention_mask": torch.tensor([[1] * len(p) + [0] * (width - len(p)) for p in passages]),
        "scored": torch.tensor([mark + [0] * (width - len(mark)) for mark in marks], dtype=torch.bool),
        "passages": torch.tensor([len(example["passages"]) for example in examples]),
    }


def log_likelihoods(model: torch.nn.Module, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The sum of log p of each passage's scored tokens, in nats: float32 (passages,).

    A forward pass takes as many passages as the batch has examples, so `runtime.batch_size` bounds it.
    """
    number = len(batch["passages"])
    parts = zip(
        *(batch[name].split(number) for name in ("input_ids", "attention_mask", "scored")), strict=True
    )
    return torch.cat([_log_likelihoods(model, *part) for part in parts])


def _log_likelihoods(
    model: torch.nn.Module, tokens: torch.Tensor, mask: torch.Tensor, scored: torch.Tensor
) -> torch.Tensor:
    """One forward pass; only scored logits become float32, a slice at a time."""
    width = int(mask.sum(1).max())
    tokens, mask, counts = tokens[:, :width], mask[:, :width], scored[:, 1:width]
    logits = model(input_ids=tokens, attention_mask=mask, **at_once(model)).logits
    passages, before = counts.nonzero(as_tuple=True)
    log_p = torch.zeros(counts.shape, device=logits.device)
    few = max(1, _LOGITS // logits.shape[-1])
    for passage, place in zip(passages.split(few), before.split(few), strict=True):
        these = logits[passage, place].float()
        chosen = these.gather(-1, tokens[passage, place + 1, None])[:, 0]
        log_p[passage, place] = chosen - these.logsumexp(-1)
    return log_p.sum(1)
