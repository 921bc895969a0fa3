"""What tasks on texts have in common: tokenizers and their limits."""

from __future__ import annotations

from typing import Any

from transformers import AutoTokenizer, PreTrainedModel

from soupkitchen.errors import CheckpointError
from soupkitchen.tasks.base import Processor


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
        except (OSError, ValueError) as error:
            first_line = str(error).strip().splitlines()[0]
            raise CheckpointError(
                f"{folder} has no tokenizer that transformers can load ({first_line}); copy that of the base "
                "model there"
            ) from error
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        return tokenizer


def longest(tokenizer: Processor, model: PreTrainedModel, option: int | None) -> int:
    """How many tokens an input may have: what the option says, or the tokenizer's and the model's limit."""
    config: Any = model.config
    positions = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    return option or min(tokenizer.model_max_length, positions or 1 << 30)


def unwrapped(model: Any) -> PreTrainedModel:
    """The model itself, out of what accelerate puts around it."""
    return getattr(model, "module", model)
