"""Reads and writes `recipe.yaml`, and makes its soup again from the runs, without scoring."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import yaml
from annotated_types import MinLen

from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.checkpoints.adapters import ADAPTER_STEM, is_adapter
from soupkitchen.checkpoints.files import WeightFiles
from soupkitchen.checkpoints.pool import pool_of
from soupkitchen.checkpoints.sources import Source, find
from soupkitchen.errors import CheckpointError, ConfigError
from soupkitchen.evaluation import LiveModel, Runtime
from soupkitchen.merging import Linear, MergeMethod, StackMethod
from soupkitchen.models import Maker, maker_named
from soupkitchen.output.model import Output
from soupkitchen.soup import Mixer, Recipe, check_unchanged
from soupkitchen.store.files import about, read_yaml, write_text

log = logging.getLogger(__name__)

FORMAT = 1
_AS_THEY_ARE = ("reference", "base", "model_class", "processor", "pad_token_id", "model", "key")
"""Entries of the file that are attributes of `RecipeFile`, too."""
_SAVED = ("format", "max_shard_size", "dtype", "rank")
_HEAD = """\
# What the soup is made of. It is made again, without scoring anything and to the bit on such a device, by
#   python -m soupkitchen.rebuild {file} FOLDER
# Where the runs have moved: pool.path=… finds them by their names, pool.base=… names the base.
"""


@dataclass(frozen=True)
class Place:
    """A model's path, its tensors' digest, and an adapter's base if not the recipe's."""

    path: str
    fingerprint: str
    on: str | None = None

    @classmethod
    def of(cls, run: Checkpoint, base: Checkpoint | None) -> Place:
        on = run.adapted.path.absolute() if run.adapted else None
        if base is not None and on == base.path.absolute():
            on = None
        return cls(str(run.path.absolute()), run.fingerprint, str(on) if on else None)

    def to_data(self) -> dict[str, str]:
        return {name: part for name, part in vars(self).items() if part is not None}


@dataclass(frozen=True, kw_only=True)
class _NamedRun(Place):
    name: Annotated[str, MinLen(1)]


@dataclass(frozen=True, kw_only=True)
class _Ingredient(_NamedRun):
    coefficient: float | list[float]


@dataclass(frozen=True)
class _Saved:
    output: dict[str, Any]
    device: str
    fingerprint: str | None


@dataclass(frozen=True)
class _Document:
    format: Literal[1]
    method: dict[str, Any] | None
    ingredients: list[_Ingredient]
    base: Place | None
    dtype: str | None
    recalibrate: int
    variant: str
    reference: str
    beside: list[_NamedRun]
    model_class: str
    processor: str | None
    pad_token_id: int | None
    saved: _Saved
    model: dict[str, Any] | None = None
    key: str | None = None


@dataclass(frozen=True)
class RecipeFile:
    """A recipe, with all that is needed to follow it elsewhere.

    Attributes:
        recipe: the ingredients and how they are merged.
        runs: the places of the ingredients and the reference, by name.
        reference: the name of the run that defines the model.
        base: the runs' base model, if needed.
        model_class: transformers' class of the model, or the function that makes it.
        processor: the folder or run whose tokenizer or image processor is saved with the soup.
        output: the options of saving.
        pad_token_id: the task's, for a model without one.
        device: the kind of device that merged.
        soup: a digest of the saved soup.
        model: options of the models' maker, if not transformers.
        key: the state dict to use in a file with several.
        trust: the user's names that may be imported.
    """

    recipe: Recipe
    runs: Mapping[str, Place]
    reference: str
    base: Place | None
    model_class: str
    processor: str | None = None
    output: Output = field(default_factory=Output)
    pad_token_id: int | None = None
    device: str = "cpu"
    soup: str | None = None
    model: Mapping[str, Any] | None = None
    key: str | None = None
    trust: Collection[str] = ()

    @classmethod
    def of(
        cls, recipe: Recipe, pool: Pool, model_class: str, processor: Path | None, **more: Any
    ) -> RecipeFile:
        names = dict.fromkeys((*recipe.ingredients, pool.reference.name))
        run_at = {run.path: run.name for run in pool}
        if processor in run_at:
            names[run_at[processor]] = None
        needs_base = recipe.method is not None and recipe.merge_method().needs_base
        base = pool.base if needs_base or any(pool[name].adapted for name in names) else None
        return cls(
            recipe,
            {name: Place.of(pool[name], pool.base) for name in names},
            pool.reference.name,
            None if base is None else Place.of(base, None),
            model_class,
            None if processor is None else run_at.get(processor, str(processor.absolute())),
            key=pool.reference.key or None,
            **more,
        )

    @classmethod
    def read(cls, file: Path, trust: Collection[str] = ()) -> RecipeFile:
        """Reads a recipe file.

        Args:
            trust: the user's names that may be imported.

        Raises:
            ConfigError: if it cannot be read, is no recipe, or names something that is not trusted.
        """
        document = read_yaml(file, _Document)
        recipe = {
            "ingredients": [ingredient.name for ingredient in document.ingredients],
            "coefficients": [ingredient.coefficient for ingredient in document.ingredients],
            **{name: getattr(document, name) for name in ("method", "dtype", "recalibrate", "variant")},
        }
        runs = (*document.ingredients, *document.beside)
        with about(file):
            read = cls(
                Recipe.from_data(recipe, trust),
                {run.name: Place(run.path, run.fingerprint, run.on) for run in runs},
                output=Output(**document.saved.output),
                device=document.saved.device,
                soup=document.saved.fingerprint,
                trust=trust,
                **{name: getattr(document, name) for name in _AS_THEY_ARE},
            )
            read.maker()
            read.merge_method()
            if read.reference not in read.runs:
                raise ConfigError(f"reference: {read.reference} is none of its runs")
        return read

    def write(self, file: Path) -> None:
        recipe, output = self.recipe.to_data(), self.output
        named = zip(recipe["ingredients"], recipe["coefficients"], strict=True)
        beside = [name for name in self.runs if name not in recipe["ingredients"]]
        document = {
            "format": FORMAT,
            "method": recipe["method"],
            "ingredients": [
                {"name": name, "coefficient": coefficient, **self.runs[name].to_data()}
                for name, coefficient in named
            ],
            "base": self.base and self.base.to_data(),
            "dtype": recipe["dtype"],
            "recalibrate": recipe["recalibrate"],
            "variant": recipe["variant"],
            "reference": self.reference,
            "beside": [{"name": name, **self.runs[name].to_data()} for name in beside],
            "model_class": self.model_class,
            "processor": self.processor,
            "pad_token_id": self.pad_token_id,
            **({"model": self.model, "key": self.key} if self.model is not None else {}),
            "saved": {
                "output": {name: vars(output)[name] for name in _SAVED},
                "device": self.device,
                "fingerprint": self.soup,
            },
        }
        text = yaml.dump(document, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=100)
        write_text(file, _HEAD.format(file=file.name) + text)

    def maker(self) -> Maker:
        return maker_named(self.model_class, self.model, self.trust)

    def merge_method(self) -> MergeMethod | StackMethod:
        """The method; a soup of one is that run, with any method."""
        return Linear() if self.recipe.method is None else self.recipe.merge_method()


class _Plain(yaml.SafeDumper):
    """Writes what stands twice in a tree twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


