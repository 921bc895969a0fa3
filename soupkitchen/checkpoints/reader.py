"""One fine-tuned run on disk, opened and not yet read.

A run is a folder as ``save_pretrained``, the Trainer or peft leaves it: a model with
`config.json` and its weights, or a LoRA adapter with `adapter_config.json`. Or it is a file
with a state dict, of which a function of the user's knows the model.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from soupkitchen.checkpoints.configuration import CONFIG_NAME, check_sizes, read_config
from soupkitchen.checkpoints.files import TensorInfo, Tensors, WeightFiles, Weights, has_weights
from soupkitchen.checkpoints.modules import weights_of
from soupkitchen.checkpoints.state_dicts import StateDict, stem_of, without_prefixes
from soupkitchen.checkpoints.strangers import check_folder, code_files
from soupkitchen.errors import CheckpointError

__all__ = ["CONFIG_NAME", "Checkpoint", "TensorInfo", "Tensors"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One run of the pool.

    Attributes:
        name: what the run is called in tables, unique in its pool.
        path: its folder, or its file.
        config: its model's `config.json`; empty where there is none.
        weights: its tensors; of an adapter, those of the model that it makes.
        adapted: of an adapter, the model that it was trained on.
        key: of a file, where in it the state dict is.
    """

    name: str
    path: Path
    config: dict[str, Any] = field(repr=False)
    weights: Weights = field(repr=False)
    adapted: Checkpoint | None = None
    key: str = ""

    @classmethod
    def open(cls, path: str | Path, name: str | None = None, key: str | None = None) -> Checkpoint:
        """Reads the headers of the model in the folder, or file, `path`.

        A folder of weights alone, without a `config.json`, will do.

        Args:
            key: of a file, which of several state dicts in it.

        Raises:
            CheckpointError: where it is no checkpoint, or a broken one.
        """
        path = Path(path)
        if path.is_file():
            weights = StateDict(path, key)
            return cls(name or stem_of(path), path, {}, without_prefixes(weights), key=weights.key)
        check_folder(path)
        bare = has_weights(path) and not os.path.lexists(path / CONFIG_NAME)
        config = {} if bare else read_config(path)
        if not has_weights(path) and (checkpoints := sorted(path.glob("checkpoint-*"))):
            raise CheckpointError(
                f"{path} holds no model itself, only {len(checkpoints)} intermediate checkpoints; "
                f"name the ones to use, for example pool.path='{path}/checkpoint-*'."
            )
        if config.get("auto_map"):
            code_files(path)
        own = WeightFiles.open(path)
        check_sizes(path / CONFIG_NAME, config, [info.shape for info in own.header.values()])
        return cls(name or path.name, path, config, weights_of(path, own))

    @property
    def header(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype by tensor name, sorted by name."""
        return self.weights.header

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the content: the same for the same weights, however they are spread over files."""
        return self.weights.fingerprint

    def changed_files(self) -> list[Path]:
        """Its weight files, and those of its base, that were replaced or written to since it was opened."""
        return self.weights.changed_files()

    @property
    def architecture(self) -> Path:
        """The folder that says, to ``from_pretrained``, what the model is."""
        return self.adapted.path if self.adapted else self.path

    def tensors(self) -> Tensors:
        """Yields (name, tensor) for every tensor, memory-mapped where it lies in a file."""
        return self.weights.tensors()

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor called `name`."""
        return self.weights.tensor(name)
