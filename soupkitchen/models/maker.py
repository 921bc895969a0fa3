"""The seam between runs on disk and the one live model: makers make models and save them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.checkpoints.names import NameMap
from soupkitchen.tasks import Several, Task
from soupkitchen.tasks.base import Processor


@dataclass(frozen=True)
class Loading:
    """Options of loading models.

    Attributes:
        dtype: of the weights; None for that of the files.
        device_map: spreads a model over devices, "auto" or as accelerate takes it; None for one device.
        max_memory: bytes by device for a model that is spread; None for all of it.
        trust_remote_code: whether code that comes with a model may be run.
    """

    dtype: torch.dtype | None = None
    device_map: str | Mapping[str, Any] | None = None
    max_memory: Mapping[int | str, int] | None = None
    trust_remote_code: bool = False

    def options(self) -> dict[str, Any]:
        """Arguments of ``from_pretrained`` for a folder: no name in a file reaches the hub."""
        options: dict[str, Any] = {"dtype": self.dtype or "auto", "trust_remote_code": self.trust_remote_code}
        options["local_files_only"] = not self.trust_remote_code  # code may be in a repository of its own
        if self.device_map is not None:
            options |= {"device_map": self.device_map, "max_memory": self.max_memory}
        return options


class Maker(Protocol):
    """Makes the live model of a run, and saves the live model in a folder."""

    @property
    def name(self) -> str:
        """Its name in tables and recipes."""
        ...

    @property
    def library(self) -> str:
        """The hub's name of the library that loads a saved model."""
        ...

    def snippet(self, folder: str) -> str:
        """The Python code that loads the model saved in `folder`."""
        ...

    def load(self, run: Checkpoint, loading: Loading) -> torch.nn.Module:
        """The model with the weights of `run` or, of an adapter, of its base.

        Raises:
            CheckpointError: if files and model do not fit.
        """
        ...

    def names(self, run: Checkpoint, model: torch.nn.Module) -> NameMap:
        """The places of files' tensors in a model that was just loaded from `run`.

        Raises:
            CheckpointError: if `run` has tensors that the model has no place for.
        """
        ...

    def like(self, model: torch.nn.Module) -> Callable[[dict[str, torch.Tensor]], torch.nn.Module]:
        """A function that makes a model of the same kind of tensors named as in files.

        It is for models that cannot be filled in place, and does not keep `model`.
        """
        ...

    def save(self, model: torch.nn.Module, folder: Path, like: Checkpoint, max_shard_size: str | int) -> None:
        """Writes the model to `folder`, as users of its kind of model load it.

        Args:
            like: the run whose names of tensors, and other files, are taken.
        """
        ...

    def processor(
        self, run: Checkpoint, task: Task, pool: Pool | None, model: Any, trust_remote_code: bool
    ) -> tuple[Processor, Path | None]:
        """Loads the processor of `model`'s inputs; also returns the folder of files to copy with the soup.

        Raises:
            CheckpointError: if there is none.
        """
        ...

    def identity(self) -> list[str]:
        """The user's code and its options, on which predictions depend beside the run's own files."""
        ...


class Models(Protocol):
    """The option group `model`: how a pool's models are made."""

    def maker(self, tasks: Several, pool: Pool) -> Maker:
        """Chooses the maker of the models of `pool` for `tasks`.

        Raises:
            CheckpointError: if the runs are no such models.
        """
        ...
