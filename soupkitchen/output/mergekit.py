"""Recipes in the words of mergekit 0.1.5, where both mean the same.

Two things are always different: mergekit computes in the dtype that it is told (float32 here) and knows no
part of a model but its tensors' names, and its random masks are drawn from another stream than ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from soupkitchen.checkpoints.compatibility import labels_of
from soupkitchen.checkpoints.configuration import CONFIG_NAME
from soupkitchen.checkpoints.strangers import read_json
from soupkitchen.errors import ConfigError
from soupkitchen.merging import (
    Karcher,
    Linear,
    Magnitude,
    MagnitudeOutliers,
    MergeMethod,
    ModelStock,
    Random,
    RankRandom,
    Slerp,
    StackMethod,
    TaskVectors,
)
from soupkitchen.output.recipe_file import RecipeFile
from soupkitchen.store.files import write_text

NAMES = {
    (None, None): "task_arithmetic",
    (Magnitude, "mass"): "ties",
    (Random, None): "dare_linear",
    (Random, "mass"): "dare_ties",
    (MagnitudeOutliers, None): "breadcrumbs",
    (MagnitudeOutliers, "mass"): "breadcrumbs_ties",
    (RankRandom, None): "della_linear",
    (RankRandom, "mass"): "della",
}
"""What mergekit calls a sparsifier and a consensus."""
COARSE = 1e-4
"""A tolerance from which mergekit's Karcher mean leaves out what ours does not."""
_NOTHING = 1e-6
RANDOM = "random masks are others, so the weights differ where these do; shares and scales are the same"


class CannotSayError(ConfigError):
    """mergekit has no words for a recipe."""


def write(told: RecipeFile, file: Path) -> str | None:
    """Writes the recipe as mergekit takes it, or removes the file; the reason why it cannot be said."""
    try:
        config, remarks = in_mergekits_words(told)
    except CannotSayError as reason:
        file.unlink(missing_ok=True)
        return str(reason)
    head = ["The soup's recipe for mergekit 0.1.5: mergekit-yaml mergekit.yaml FOLDER", *remarks]
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    write_text(file, "".join(f"# {line}\n" for line in head) + text)
    return None


def in_mergekits_words(told: RecipeFile) -> tuple[dict[str, Any], list[str]]:
    """The configuration, and remarks on what is not the same.

    Raises:
        CannotSayError: where there is none, saying why.
    """
    recipe, method = told.recipe, told.merge_method()
    if told.model is not None:
        raise CannotSayError("it merges models of transformers, in folders")
    if recipe.recalibrate:
        raise CannotSayError("mergekit does not compute batch norm anew")
    if any(isinstance(coefficient, tuple) for coefficient in recipe.coefficients):
        raise CannotSayError("its weights by depth are interpolated between layers, and ours are not")
    if len(set(recipe.ingredients)) < recipe.size:
        raise CannotSayError("a run is in the soup more than once")
    if len({tuple(labels) for labels in _labels(told)}) > 1:
        raise CannotSayError("it does not see that the runs have their labels in another order")
    weights = [float(one) for one in recipe.coefficients if isinstance(one, (int, float))]
    name, shared, own, remarks = _method(method, weights)
    models = [
        {"model": _model(told, run), **({"parameters": {**each, **own}} if own or each else {})}
        for run, each in zip(recipe.ingredients, _weighed(name, weights), strict=True)
    ]
    config: dict[str, Any] = {"merge_method": name}
    if name == "slerp":
        config["base_model"] = models[0]["model"]
    elif method.needs_base or name == "model_stock":
        assert told.base is not None
        config["base_model"] = _named(told.base.path)
    config |= {"models": models, **({"parameters": shared} if shared else {})}
    config["dtype"] = "float32"  # mergekit computes in it; ours is always float32
    if told.recipe.dtype is not None:
        config["out_dtype"] = told.recipe.dtype
    else:
        remarks.append("out_dtype is not set, so it saves float32: soupkitchen saves what the runs have")
    if told.base is not None and (told.output.format == "adapter" or _is_adapter(told)):
        remarks.append("mergekit puts each adapter into its base first, rounded to the base's dtype")
    return config, remarks


Said = tuple[str, dict[str, Any], dict[str, Any], list[str]]
"""A method: its name, settings for all, settings for each model, remarks."""


