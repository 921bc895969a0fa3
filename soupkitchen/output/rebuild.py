"""Makes a soup again by its `recipe.yaml`, without scoring anything."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from soupkitchen.checkpoints import Checkpoint, Pool
from soupkitchen.checkpoints.files import WeightFiles
from soupkitchen.checkpoints.pool import pool_of
from soupkitchen.checkpoints.sources import Source, find
from soupkitchen.errors import CheckpointError, ConfigError
from soupkitchen.evaluation import LiveModel, Runtime
from soupkitchen.output.recipe_file import Place, RecipeFile
from soupkitchen.soup import Mixer, check_unchanged

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Moved:
    """Where what a recipe names is now.

    Attributes:
        path: a folder of runs, a glob or a list of these, as for `find_pool`; None for where they were.
        base: the base's folder; None for where it was.
    """

    path: str | None = None
    base: str | None = None


def rebuild(told: RecipeFile, to: Path, moved: Moved | None = None, runtime: Runtime | None = None) -> bool:
    """Makes the soup of `told` in the folder `to`, with what prepares its inputs.

    Returns:
        Whether its tensors are, to the bit, those that were saved at first.

    Raises:
        ConfigError: where `to` holds something, or the recipe cannot be followed without data.
        CheckpointError: where a run is not there, or not what it was.
        SaveError: where the soup cannot be written.
    """
    moved, runtime = moved or Moved(), runtime or Runtime()
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise ConfigError(f"{to} is there already: name a new folder")
    if told.recipe.recalibrate:
        raise ConfigError(
            "batch norm was computed on training data here (method.recalibrate_batchnorm), which a "
            "recipe does not hold: run the command that made it again"
        )
    pool = opened(told, moved)
    to.parent.mkdir(parents=True, exist_ok=True)
    if told.output.format == "adapter":
        mixer = Mixer(pool, runtime.accelerator().device)
        runs = [pool[name] for name in told.recipe.ingredients]
        told.output.save_adapter(
            runs, told.recipe.coefficients, lambda: mixer.empty(told.recipe), _processor(told, pool), to
        )
    else:
        device = runtime.accelerator().device
        dtype = None if told.recipe.dtype is None else getattr(torch, told.recipe.dtype)
        live = LiveModel(pool.reference, told.maker(), device, runtime.loading(dtype))
        if told.pad_token_id is not None:
            live.model.config.pad_token_id = told.pad_token_id
        live.fill(Mixer(pool, device, live.dtype_of).tensors(told.recipe))
        check_unchanged(told.recipe, pool)
        told.output.save(live, _processor(told, pool), to, pool.reference)
    return told.soup is None or saved_fingerprint(to) == told.soup


def saved_fingerprint(folder: Path) -> str:
    """A digest of the tensors of a soup, a model or an adapter, in `folder`."""
    if (folder / "adapter_config.json").is_file():
        return WeightFiles.open(folder, "adapter_model").fingerprint
    return Checkpoint.open(folder).fingerprint


def opened(told: RecipeFile, moved: Moved) -> Pool:
    """The runs that a recipe needs.

    Raises:
        CheckpointError: where one is not there, or has other tensors than it had.
    """
    base = moved.base or (None if told.base is None else told.base.path)
    sources = _sources(told, moved)
    for name, source in sources.items():
        if not source.folder.exists():
            raise CheckpointError(
                f"{source.folder}, which the recipe calls {name}, is gone: pool.path=… finds it"
            )
    if moved.base is None and base is not None and not Path(base).exists():  # never asked of the hub
        raise CheckpointError(f"{base}, the base in the recipe, is gone: pool.base=… finds it")
    pool = pool_of(sources, base, like=told.reference, least=1, key=told.key, copies=True)
    expected: dict[str, tuple[Place, Checkpoint | None]] = {
        name: (place, next((run for run in pool if run.name == name), None))
        for name, place in told.runs.items()
    }
    if told.base is not None:
        expected["the base"] = told.base, pool.base
    for name, (place, run) in expected.items():
        if run is None or place.fingerprint not in ("", run.fingerprint):
            where = place.path if run is None else run.path
            raise CheckpointError(
                f"{name} in {where} is not what the recipe was made of: its tensors are others. Put "
                "the files back, or say where they are now with pool.path=… and pool.base=…"
            )
    return pool


def _sources(told: RecipeFile, moved: Moved) -> Mapping[str, Source]:
    if moved.path is None:
        return {
            name: Source(Path(place.path), name, on=Path(place.on) if place.on else None)
            for name, place in told.runs.items()
        }
    found = find(moved.path, least=1)
    if lacking := [name for name in told.runs if name not in found]:
        raise CheckpointError(
            f"pool.path={moved.path} has no run called {', '.join(lacking)}; it has {', '.join(found)}"
        )
    return {name: found[name] for name in told.runs}


def _processor(told: RecipeFile, pool: Pool) -> Path | None:
    if told.processor is None:
        return None
    known = next((run.path for run in pool if run.name == told.processor), None)
    if known is None and not Path(told.processor).is_dir():
        log.warning("%s is gone: the soup is saved without tokenizer or image processor", told.processor)
        return None
    return known or Path(told.processor)
