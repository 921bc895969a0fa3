"""The seam between runs on disk and the one live model: makers make models and save them.

The maker of this file makes any PyTorch model by a function of the user's; its runs are state dicts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Protocol

import torch
from huggingface_hub import save_torch_state_dict

from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.checkpoints.checkpoint import StateDict, stem_of
from soupkitchen.checkpoints.names import NameMap, first_names, layout_of, shapes_of
from soupkitchen.checkpoints.weights import aligned
from soupkitchen.errors import CheckpointError, ConfigError, first_of
from soupkitchen.options import check_fields
from soupkitchen.options.building import users_own
from soupkitchen.store.digests import source_of
from soupkitchen.tasks import Several, Task
from soupkitchen.tasks.base import Processor

_COUNTED = ("num_batches_tracked", "n_averaged")
"""Batch-norm buffers that old files may lack, as in PyTorch."""
_SHOWN = 3


@dataclass(frozen=True)
class Loading:
    """Options of loading models.

    Attributes:
        dtype: of the weights; None for the files'.
        device_map: spreads a model over devices, "auto" or as in accelerate; None for one device.
        max_memory: bytes by device for a spread model; None for all.
        trust_remote_code: True if a model's own code may run.
    """

    dtype: torch.dtype | None = None
    device_map: str | Mapping[str, Any] | None = None
    max_memory: Mapping[int | str, int] | None = None
    trust_remote_code: bool = False

    def options(self) -> dict[str, Any]:
        """Arguments of ``from_pretrained``; no name in a file reaches the hub."""
        options: dict[str, Any] = {"dtype": self.dtype or "auto", "trust_remote_code": self.trust_remote_code}
        options["local_files_only"] = not self.trust_remote_code  # code may be in a repository of its own
        return options | self.placement()

    def placement(self) -> dict[str, Any]:
        """Arguments of `options` that spread the model."""
        if self.device_map is None:
            return {}
        return {"device_map": self.device_map, "max_memory": self.max_memory}


class Maker(Protocol):
    """Makes a run's live model, and saves it."""

    @property
    def name(self) -> str:
        """The name in tables and recipes."""

    @property
    def library(self) -> str:
        """The hub's name of the library that loads the model."""

    def snippet(self, folder: str) -> str:
        """Python code that loads the model in `folder`."""

    def load(self, run: Checkpoint, loading: Loading) -> torch.nn.Module:
        """The model with the weights of `run` or, of an adapter, of its base.

        Raises:
            CheckpointError: if files and model do not fit.
        """

    def names(self, run: Checkpoint, model: torch.nn.Module) -> NameMap:
        """The places of files' tensors in a model just loaded from `run`.

        Raises:
            CheckpointError: if a tensor has no place.
        """

    def like(self, model: torch.nn.Module) -> Callable[[dict[str, torch.Tensor]], torch.nn.Module]:
        """A function from tensors, named as in files, to a model of the same kind.

        It is for models that cannot be filled in place, and does not keep `model`.
        """

    def save(self, model: torch.nn.Module, folder: Path, like: Checkpoint, max_shard_size: str | int) -> None:
        """Writes the model to `folder`, as its users load it.

        Args:
            like: the run whose tensor names and other files are taken.
        """

    def processor(
        self, run: Checkpoint, task: Task, pool: Pool | None, model: Any, trust_remote_code: bool
    ) -> tuple[Processor, Path | None]:
        """Loads the model's processor; also returns the folder of its files, for the soup.

        Raises:
            CheckpointError: if there is none.
        """

    def identity(self) -> list[str]:
        """User's code and options that predictions depend on, besides the run's files."""


class Models(Protocol):
    """The option group `model`: makes a pool's models."""

    def maker(self, tasks: Several, pool: Pool) -> Maker:
        """Chooses the maker of `pool`'s models for `tasks`.

        Raises:
            CheckpointError: if the runs are no such models.
        """


@dataclass(frozen=True)
class Function:
    """Models of a function: ``build(**options)`` returns a `torch.nn.Module`, with any weights.

    Attributes:
        build: the function or class, as ``my_module.build`` or ``timm.create_model``.
        options: its arguments.
        processor: a function, as ``my_module.transform``, from the model to its processor; for images, that
            is a function from a PIL image to a tensor. None if the task's function prepares inputs.

    Raises:
        ConfigError: if a function does not exist.
    """

    build: str
    options: Mapping[str, Any] = field(default_factory=dict)
    processor: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "model")
        users_own("model.build", self.build)
        if self.processor is not None:
            users_own("model.processor", self.processor)

    def maker(self, tasks: Several, pool: Pool) -> Maker:
        """Makes the models itself.

        Raises:
            ConfigError: if a task needs a model of transformers.
        """
        for task in tasks.tasks.values():
            ours = type(task).__module__.startswith("soupkitchen.")
            if ours and not task.takes_any_model:
                raise ConfigError(
                    f"{type(task).__name__} asks for what only models of transformers have (model=auto); "
                    "with model=function take task=function, task=image_classification, or a task of your own"
                )
        return Built(self)


