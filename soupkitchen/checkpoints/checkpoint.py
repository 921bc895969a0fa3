"""One fine-tuned run on disk, opened and not yet read.

A run is a folder as ``save_pretrained``, the Trainer or peft leaves it: a model with `config.json` and its
weights, or a LoRA adapter with `adapter_config.json`. Or it is a file with a state dict, whose model a
function of the user's makes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from soupkitchen.checkpoints.files import WeightFiles, has_weights
from soupkitchen.checkpoints.folders import (
    CONFIG_NAME,
    check_folder,
    check_sizes,
    code_files,
    read_config,
    read_json,
)
from soupkitchen.checkpoints.modules import weights_of
from soupkitchen.checkpoints.state_dicts import StateDict, stem_of
from soupkitchen.checkpoints.weights import TensorInfo, Tensors, Weights
from soupkitchen.errors import CheckpointError

TRAINER_STATE = "trainer_state.json"
_LONGEST_STEP = 18
"""Digits of a number that may be a step."""


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One run of the pool.

    Attributes:
        name: of the run in tables, unique in its pool.
        path: its folder, or its file.
        config: its model's `config.json`; empty if there is none.
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
            CheckpointError: if it is no checkpoint, or a broken one.
        """
        path = Path(path)
        if path.is_file():
            state_dict = StateDict.open(path, key)
            return cls(name or stem_of(path), path, {}, state_dict.model, key=state_dict.key)
        check_folder(path)
        weighed = has_weights(path)
        config = {} if weighed and not os.path.lexists(path / CONFIG_NAME) else read_config(path)
        if not weighed and (checkpoints := sorted(path.glob("checkpoint-*"))):
            raise CheckpointError(
                f"{path} holds no model itself, only {len(checkpoints)} intermediate checkpoints; "
                f"name the ones to use, for example pool.path='{path}/checkpoint-*'."
            )
        if config.get("auto_map"):
            code_files(path)
        files = WeightFiles.open(path)
        check_sizes(path / CONFIG_NAME, config, [info.shape for info in files.header.values()])
        return cls(name or path.name, path, config, weights_of(path, files))

    @property
    def header(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype by tensor name, sorted by name."""
        return self.weights.header

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the content: the same for the same weights, however they are spread over files."""
        return self.weights.fingerprint

    def changed_files(self) -> list[Path]:
        """Its weight files, and those of its base, that have changed since it was opened."""
        return self.weights.changed_files()

    @property
    def architecture(self) -> Path:
        """The folder whose `config.json` ``from_pretrained`` makes the model of."""
        return self.adapted.path if self.adapted else self.path

    def tensors(self) -> Tensors:
        """Yields (name, tensor) for every tensor, memory-mapped if it lies in a file."""
        return self.weights.tensors()

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor called `name`."""
        return self.weights.tensor(name)


def training_step(run: Checkpoint) -> int | None:
    """The step in the run's `trainer_state.json`, else the last number in its name; None without either.

    A run may be called ``checkpoint-500``, ``step_1000`` or ``org/name@step1000``.
    """
    step: Any = None
    with suppress(CheckpointError):  # most runs have no such file
        step = read_json(run.path / TRAINER_STATE).get("global_step")
    if type(step) is int and step >= 0:
        return step
    numbers = re.findall(r"\d+", run.name)
    return int(numbers[-1]) if numbers and len(numbers[-1]) <= _LONGEST_STEP else None
