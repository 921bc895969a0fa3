"""Makes models by sentence-transformers, for runs with other modules than pooling: Dense, static, sparse."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.checkpoints.files import has_weights
from soupkitchen.checkpoints.folders import own_files
from soupkitchen.checkpoints.names import NameMap
from soupkitchen.checkpoints.sentence import modules
from soupkitchen.checkpoints.weights import View
from soupkitchen.errors import CheckpointError, ConfigError, first_line
from soupkitchen.models.maker import Loading
from soupkitchen.models.processors import processor_of
from soupkitchen.tasks import Task
from soupkitchen.tasks.base import Processor
from soupkitchen.tasks.kinds.embeddings import transformer_in

NAMES = ("SentenceTransformer", "SparseEncoder")
_WEIGHTS = (".safetensors", ".bin")


@dataclass(frozen=True)
class SentenceTransformers:
    """Makes models by a class of sentence-transformers.

    Attributes:
        name: the class, one of `NAMES`.
    """

    library = "sentence-transformers"

    name: str

    def snippet(self, folder: str) -> str:
        return f'from sentence_transformers import {self.name}\n\nmodel = {self.name}("{folder}")'

    def load(self, run: Checkpoint, loading: Loading) -> torch.nn.Module:
        if run.adapted is not None:
            raise CheckpointError(
                f"{run.path} is an adapter of a model with modules of its own, which cannot be merged yet: "
                "merge it into its base, and save that"
            )
        if loading.device_map is not None:
            raise ConfigError("runtime.device_map is for models of transformers: leave it null")
        try:
            import sentence_transformers
        except ImportError as error:
            raise ConfigError(
                f"{run.path} has modules that sentence-transformers loads: pip install "
                "'soupkitchen[sentence-transformers]'"
            ) from error
        try:
            model: torch.nn.Module = getattr(sentence_transformers, self.name)(
                str(run.path),
                device="cpu",
                local_files_only=True,
                trust_remote_code=loading.trust_remote_code,
                model_kwargs={"dtype": loading.dtype or "auto"},
            )
        except Exception as error:  # a strange modules.json may have it raise anything
            raise CheckpointError(f"{run.path}: {self.name} cannot load it ({first_line(error)})") from error
        return model if loading.dtype is None else model.to(loading.dtype)

    def names(self, run: Checkpoint, model: Any) -> NameMap:
        children = dict(zip(model._modules, modules(run.path), strict=True))
        names = {
            name: f"{child}.{name.removeprefix(module.prefix)}"
            for child, module in children.items()
            if module.prefix
            for name in run.header
            if name.startswith(module.prefix)
        }
        rest = [name for name in run.header if name not in names]
        inner = transformer_in(model)
        if inner is None:
            names |= {name: f"{next(iter(children))}.{name}" for name in rest}
        else:
            place = next(name for name, part in model.named_modules() if part is inner)
            seen = replace(run, weights=View(run.weights, {name: name for name in rest}))
            names |= {name: f"{place}.{to}" for name, to in NameMap.find(seen, inner).names.items()}
        return NameMap.given(run, model, names)

    def like(self, model: torch.nn.Module) -> Callable[[dict[str, torch.Tensor]], torch.nn.Module]:
        raise CheckpointError(
            f"a {self.name} with this model keeps what it has computed of its weights, so it cannot be "
            "filled with others"
        )

    def save(self, model: Any, folder: Path, like: Checkpoint, max_shard_size: str | int) -> None:
        """Writes the model, and a folder for each module that has one, as the library loads them."""
        inner = transformer_in(model)
        if inner is not None:
            inner.save_pretrained(folder, max_shard_size=max_shard_size)
        for child, module in zip(model.children(), modules(like.path), strict=True):
            place = like.path / module.path
            if module.path and place.is_dir():
                (folder / module.path).mkdir(exist_ok=True)
                for file in own_files(place, "*"):
                    if file.suffix not in _WEIGHTS:
                        shutil.copyfile(file, folder / module.path / file.name)
            if has_weights(place) and (module.path or inner is None):
                state = {name: x.detach().cpu().contiguous() for name, x in child.state_dict().items()}
                save_file(state, folder / module.path / "model.safetensors", {"format": "pt"})

    def processor(
        self, run: Checkpoint, task: Task, pool: Pool | None, model: Any, trust_remote_code: bool
    ) -> tuple[Processor, Path | None]:
        if transformer_in(model) is not None:
            return processor_of(run, task, pool, trust_remote_code)
        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(run.path / "tokenizer.json"))
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
        return tokenizer, run.path

    def identity(self) -> list[str]:
        return [self.name, version("sentence-transformers")]
