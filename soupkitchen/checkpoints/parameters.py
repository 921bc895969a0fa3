"""What transformers knows of a model without its weights: its size, its ties, what it keeps in float32."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from soupkitchen.checkpoints.configuration import CONFIG_NAME


def tied_names(folder: Path) -> Mapping[str, str]:
    """For the model whose `config.json` is in `folder`: which parameters are others by another name."""
    model = architecture(folder)
    return dict(model.all_tied_weights_keys) if model is not None else {}


def elements(folder: Path) -> int:
    """How many numbers the parameters and buffers of the model in `folder` have; 0 where it is not known."""
    model = architecture(folder)
    return sum(x.numel() for x in (*model.parameters(), *model.buffers())) if model is not None else 0


def kept_in_float32(model: Any, dtype: torch.dtype) -> Callable[[str], bool] | None:
    """Tells by its name whether a parameter of `model` is kept in float32 where that is loaded as `dtype`.

    None where all are loaded as they are asked for. Mixtures' routers are such, and T5's `wo` in float16.
    """
    plan: dict[str, Any] = getattr(model, "_get_dtype_plan", lambda dtype: {})(dtype)
    if not plan:
        return None
    pattern = re.compile("|".join(name.replace("*", ".*") for name in plan))
    return lambda name: pattern.search(name) is not None


@cache
def architecture(folder: Path) -> Any:
    """The model whose `config.json` is in `folder`, without weights; None if transformers cannot make it.

    Code that comes with a model is not run here, whatever the user trusts: a model of such code is none of
    transformers', and is not asked about. Said outright, transformers does not ask the user either.
    """
    if not (folder / CONFIG_NAME).is_file():
        return None
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        config._attn_implementation = None  # what a configuration names may be downloaded
        model_class = getattr(transformers, (config.architectures or [""])[0])
        if not issubclass(model_class, transformers.PreTrainedModel):
            return None
        with torch.device("meta"):
            return model_class(config)
    except Exception:  # whatever a strange config.json does to transformers, it is told when it is loaded
        return None
