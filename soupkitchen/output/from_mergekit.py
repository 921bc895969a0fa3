"""YAMLs of mergekit's as recipes, where both mean the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from soupkitchen import methods
from soupkitchen.checkpoints.configuration import CONFIG_NAME
from soupkitchen.checkpoints.mergekit import Config, read
from soupkitchen.checkpoints.sources import resolve
from soupkitchen.checkpoints.strangers import read_json
from soupkitchen.errors import ConfigError
from soupkitchen.merging import Karcher, Linear, MergeMethod, ModelStock, Slerp, StackMethod
from soupkitchen.output.mergekit import NAMES
from soupkitchen.output.recipe_file import Place, RecipeFile
from soupkitchen.soup import Recipe

_NORMALIZED = ("ties", "della")
"""Which divide by the weights where the YAML does not say."""


def recipe_file(file: Path) -> RecipeFile:
    """The recipe that a YAML of mergekit's says.

    Raises:
        CheckpointError: where it cannot be read, or names what is not there.
        ConfigError: where soupkitchen has no words for it.
    """
    config = read(file)
    folders = [resolve(model) for model in config.models]
    method, weights, kept = _ours(file, config)
    names = [f"{number}-{folders[number].name}" for number in kept]
    runs = {name: Place(str(folders[number]), "") for name, number in zip(names, kept, strict=True)}
    recipe = Recipe.of(names, method, weights, config.dtype)
    needs_base = method.needs_base and config.base is not None
    base = Place(str(resolve(config.base)), "") if needs_base and config.base else None
    described = read_json(folders[kept[0]] / CONFIG_NAME) if (folders[kept[0]] / CONFIG_NAME).exists() else {}
    if base and not described:  # adapters
        described = read_json(Path(base.path) / CONFIG_NAME)
    kind = (described.get("architectures") or [None])[0]
    if not isinstance(kind, str):
        raise ConfigError(
            f"{folders[kept[0]]}/{CONFIG_NAME} does not name the class of the model (architectures)"
        )
    return RecipeFile(recipe, runs, names[0], base, kind, names[0])


def _ours(file: Path, config: Config) -> tuple[MergeMethod | StackMethod, list[float] | None, list[int]]:
    """The method, the weights, and which of the models are ingredients."""
    others = [number for number, model in enumerate(config.models) if model != config.base]
    everything = list(range(len(config.models)))
    if config.method == "linear":
        return Linear(config.flag("normalize", True)), _weights(file, config, everything), everything
    if config.method == "karcher":
        tolerance, iterations = config.number("tol", 1e-5), config.number("max_iter", 10)
        method = Karcher(iterations=int(iterations or 10), tolerance=tolerance or 1e-5)
        return method, None, everything
    if config.method == "slerp":
        if len(config.models) != 2 or config.base not in config.models:
            raise ConfigError(f"{file}: slerp takes two models, of which base_model is one")
        return Slerp(t=config.number("t", None)), None, [config.models.index(str(config.base)), *others]
    if config.base is None:
        raise ConfigError(f"{file}: {config.method} needs base_model")
    if config.method == "model_stock":
        if config.flag("filter_wise", False):
            raise ConfigError(f"{file}: filter_wise cannot be taken")
        return ModelStock(), None, others
    if config.method not in NAMES.values():
        known = ", ".join(["linear", "slerp", "karcher", "model_stock", *NAMES.values()])
        raise ConfigError(f"{file}: merge_method {config.method} is not known here; there are {known}")
    return _task_method(file, config, others), _weights(file, config, others), others


def _task_method(file: Path, config: Config, models: Sequence[int]) -> Any:
    options: dict[str, Any] = {
        "normalize": config.flag("normalize", config.method in _NORMALIZED),
        "scale": config.number("lambda", 1.0),
    }
    defaults: Mapping[str, float] = {"density": 1.0, "gamma": 0.01, "epsilon": 0.15}
    preset = getattr(methods, config.method)
    sparsifier = preset().sparsifier
    for name in ("density", "gamma", "epsilon"):
        if hasattr(sparsifier, name):
            values = {config.number(name, defaults[name], model) for model in models}
            if len(values) > 1:
                raise ConfigError(f"{file}: {name} has to be the same for all models")
            options[name] = values.pop()
    if hasattr(sparsifier, "rescale"):
        options["rescale"] = "l1" if config.flag("rescale", True) else None
    return preset(**options)


def _weights(file: Path, config: Config, models: Sequence[int]) -> list[float]:
    weights = [config.number("weight", None, model) for model in models]
    if None in weights:
        raise ConfigError(f"{file}: {config.models[models[weights.index(None)]]} has no weight")
    return [weight for weight in weights if weight is not None]