@dataclass(frozen=True)
class Built:
    """Makes models by a function."""

    library = "pytorch"

    of: Function

    @property
    def name(self) -> str:
        return self.of.build

    def snippet(self, folder: str) -> str:
        module, _, function = self.of.build.rpartition(".")
        options = ", ".join(f"{name}={value!r}" for name, value in self.of.options.items())
        return (
            f"from {module} import {function}\nfrom safetensors.torch import load_model\n\n"
            f'model = {function}({options})\nload_model(model, "{folder}/model.safetensors")'
        )

    def load(self, run: Checkpoint, loading: Loading) -> torch.nn.Module:
        if loading.device_map is not None:
            raise ConfigError("runtime.device_map is for models of transformers: leave it null")
        model = self._model(loading.dtype)
        self._fill(model, run.path, dict(run.tensors()))
        return model

    def names(self, run: Checkpoint, model: torch.nn.Module) -> NameMap:
        names = self._names(run.header, model, run.path)
        return NameMap(type(model), shapes_of(run.header), layout_of(model), names, in_place=True)

    def like(self, model: torch.nn.Module) -> Callable[[dict[str, torch.Tensor]], torch.nn.Module]:
        return partial(self._made, next((x.dtype for x in model.parameters() if x.is_floating_point()), None))

    def save(self, model: torch.nn.Module, folder: Path, like: Checkpoint, max_shard_size: str | int) -> None:
        """Writes safetensors and, if `like` is a PyTorch file, such a file, too.

        That keeps all but the tensors of `like`, so that the soup loads like a run, as by Lightning's
        ``load_from_checkpoint``.
        """
        state, first = model.state_dict(), first_names(model)
        names = self._names(like.header, model, like.path)
        dtypes = {first[to]: like.header[name].torch_dtype for name, to in names.items()}
        tensors = {to: _as_in_file(state[to], dtypes.get(to)) for to in dict.fromkeys(first.values())}
        once = {first[to]: name for name, to in reversed(names.items())}
        save_torch_state_dict(
            {name: tensors[to] for to, name in once.items()}, folder, max_shard_size=max_shard_size
        )
        if like.path.is_file() and like.path.suffix != ".safetensors":
            stored = StateDict.open(like.path, like.key or None)
            places = self._names(stored.model.header, model, like.path)
            named = {name: tensors[first[to]] for name, to in places.items()}
            suffix = like.path.name.removeprefix(stem_of(like.path))
            torch.save(stored.with_tensors(named), folder / f"model{suffix}")

    def processor(
        self, run: Checkpoint, task: Task, pool: Pool | None, model: Any, trust_remote_code: bool
    ) -> tuple[Processor, Path | None]:
        if self.of.processor is None:
            return None, None
        return users_own("model.processor", self.of.processor)(model), None

    def identity(self) -> list[str]:
        functions = [self.of.build, *([self.of.processor] if self.of.processor else [])]
        return [repr(self.of), *(line for function in functions for line in _source(function))]

    def _model(self, dtype: torch.dtype | None) -> torch.nn.Module:
        try:
            model = users_own("model.build", self.of.build)(**self.of.options)
        except ConfigError:
            raise
        except Exception as error:  # the user's code may raise anything
            raise ConfigError(
                f"model.build={self.of.build} with model.options={dict(self.of.options)} fails: "
                f"{type(error).__name__}: {error}"
            ) from error
        if not isinstance(model, torch.nn.Module):
            raise ConfigError(
                f"model.build={self.of.build} gives a {type(model).__name__}, and no torch.nn.Module"
            )
        return model if dtype is None else model.to(dtype)

    def _made(self, dtype: torch.dtype | None, tensors: dict[str, torch.Tensor]) -> torch.nn.Module:
        model = self._model(dtype)
        self._fill(model, Path("the soup"), tensors)
        return model

    @torch.no_grad()
    def _fill(self, model: torch.nn.Module, file: Path, tensors: Mapping[str, torch.Tensor]) -> None:
        state = model.state_dict(keep_vars=True)
        for name, to in self._names(tensors, model, file).items():
            state[to].copy_(tensors[name])

    def _names(self, tensors: Mapping[str, Any], model: torch.nn.Module, file: Path) -> dict[str, str]:
        """The model's name for each tensor of a file: the same, or with one prefix more or less for all.

        Args:
            tensors: anything with a shape, by name.

        Raises:
            CheckpointError: if a tensor has no place, or a place no tensor.
        """
        state, first = model.state_dict(), first_names(model)
        names = {name: to for to, name in aligned(tensors, state).items()}
        filled = {first[to] for to in names.values()}
        missing = [to for to in state if first[to] not in filled and not to.endswith(_COUNTED)]
        misfits = [
            f"{name} of shape {list(tensors[name].shape)}"
            for name, to in names.items()
            if tensors[name].shape != state[to].shape
        ]
        for wrong, message in (
            ([name for name in tensors if name not in names], "holds {}, for which {} has no place"),
            (missing, "has no weights for {}, which {} needs"),
            (misfits, "has {}, which does not fit the model of {}"),
        ):
            if wrong:
                what = message.format(first_of(wrong, _SHOWN), f"model.build={self.of.build}")
                raise CheckpointError(f"{file} {what}: has it other model.options?")
        return names


def _as_in_file(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """The tensor in the runs' dtype, if that is narrower and loses nothing."""
    tensor = tensor.detach().cpu().contiguous()
    if dtype is None or dtype.itemsize >= tensor.dtype.itemsize or not tensor.is_floating_point():
        return tensor
    return tensor.to(dtype) if torch.equal(tensor.to(dtype).to(tensor.dtype), tensor) else tensor


@cache
def _source(name: str) -> tuple[str, ...]:
    return tuple(source_of(users_own("model.build", name), name))
