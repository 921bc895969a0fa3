"""Reads one fine-tuned run from disk, one tensor at a time.

A run is a folder as ``save_pretrained`` or the Trainer leaves it: `config.json`
and the weights in safetensors, in one file or in shards with an index. Opening
it reads headers only; weights are memory-mapped and copied by nobody until
somebody computes with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError, safe_open

from soupkitchen.errors import CheckpointError

# transformers' names of files; importing them from there takes seconds
CONFIG_NAME = "config.json"
SAFE_WEIGHTS_NAME = "model.safetensors"
SAFE_WEIGHTS_INDEX_NAME = "model.safetensors.index.json"
WEIGHTS_NAME = "pytorch_model.bin"
WEIGHTS_INDEX_NAME = "pytorch_model.bin.index.json"

Tensors = Iterator[tuple[str, torch.Tensor]]


@dataclass(frozen=True)
class TensorInfo:
    """What a file's header says of a tensor: `dtype` in safetensors' spelling (``F32``)."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One run of the pool, opened and not yet read.

    Attributes:
        name: what the run is called in tables, unique in its pool.
        path: its folder.
        config: its `config.json`.
        header: shape and dtype by tensor name, sorted by name.
        files: for each weight file, the names of the tensors that it holds.
    """

    name: str
    path: Path
    config: dict[str, Any] = field(repr=False)
    header: dict[str, TensorInfo] = field(repr=False)
    files: dict[Path, tuple[str, ...]] = field(repr=False)

    @classmethod
    def open(cls, path: str | Path, name: str | None = None) -> Checkpoint:
        """Reads the headers of the checkpoint in folder `path`.

        Raises:
            CheckpointError: where it is no checkpoint, or a broken one.
        """
        path = Path(path)
        config = _read_json(path / CONFIG_NAME, f"{path} is not a checkpoint: it has no {CONFIG_NAME}")
        names_by_file: dict[Path, tuple[str, ...]] = {}
        header: dict[str, TensorInfo] = {}
        for file in _weight_files(path):
            infos = _read_header(file)
            if twice := header.keys() & infos.keys():
                raise CheckpointError(f"{file}: the tensor {min(twice)!r} is in another shard too")
            header |= infos
            names_by_file[file] = tuple(infos)
        _check_index(path, names_by_file)
        return cls(name or path.name, path, config, dict(sorted(header.items())), names_by_file)

    def tensors(self) -> Tensors:
        """Yields (name, tensor) for every tensor of the files, memory-mapped, file by file."""
        for file, names in self.files.items():
            with safe_open(file, framework="pt") as handle:
                for name in names:
                    yield name, handle.get_tensor(name)

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor called `name`, memory-mapped."""
        file = next(file for file, names in self.files.items() if name in names)
        with safe_open(file, framework="pt") as handle:
            return handle.get_tensor(name)

    @cached_property
    def fingerprint(self) -> str:
        """A digest of all tensors: names, dtypes, shapes and values, however they are spread over files."""
        digest = xxhash.xxh3_128()
        for name, info in self.header.items():
            digest.update(f"{name} {info.dtype} {info.shape}\0".encode())
            digest.update(self.tensor(name).view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def _weight_files(path: Path) -> list[Path]:
    single, index = path / SAFE_WEIGHTS_NAME, path / SAFE_WEIGHTS_INDEX_NAME
    if single.exists():
        return [single]
    if index.exists():
        shards = sorted(set(_weight_map(index).values()))
        for shard in shards:
            if shard in ("", "..") or Path(shard).name != shard:
                raise CheckpointError(f"{index} names {shard!r}, which is not a file of its own folder")
            if not (path / shard).exists():
                raise CheckpointError(
                    f"{index} names the shard {shard}, which is missing; copy the run again"
                )
        return [path / shard for shard in shards]
    if (path / WEIGHTS_NAME).exists() or (path / WEIGHTS_INDEX_NAME).exists():
        raise CheckpointError(
            f"{path} holds {WEIGHTS_NAME}, a pickle, which is not read. Load it with transformers "
            "and save it again with save_pretrained, which writes safetensors."
        )
    if checkpoints := sorted(path.glob("checkpoint-*")):
        raise CheckpointError(
            f"{path} holds no model itself, only {len(checkpoints)} intermediate checkpoints; "
            f"name the ones to use, for example pool.path='{path}/checkpoint-*'."
        )
    raise CheckpointError(f"{path} holds no {SAFE_WEIGHTS_NAME} and no {SAFE_WEIGHTS_INDEX_NAME}")


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = _read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index} has no valid weight_map; copy the run again")
    return weight_map


def _check_index(path: Path, names_by_file: dict[Path, tuple[str, ...]]) -> None:
    """An index and its shards must agree, or a half-copied run would pass for a whole one."""
    index = path / SAFE_WEIGHTS_INDEX_NAME
    if not index.exists() or path / SAFE_WEIGHTS_NAME in names_by_file:
        return
    for name, shard in _weight_map(index).items():
        if name not in names_by_file[path / shard]:
            raise CheckpointError(
                f"{index} says that {shard} holds {name!r}; it does not. Copy the run again."
            )


def _read_header(file: Path) -> dict[str, TensorInfo]:
    try:
        with safe_open(file, framework="pt") as handle:
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
            return {name: TensorInfo(tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{file} cannot be read as safetensors ({error}); copy the run again"
        ) from error


def _read_json(file: Path, if_missing: str | None = None) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(if_missing or f"{file} is missing") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} should hold a JSON object")
    return content