# Rebuilding


def rebuild(
    file: RecipeFile,
    to: Path,
    path: str | None = None,
    base: str | None = None,
    runtime: Runtime | None = None,
) -> bool:
    """Makes the soup of `file` in the folder `to`, with what prepares its inputs.

    Args:
        path: of runs that have moved: a folder, a glob or a list, as for `find_pool`.
        base: the folder of a base that has moved.

    Returns:
        Whether its tensors are, to the bit, those that were saved at first.

    Raises:
        ConfigError: if `to` holds something, or the recipe cannot be followed without data.
        CheckpointError: if a run is missing, or has other tensors.
        SaveError: if the soup cannot be written.
    """
    recipe, output, runtime = file.recipe, file.output, runtime or Runtime()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(f"{to} is there already: name a new folder")
    if recipe.recalibrate:
        raise ConfigError(
            "batch norm was computed on training data here (method.recalibrate_batchnorm), which a "
            "recipe does not hold: run the command that made it again"
        )
    pool = _pool(file, path, base)
    processor, device = _processor(file, pool), runtime.accelerator().device
    to.parent.mkdir(parents=True, exist_ok=True)
    if output.format == "adapter":
        mixer = Mixer(pool, device)
        runs = [pool[name] for name in recipe.ingredients]
        output.save_adapter(runs, recipe.coefficients, lambda: mixer.empty(recipe), processor, to)
    else:
        dtype = None if recipe.dtype is None else getattr(torch, recipe.dtype)
        live = LiveModel(pool.reference, file.maker(), device, runtime.loading(dtype))
        if file.pad_token_id is not None:
            live.model.config.pad_token_id = file.pad_token_id
        live.fill(Mixer(pool, device, live.dtype_of).tensors(recipe))
        check_unchanged(recipe, pool)
        output.save(live, processor, to, pool.reference)
    return file.soup is None or saved_fingerprint(to) == file.soup


