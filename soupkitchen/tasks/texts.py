"""What tasks on texts have in common: tokenizers and their limits, and what a model must be for them."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import AutoTokenizer, PreTrainedModel

from soupkitchen.errors import CheckpointError, DataError
from soupkitchen.tasks.base import Processor
from soupkitchen.tasks.values import row_of

log = logging.getLogger(__name__)


class TextTask:
    """What tasks on texts share: a tokenizer, and nothing to keep in proportion where data is split."""

    @property
    def stratify_column(self) -> str | None:
        return None

    def load_processor(self, folder: str, trust_remote_code: bool = False) -> Processor:
        """The tokenizer in the checkpoint `folder`, with something to pad with.

        Raises:
            CheckpointError: where there is none.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_remote_code)
        except Exception as error:  # whatever a strange tokenizer.json makes of it
            first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(
                f"{folder} has no tokenizer that transformers can load ({first_line}); copy that of the base "
                "model there"
            ) from error
        if not has_vocabulary(tokenizer, Path(folder)):
            raise CheckpointError(
                f"{folder} has no file with the vocabulary of its tokenizer ({type(tokenizer).__name__}); "
                "copy the base model's tokenizer files there"
            )
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        return tokenizer


def has_vocabulary(tokenizer: Processor, folder: Path) -> bool:
    """Whether the tokens are those of a file in `folder`.

    Where there is none, transformers makes up a tokenizer with a handful of tokens. Tokenizers
    of bytes or characters need none.
    """
    files = set(getattr(tokenizer, "vocab_files_names", {}).values())
    if not files:
        return True
    return any((folder / name).is_file() for name in {*files, "tokenizer.json", "tekken.json"}) or any(
        folder.glob("*.tiktoken")
    )


def longest(tokenizer: Processor, model: PreTrainedModel, option: int | None) -> int:
    """How many tokens an input may have: what the option says, or the tokenizer's and the model's limit."""
    config: Any = model.config
    limits = [getattr(config, name, None) for name in ("max_position_embeddings", "n_positions")]
    positions = next((limit for limit in limits if isinstance(limit, int) and limit > 0), 1 << 30)
    return option or min(tokenizer.model_max_length, positions)


def check_tokens(
    split: datasets.Dataset,
    option: str,
    column: str,
    tokens: Sequence[Sequence[int]],
    model: PreTrainedModel,
    padding: Processor | None = None,
) -> None:
    """Checks that each example has tokens, and the model a row of its embedding for each of these.

    Args:
        padding: the tokenizer that pads batches; None where any token would do.

    Raises:
        CheckpointError: where the model has no row for what pads.
        DataError: naming the first example of which that is not so.
    """
    rows = embedding_rows(model)
    remedy = (
        "the tokenizer is that of another model, or was given tokens that the model was not; put the model's "
        "own tokenizer into the folder of the run"
    )
    for number, one in enumerate(tokens):
        if not one:
            raise DataError(
                f"{option}={column}: row {row_of(split, number)} is empty, it has no tokens; fill it, or "
                "leave the row out"
            )
        if rows is not None and max(one) >= rows:
            raise DataError(
                f"{option}={column}: row {row_of(split, number)} has the token {max(one)}, and the model's "
                f"embedding only {rows} rows: {remedy}"
            )
    if padding is not None and rows is not None and (getattr(padding, "pad_token_id", None) or 0) >= rows:
        raise CheckpointError(
            f"the tokenizer pads with {padding.pad_token!r}, token {padding.pad_token_id}, and the model's "
            f"embedding has only {rows} rows: {remedy}"
        )


def embedding_rows(model: PreTrainedModel) -> int | None:
    """For how many tokens the model has an embedding; None where that is not told."""
    try:
        rows = getattr(model.get_input_embeddings(), "num_embeddings", None)
    except (NotImplementedError, AttributeError):
        return None
    return rows if isinstance(rows, int) else None


def pad_alike(tokenizer: Processor, model: PreTrainedModel) -> None:
    """Has model and tokenizer agree on what pads a batch: decoders that classify look for the last token
    that does not.

    Raises:
        CheckpointError: where the tokenizer has nothing to pad with.
    """
    config: Any = model.config.get_text_config()
    known = config.pad_token_id
    if isinstance(known, int) and 0 <= known < len(tokenizer):
        if tokenizer.pad_token_id != known:
            tokenizer.pad_token = tokenizer.convert_ids_to_tokens(known)
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


def check_start(model: PreTrainedModel) -> None:
    """Checks that it is known with what the answers of a sequence-to-sequence model begin.

    Raises:
        CheckpointError: where it is not.
    """
    places = (model.generation_config, model.config)
    tokens = ("decoder_start_token_id", "bos_token_id")
    if all(getattr(place, token, None) is None for place in places for token in tokens):
        raise CheckpointError(
            f"{type(model).__name__}: neither generation_config.json nor config.json names the "
            "decoder_start_token_id with which answers begin; add it (T5: the pad token's number, BART: the "
            "end token's)"
        )


@torch.inference_mode()
def check_causal(model: PreTrainedModel) -> None:
    """Checks that no token sees those after it: else a model is told what it is to predict.

    Raises:
        CheckpointError: where one does, as in a masked language model.
    """
    rows = embedding_rows(model) or 2
    texts = [torch.tensor([[0, 1 % rows, 0, last]]).to(model.device) for last in (0, min(rows, 100) - 1)]
    try:
        one, other = (
            model(input_ids=text, attention_mask=torch.ones_like(text)).logits[0, :-1].float()
            for text in texts
        )
    except Exception:  # what a model cannot do with four tokens, scoring it will tell
        return
    rounding = torch.finfo(model.dtype).eps ** 0.5 * one.abs().max()
    if (one - other).abs().max() > rounding:
        raise CheckpointError(
            f"{type(model).__name__} lets tokens see those that come after them (a masked language model?), "
            "so how likely it finds a text says nothing; this task needs causal models (BERT and its like: "
            "is_decoder=true in config.json, if it was trained so)"
        )


def at_once(model: torch.nn.Module) -> dict[str, bool]:
    """What has a decoder that sees a text once not keep keys and values for a next token.

    At 64 texts of 512 tokens those of a 7 B model are 17 GB in half precision.
    """
    return {"use_cache": False} if _takes_use_cache(type(unwrapped(model)).forward) else {}


@cache
def _takes_use_cache(forward: Callable[..., Any]) -> bool:
    return "use_cache" in inspect.signature(forward).parameters


def unwrapped(model: Any) -> PreTrainedModel:
    """The model itself, out of what accelerate puts around it."""
    return getattr(model, "module", model)
