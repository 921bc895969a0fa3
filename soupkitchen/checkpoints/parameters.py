"""What transformers knows of a model's parameters without loading it: its ties, and its renames.

Files keep the names that a model had when they were first published. Where transformers has since renamed
modules (a ViT's ``attention.query`` is ``q_proj`` now), it renames the tensors of files when it loads
them, and back when it saves; but an adapter is trained on modules, and called as they are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch


def tied_names(folder: Path) -> Mapping[str, str]:
    """For the model whose `config.json` is in `folder`: which parameters are others by another name."""
    model = _architecture(folder)
    return dict(model.all_tied_weights_keys) if model is not None else {}


def parameter_names(folder: Path, files: Iterable[str]) -> Mapping[str, str]:
    """How the model in `folder` calls the tensors that files call `files`, by name in files.

    Tensors that transformers puts together or takes apart have no name of their own and are left
    out; so are all, where this transformers does not tell.
    """
    model = _architecture(folder)
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
    except ImportError:  # transformers below 5 renames nothing
        return {}
    if model is None:
        return {}
    transforms = get_model_conversion_mapping(model)
    renamings = [t for t in transforms if isinstance(t, WeightRenaming)]
    converters = [t for t in transforms if isinstance(t, WeightConverter)]
    parameters = model.state_dict()
    renamed = {
        name: rename_source_key(name, renamings, converters, model.base_model_prefix, parameters)[0]
        for name in files
    }
    times = Counter(renamed.values())
    return {name: to for name, to in renamed.items() if to in parameters and times[to] == 1}


def elements(folder: Path) -> int:
    """How many numbers the parameters and buffers of the model in `folder` have; 0 where it is not known."""
    model = _architecture(folder)
    return sum(x.numel() for x in (*model.parameters(), *model.buffers())) if model is not None else 0


def float32_tensors(folder: Path, dtype: torch.dtype, files: Iterable[str]) -> frozenset[str]:
    """Which of the tensors called `files` stay float32 where transformers loads the model as `dtype`."""
    files = list(files)
    kept = kept_in_float32(_architecture(folder), dtype)
    if kept is None:
        return frozenset()
    names = parameter_names(folder, files)
    return frozenset(name for name in files if kept(names.get(name, name)))


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
def _architecture(folder: Path) -> Any:
    """The model whose `config.json` is in `folder`, without weights; None if transformers cannot make it.

    Code that comes with a model is not run here, whatever the user trusts: a model of such code is none of
    transformers', and is not asked about. Said outright, transformers does not ask the user either.
    """
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
