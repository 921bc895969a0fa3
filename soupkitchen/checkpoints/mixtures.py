"""Adapters of single parameters (`target_parameters`), as those of the experts of a mixture are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from soupkitchen.checkpoints.adapter_config import AdapterConfig
from soupkitchen.checkpoints.changes import LowRank
from soupkitchen.checkpoints.files import TensorInfo, Weights
from soupkitchen.checkpoints.names import parameter_names
from soupkitchen.checkpoints.parameters import architecture
from soupkitchen.checkpoints.reader import Checkpoint
from soupkitchen.checkpoints.views import aligned
from soupkitchen.errors import CheckpointError

WRAPPED = ".base_layer"
"""What peft puts after the name of a module of which another parameter is adapted, too."""
_Place = tuple[int, tuple[int, int]]
"""Which expert's a tensor of files is, and which of its outputs: the first, and the one after the last."""


def changes_of_parameters(
    config: AdapterConfig, parts: dict[str, dict[str, str]], files: Weights, base: Checkpoint
) -> Iterator[tuple[str, LowRank]]:
    """The changes of single parameters (`target_parameters`), by name of the base's tensor; out of `parts`.

    peft wraps a module once for each of its parameters, the first innermost.
    """
    model = architecture(base.path)
    if model is None:
        raise CheckpointError(
            f"{config.file}: target_parameters needs a model that transformers can make without foreign code"
        )
    wrapped: dict[str, list[str]] = {}
    for place, module in model.named_modules():
        for short, _ in module.named_parameters(recurse=False):
            if config.names_parameter(f"{place}.{short}"):
                wrapped.setdefault(place, []).append(short)
    named = {module.replace(WRAPPED, "") for module in parts}
    for place, module in aligned(list(named), wrapped).items():
        wrappers = [module + WRAPPED * depth for depth in range(len(wrapped[place]))]
        for short, wrapper in zip(reversed(wrapped[place]), wrappers, strict=True):
            if wrapper not in parts:
                continue  # peft makes one that changes nothing
            yield from _of_parameter(config, base, model, f"{place}.{short}", parts.pop(wrapper), files)


def _of_parameter(
    config: AdapterConfig, base: Checkpoint, model: Any, name: str, parts: Mapping[str, str], files: Weights
) -> Iterator[tuple[str, LowRank]]:
    """The change of one parameter, or of each tensor of files that is a part of it."""
    if parts.keys() != {"lora_A", "lora_B"}:
        raise CheckpointError(f"{config.file.parent}: of {name!r} {', '.join(sorted(parts))} is there")
    parameter, owner = model.get_parameter(name), model.get_submodule(name.rpartition(".")[0])
    experts = parameter.shape[0] if parameter.ndim == 3 else 1
    config.check_rank(name, files.header[parts["lora_A"]].shape[0], experts)
    transposed = experts > 1 and bool(getattr(owner, "is_transposed", False))
    plan = LowRank(parts["lora_A"], parts["lora_B"], config.scale(name), transposed, experts=experts)
    places = _tensors_of(base.path, base.header, name)
    if not places or (transposed and any(place is not None for place in places.values())):
        raise CheckpointError(
            f"{config.file}: which tensors of {base.path} the parameter {name} (target_parameters) is made "
            "of is not known, so adapters of it cannot be merged here yet"
        )
    for tensor, place in places.items():
        expert, rows = place or (None, None)
        yield tensor, replace(plan, expert=expert, rows=rows)


def _tensors_of(folder: Path, header: Mapping[str, TensorInfo], parameter: str) -> dict[str, _Place | None]:
    """Which tensors of files make up a parameter of the model whose `config.json` is in `folder`.

    None for a tensor that is the parameter. Of a mixture files may hold each expert by itself, and in two
    halves; where transformers puts these is seen by having it take apart a tensor of numbers of places.
    Nothing at all if that does not give tensors of the files.
    """
    model = architecture(folder)
    whole = [file for file, name in parameter_names(folder, header).items() if name == parameter]
    if model is None or whole:
        return dict.fromkeys(whole)
    from transformers.core_model_loading import revert_weight_conversion

    shape = model.get_parameter(parameter).shape
    if len(shape) != 3:
        return {}
    experts, outputs = (torch.arange(number) for number in shape[:2])
    places = torch.stack(torch.meshgrid(experts, outputs, indexing="ij"), dim=-1)
    found: dict[str, _Place | None] = {}
    for name, part in revert_weight_conversion(model, {parameter: places}).items():
        if part.ndim != 2 or header.get(name, TensorInfo((), "")).shape != (len(part), shape[2]):
            return {}
        (expert, first), last = part[0].tolist(), int(part[-1, 1])
        found[name] = expert, (first, last + 1)
        if not torch.equal(part, places[expert, first : last + 1]):
            return {}
    return found
