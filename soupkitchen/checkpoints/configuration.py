"""What a run's `config.json` may say: nothing that names foreign code or files, no sizes that are not there.

transformers follows a configuration far: it downloads the attention kernel that it names, opens the weight
file that it names, and builds as many layers as it says. It is held against these rules before
transformers gets to see it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from soupkitchen.checkpoints.strangers import read_json
from soupkitchen.errors import CheckpointError

CONFIG_NAME = "config.json"  # transformers' name; importing it from there takes seconds

_DTYPE_KEYS = ("dtype", "torch_dtype")
_ATTENTION_KEYS = re.compile(r"_?attn_implementation(_internal)?")
_PLAIN_ATTENTION = re.compile(r"(paged\|)?(eager|sdpa|flex_attention|flash_attention_\d)")
_FLASH = "flash_attention"
_REPEATED = re.compile(r"(?!.*_per_)(.*_)?(layers?|blocks?|depths?|stages?|repeats?)")
"""Keys of numbers of modules, which cost time and memory to make whatever is in them."""
_MANY = re.compile(r"(.*_)?experts|num_labels")
"""Such as may be one tensor together."""
_FEW_LAYERS, _FEW = 128, 1024
_PER_TENSOR = 4


def read_config(folder: Path) -> dict[str, Any]:
    """The `config.json` in `folder`.

    Raises:
        CheckpointError: where there is none, or it says what no run's may.
    """
    file = folder / CONFIG_NAME
    config = read_json(file, f"{folder} is not a checkpoint: it has no {CONFIG_NAME}")
    if not isinstance(config.get("model_type", ""), str):
        raise CheckpointError(f"{file}: model_type is no text")
    if "transformers_weights" in config:
        raise CheckpointError(
            f"{file} names a weight file of its own (transformers_weights); remove that, and call the file "
            "model.safetensors"
        )
    for key, value in _entries(config):
        if key in _DTYPE_KEYS and not _is_dtype(value):
            raise CheckpointError(f"{file}: {key}={str(value)[:80]} is no dtype of torch, as float32")
        if _ATTENTION_KEYS.fullmatch(key) and not _is_plain_attention(value):
            raise CheckpointError(
                f"{file} names an attention of its own ({key}={str(value)[:80]}), which transformers would "
                "download and run; take it out, or name one of eager, sdpa, flex_attention"
            )
    return config


def check_sizes(file: Path, config: Mapping[str, Any], shapes: Collection[tuple[int, ...]]) -> None:
    """Refuses a configuration that says of many more modules than there are tensors.

    Args:
        file: the `config.json`.
        shapes: those of the run's tensors.

    Raises:
        CheckpointError: naming the key.
    """
    sizes = {size for shape in shapes for size in shape}
    for key, value in _entries(config):
        if not (_REPEATED.fullmatch(key) or _MANY.fullmatch(key)):
            continue
        few, there = (_FEW_LAYERS, set[int]()) if _REPEATED.fullmatch(key) else (_FEW, sizes)
        most = max(few, _PER_TENSOR * len(shapes))
        for number in value if isinstance(value, list) else [value]:
            if isinstance(number, (int, float)) and number not in there and not number <= most:
                raise CheckpointError(
                    f"{file} says {key}={str(value)[:80]}, but its files hold only {len(shapes)} tensors; "
                    "put that right, or copy the run again"
                )


def named_dtypes(config: Mapping[str, Any]) -> set[str]:
    """The names of the dtypes in which a configuration has its model loaded."""
    value = config.get("dtype") or config.get("torch_dtype") or ()
    return {value} if isinstance(value, str) else set(value.values() if isinstance(value, Mapping) else value)


def names_flash_attention(config: Mapping[str, Any]) -> bool:
    """Whether the configuration asks for flash attention.

    transformers downloads it where it is not installed, so it is not honoured.
    """
    return any(_ATTENTION_KEYS.fullmatch(key) and _FLASH in str(value) for key, value in _entries(config))


def _entries(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """All keys and values, at any depth."""
    waiting: list[Any] = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _is_dtype(value: Any) -> bool:
    if isinstance(value, Mapping):  # by part of a model made of several
        return all(_is_dtype(inner) for inner in value.values())
    return value is None or (isinstance(value, str) and isinstance(getattr(torch, value, None), torch.dtype))


def _is_plain_attention(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_is_plain_attention(inner) for inner in value.values())
    return value is None or (isinstance(value, str) and _PLAIN_ATTENTION.fullmatch(value) is not None)