def _method(method: MergeMethod | StackMethod, weights: Sequence[float]) -> Said:
    if isinstance(method, Linear):
        return "linear", {"normalize": method.normalize}, {}, []
    if isinstance(method, Slerp):
        if len(weights) != 2 or method.space != "weights" or 0 in weights:
            raise CannotSayError("its slerp is of two models' weights")
        t = weights[1] / sum(weights) if method.t is None else method.t
        return "slerp", {"t": t}, {}, []
    if isinstance(method, ModelStock):
        if 0 in weights:
            raise CannotSayError("its model stock leaves out no run")
        return "model_stock", {"filter_wise": False}, {}, []
    if isinstance(method, Karcher):
        if len(set(weights)) > 1 or method.tolerance >= COARSE:
            raise CannotSayError(f"its Karcher mean has no weights, and leaves out more from tol={COARSE} on")
        return "karcher", {"max_iter": method.iterations, "tol": method.tolerance}, {}, []
    if isinstance(method, TaskVectors):
        return _task_vectors(method, weights)
    raise CannotSayError(f"it has no {type(method).__name__}")


def _task_vectors(method: TaskVectors, weights: Sequence[float]) -> Said:
    sparsifier = method.sparsifier
    kind: Any = None if sparsifier is None else type(sparsifier)
    name = NAMES.get((kind, method.consensus))
    if name is None:
        raise CannotSayError(f"it has no {method.consensus or 'plain sum'} of signs beside that sparsifier")
    if divides_otherwise(method, weights):
        raise CannotSayError("it divides by weights with their signs")
    shared: dict[str, Any] = {"normalize": method.normalize, "lambda": method.scale}
    if isinstance(sparsifier, Magnitude):
        if sparsifier.trim == "model":
            raise CannotSayError("it trims each tensor by itself, not the model")
        return name, shared, {"density": sparsifier.density}, []
    if isinstance(sparsifier, MagnitudeOutliers):
        return name, shared, {"density": sparsifier.density, "gamma": sparsifier.gamma}, []
    if isinstance(sparsifier, Random):
        rescale, remarks = _rescale(sparsifier.rescale)
        return name, shared | rescale, {"density": sparsifier.density}, remarks
    if isinstance(sparsifier, RankRandom):
        rescale, remarks = _rescale(sparsifier.rescale)
        own = {"density": sparsifier.density, "epsilon": sparsifier.epsilon}
        if sparsifier.density + sparsifier.epsilon >= 1:
            raise CannotSayError("its density and epsilon have to be less than 1 together")
        return name, shared | rescale, own, remarks
    return name, shared, {}, []


def divides_otherwise(method: TaskVectors, weights: Sequence[float]) -> bool:
    """Whether mergekit's `normalize` divides by another sum of weights than ours."""
    signs = method.consensus is not None and min(weights) < 0  # ours are magnitudes there
    return method.normalize and (signs or abs(sum(weights)) < _NOTHING)


def _rescale(rescale: str | None) -> tuple[dict[str, Any], list[str]]:
    remarks = [f"its {RANDOM}"]
    if rescale == "probability":
        remarks.append("it rescales what survives by the sum of magnitudes, and this soup by the probability")
    return {"rescale": rescale is not None}, remarks


def _weighed(name: str, weights: Sequence[float]) -> list[dict[str, Any]]:
    if name in ("slerp", "model_stock", "karcher"):
        return [{} for _ in weights]
    return [{"weight": weight} for weight in weights]


def _labels(told: RecipeFile) -> list[list[str]]:
    files = [Path(place.path) / CONFIG_NAME for place in told.runs.values()]
    return [labels_of(read_json(file)) for file in files if file.is_file()]


def _is_adapter(told: RecipeFile) -> bool:
    return any((Path(place.path) / "adapter_config.json").is_file() for place in told.runs.values())


def _model(told: RecipeFile, run: str) -> Any:
    path, on = told.runs[run].path, told.runs[run].on or (told.base and told.base.path)
    if (Path(path) / "adapter_config.json").is_file():
        return {"model": {"path": on}, "lora": {"path": path}}
    return _named(path)


def _named(path: str) -> Any:
    """A folder by the name that mergekit finds it by: in text, '+' and '@' have a meaning there."""
    return {"model": {"path": path}} if "+" in path or "@" in path else path