def saved_fingerprint(folder: Path) -> str:
    """A digest of the tensors of the saved model or adapter in `folder`."""
    if is_adapter(folder):
        return WeightFiles.open(folder, ADAPTER_STEM).fingerprint
    return Checkpoint.open(folder).fingerprint


def _pool(file: RecipeFile, path: str | None, moved_base: str | None) -> Pool:
    sources = _sources(file, path)
    for name, source in sources.items():
        if not source.folder.exists():
            raise CheckpointError(
                f"{source.folder}, which the recipe calls {name}, is gone: pool.path=… finds it"
            )
    base = moved_base or (None if file.base is None else file.base.path)
    if moved_base is None and base is not None and not Path(base).exists():  # never asked of the hub
        raise CheckpointError(f"{base}, the base in the recipe, is gone: pool.base=… finds it")
    pool = pool_of(sources, base, like=file.reference, least=1, key=file.key, copies=True)
    opened: dict[str, Checkpoint | None] = {run.name: run for run in pool}
    checks = [(name, place, opened.get(name)) for name, place in file.runs.items()]
    if file.base is not None:
        checks.append(("the base", file.base, pool.base))
    for name, place, run in checks:
        if run is None or place.fingerprint not in ("", run.fingerprint):
            where = place.path if run is None else run.path
            raise CheckpointError(
                f"{name} in {where} is not what the recipe was made of: its tensors are others. Put "
                "the files back, or say where they are now with pool.path=… and pool.base=…"
            )
    return pool


def _sources(file: RecipeFile, path: str | None) -> Mapping[str, Source]:
    if path is None:
        return {
            name: Source(Path(place.path), name, on=Path(place.on) if place.on else None)
            for name, place in file.runs.items()
        }
    sources = find(path, least=1)
    if lacking := [name for name in file.runs if name not in sources]:
        raise CheckpointError(
            f"pool.path={path} has no run called {', '.join(lacking)}; it has {', '.join(sources)}"
        )
    return {name: sources[name] for name in file.runs}


def _processor(file: RecipeFile, pool: Pool) -> Path | None:
    if file.processor is None:
        return None
    of_run = next((run.path for run in pool if run.name == file.processor), None)
    if of_run is None and not Path(file.processor).is_dir():
        log.warning("%s is gone: the soup is saved without tokenizer or image processor", file.processor)
        return None
    return of_run or Path(file.processor)
