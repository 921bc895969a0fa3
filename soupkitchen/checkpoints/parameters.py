"""What transformers knows of a model without its weights: its size, its ties, what it keeps in float32."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from soupkitchen.checkpoints.configuration import CONFIG_NAME
from soupkitchen.checkpoints.files import cached_by


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


@cached_by(CONFIG_NAME)
def rows_of_labels(folder: Path, labels: int) -> frozenset[str]:
    """Which parameters of the model in `folder` have a row for each of so many labels: its head's.

    They are those that grow by a row where the model is made with one label more, whatever they are called.
    None are known where something grows otherwise, or where transformers cannot make the model.
    """
    models = [_made(folder, number) for number in (labels, labels + 1)]
    if None in models:
        return frozenset()
    few, many = ({name: tuple(x.shape) for name, x in model.state_dict().items()} for model in models)
    grown = frozenset(name for name in few.keys() | many.keys() if few.get(name) != many.get(name))
    rows = [name for name in grown & few.keys() if few[name][:1] == (labels,)]
    by_one = [name for name in rows if many.get(name) == (labels + 1, *few[name][1:])]
    return grown if len(by_one) == len(grown) else frozenset()


@cached_by(CONFIG_NAME)
def architecture(folder: Path) -> Any:
    """The model whose `config.json` is in `folder`, without weights; None if transformers cannot make it.

    Code that comes with a model is not run here, whatever the user trusts: a model of such code is none of
    transformers', and is not asked about. Said outright, transformers does not ask the user either.
    """
    return _made(folder)


def _made(folder: Path, labels: int | None = None) -> Any:
    """The model in `folder`, without weights, with so many labels or its own; None if it cannot be made."""
    if not (folder / CONFIG_NAME).is_file():
        return None
    import transformers

    try:
        config = transformers.AutoConfig.from_pretrained(
            folder, trust_remote_code=False, local_files_only=True
        )
        if labels is not None:
            config.num_labels = labels
        config._attn_implementation = None  # what a configuration names may be downloaded
        model_class = getattr(transformers, (config.architectures or [""])[0])
        if not issubclass(model_class, transformers.PreTrainedModel):
            return None
        with torch.device("meta"):
            return model_class(config)
    except Exception:  # whatever a strange config.json does to transformers, it is told when it is loaded
        return None
