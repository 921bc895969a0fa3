"""Translates recipes to mergekit 0.1.5 YAMLs and back, if both mean the same.

A key has mergekit's meaning, or is refused by name. Two things always differ: mergekit computes in its YAML's
dtype (float32 here), and its random masks come from another stream.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
import yaml

from soupkitchen import merging, methods
from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.adapters import is_adapter
from soupkitchen.checkpoints.compatibility import labels_of
from soupkitchen.checkpoints.folders import CONFIG_NAME, read_bytes, read_json
from soupkitchen.checkpoints.mergekit_yaml import Config, Tokenizer, read
from soupkitchen.checkpoints.sources import adapted_folders, base_folder, folder_of
from soupkitchen.errors import ConfigError
from soupkitchen.models.processors import check_files
from soupkitchen.output.recipe_file import Place, RecipeFile
from soupkitchen.soup import Recipe
from soupkitchen.store.files import about, write_text

log = logging.getLogger(__name__)

_NAMES = {
    (None, None): "task_arithmetic",
    (merging.Magnitude, "mass"): "ties",
    (merging.Random, None): "dare_linear",
    (merging.Random, "mass"): "dare_ties",
    (merging.MagnitudeOutliers, None): "breadcrumbs",
    (merging.MagnitudeOutliers, "mass"): "breadcrumbs_ties",
    (merging.RankRandom, None): "della_linear",
    (merging.RankRandom, "mass"): "della",
}
_SPARSE: dict[Any, tuple[str, ...]] = {
    merging.MagnitudeOutliers: ("gamma",),
    merging.RankRandom: ("epsilon",),
}
_READ: dict[str, tuple[set[str], set[str]]] = {
    "linear": ({"normalize"}, {"weight"}),
    "slerp": ({"t"}, set()),
    "karcher": ({"max_iter", "tol"}, set()),
    "model_stock": ({"filter_wise"}, set()),
    **{
        name: ({"int8_mask", "normalize", "rescale", "lambda"}, {"weight", "density", *_SPARSE.get(kind, ())})
        for (kind, _), name in _NAMES.items()
    },
}
"""The parameters that a method reads: for all models, and for each."""
_SPARSIFIERS = {"density": 1.0, "gamma": 0.01, "epsilon": 0.15}
"""The options of sparsifiers, with mergekit's defaults."""
_ELSEWHERE = (
    "alpha", "eps", "normalize_weights", "nuslerp_flatten", "nuslerp_row_wise", "r", "scale", "select_topk",
)  # fmt: skip
_NORMALIZED = ("ties", "della")
_DTYPES = ("float32", "bfloat16", "float16", "float64")
_COARSE = 1e-4
"""From this tolerance on, mergekit's Karcher mean leaves out more than ours."""
_NOTHING = 1e-6
_RANDOM = "random masks are others, so the weights differ where these do; shares and scales are the same"


class CannotSayError(ConfigError):
    """mergekit cannot express the recipe."""


def write(recipe_file: RecipeFile, file: Path) -> str | None:
    """Writes the recipe for mergekit, or removes the file and returns the reason why that is impossible."""
    try:
        config, remarks = in_mergekits_words(recipe_file)
    except CannotSayError as reason:
        file.unlink(missing_ok=True)
        return str(reason)
    head = ["The soup's recipe for mergekit 0.1.5: mergekit-yaml mergekit.yaml FOLDER", *remarks]
    text = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    write_text(file, "".join(f"# {line}\n" for line in head) + text)
    return None


def in_mergekits_words(file: RecipeFile) -> tuple[dict[str, Any], list[str]]:
    """The configuration, and remarks on differences.

    Raises:
        CannotSayError: if there is none; it says why.
    """
    recipe, method = file.recipe, file.merge_method()
    if file.model is not None:
        raise CannotSayError("it merges models of transformers, in folders")
    if recipe.recalibrate:
        raise CannotSayError("mergekit does not compute batch norm anew")
    if any(isinstance(coefficient, tuple) for coefficient in recipe.coefficients):
        raise CannotSayError("its weights by depth are interpolated between layers, and ours are not")
    if len(set(recipe.ingredients)) < recipe.size:
        raise CannotSayError("a run is in the soup more than once")
    configs = [Path(place.path) / CONFIG_NAME for place in file.runs.values()]
    if len({tuple(labels_of(read_json(config))) for config in configs if config.is_file()}) > 1:
        raise CannotSayError("it does not see that the runs have their labels in another order")
    weights = [float(weight) for weight in recipe.coefficients if isinstance(weight, (int, float))]
    name, shared, own, remarks = _theirs(method, weights)
    models: list[dict[str, Any]] = []
    for run, weight in zip(recipe.ingredients, weights, strict=True):
        parameters = {**({"weight": weight} if "weight" in _READ[name][1] else {}), **own}
        models.append({"model": _model(file, run), **({"parameters": parameters} if parameters else {})})
    config: dict[str, Any] = {"merge_method": name}
    if name == "slerp":
        config["base_model"] = models[0]["model"]
    elif method.needs_base or name == "model_stock":
        assert file.base is not None
        config["base_model"] = _named(file.base.path)
    config |= {"models": models, **({"parameters": shared} if shared else {})}
    config["dtype"] = "float32"  # mergekit computes in it; ours is always float32
    if recipe.dtype is not None:
        config["out_dtype"] = recipe.dtype
    else:
        remarks.append("out_dtype is not set, so it saves float32: soupkitchen saves what the runs have")
    adapted = any(is_adapter(Path(place.path)) for place in file.runs.values())
    if file.base is not None and (file.output.format == "adapter" or adapted):
        remarks.append("mergekit puts each adapter into its base first, rounded to the base's dtype")
    return config, remarks


_Words = tuple[str, dict[str, Any], dict[str, Any], list[str]]


def _theirs(method: merging.MergeMethod | merging.StackMethod, weights: Sequence[float]) -> _Words:
    if isinstance(method, merging.Linear):
        return "linear", {"normalize": method.normalize}, {}, []
    if isinstance(method, merging.Slerp):
        if len(weights) != 2 or method.space != "weights" or 0 in weights:
            raise CannotSayError("its slerp is of two models' weights")
        t = weights[1] / sum(weights) if method.t is None else method.t
        return "slerp", {"t": t}, {}, []
    if isinstance(method, merging.ModelStock):
        if 0 in weights:
            raise CannotSayError("its model stock leaves out no run")
        return "model_stock", {"filter_wise": False}, {}, []
    if isinstance(method, merging.Karcher):
        if len(set(weights)) > 1 or method.tolerance >= _COARSE:
            raise CannotSayError(
                f"its Karcher mean has no weights, and leaves out more from tol={_COARSE} on"
            )
        return "karcher", {"max_iter": method.iterations, "tol": method.tolerance}, {}, []
    if isinstance(method, merging.TaskVectors):
        return _their_task_vectors(method, weights)
    raise CannotSayError(f"it has no {type(method).__name__}")


def _their_task_vectors(method: merging.TaskVectors, weights: Sequence[float]) -> _Words:
    sparsifier = method.sparsifier
    kind: Any = None if sparsifier is None else type(sparsifier)
    name = _NAMES.get((kind, method.consensus))
    if name is None:
        raise CannotSayError(f"it has no {method.consensus or 'plain sum'} of signs beside that sparsifier")
    if divides_otherwise(method, weights):
        raise CannotSayError("it divides by weights with their signs")
    shared: dict[str, Any] = {"normalize": method.normalize, "lambda": method.scale}
    own = {option: getattr(sparsifier, option) for option in _SPARSIFIERS if hasattr(sparsifier, option)}
    if isinstance(sparsifier, merging.Magnitude) and sparsifier.trim == "model":
        raise CannotSayError("it trims each tensor by itself, not the model")
    if isinstance(sparsifier, merging.RankRandom) and sparsifier.density + sparsifier.epsilon >= 1:
        raise CannotSayError("its density and epsilon have to be less than 1 together")
    remarks = []
    if isinstance(sparsifier, (merging.Random, merging.RankRandom)):
        shared["rescale"] = sparsifier.rescale is not None
        remarks.append(f"its {_RANDOM}")
        if sparsifier.rescale == "probability":
            remarks.append(
                "it rescales what survives by the sum of magnitudes, and this soup by the probability"
            )
    return name, shared, own, remarks


def divides_otherwise(method: merging.TaskVectors, weights: Sequence[float]) -> bool:
    """Tells whether mergekit's `normalize` divides by another sum of weights."""
    signs = method.consensus is not None and min(weights) < 0  # ours are magnitudes there
    return method.normalize and (signs or abs(sum(weights)) < _NOTHING)


def _model(file: RecipeFile, run: str) -> Any:
    place = file.runs[run]
    if is_adapter(Path(place.path)):
        return {"model": {"path": place.on or (file.base and file.base.path)}, "lora": {"path": place.path}}
    return _named(place.path)


def _named(path: str) -> Any:
    """The folder, escaped, since '+' and '@' have a meaning for mergekit."""
    return {"model": {"path": path}} if "+" in path or "@" in path else path


# From mergekit


def read_recipe(file: Path) -> RecipeFile:
    """Reads the recipe in a mergekit YAML.

    Raises:
        CheckpointError: if it cannot be read, or names something that is missing.
        ConfigError: if soupkitchen cannot express it.
    """
    with about(file):
        return _recipe(read(file))


def _recipe(config: Config) -> RecipeFile:
    if config.unknown:
        raise ConfigError(f"mergekit 0.1.5 reads no {', '.join(config.unknown)} in a YAML: remove it")
    dtype = _dtype(config)
    method, weights = _ours(config)
    _warn_of_unread(config)
    numbers = config.ingredients
    folders = [adapted_folders(config, each.model) for each in config.inputs]
    places = [Place(str(folder), "", str(on) if on else None) for folder, on in folders]
    models = [on or folder for folder, on in folders]
    names = [f"{number}-{Path(places[number].path).name}" for number in numbers]
    runs = {name: places[number] for name, number in zip(names, numbers, strict=True)}
    references = [each.model for each in config.inputs]
    donor = 0 if config.base_model is None else references.index(config.base_model)
    like = donor if donor in numbers else numbers[0]
    first = names[numbers.index(like)]
    if len(names) == 1:  # one run by itself would be copied; beside one that counts 0 it is merged
        names, weights = names * 2, [weights[0] if weights else 1.0, 0.0]
    bases = {place.on for place in places}
    base = bases.pop() if len(bases) == 1 else None  # of adapters that are all put into one model
    if method.needs_base:
        base = str(base_folder(config))
        dtype = dtype or _wider(models[donor], [models[number] for number in numbers])
    recipe = Recipe.of(names, method, weights, dtype)
    _check_tokenizer(config, models)
    if len({_files(models[number]) for number in (donor, like)}) > 1:
        log.warning(
            "%s: tokenizer and configuration are those of %s; mergekit takes those of %s",
            config.file,
            models[like],
            models[donor],
        )
    described = models[like] / CONFIG_NAME
    if not described.exists() and base is not None:  # an adapter by itself
        described = Path(base) / CONFIG_NAME
    kind = (read_json(described).get("architectures") or [None])[0] if described.exists() else None
    if not isinstance(kind, str):
        raise ConfigError(f"{described} does not name the class of the model (architectures)")
    return RecipeFile(recipe, runs, first, Place(base, "") if base else None, kind, str(models[like]))


def _files(folder: Path) -> tuple[tuple[str, bytes], ...]:
    return tuple((str(file.relative_to(folder)), read_bytes(file)) for file in check_files(folder))


def _dtype(config: Config) -> str | None:
    names = {"dtype": config.dtype, "out_dtype": config.out_dtype}
    for key, name in names.items():
        if name is not None and name.removeprefix("torch.") not in _DTYPES:
            raise ConfigError(f"{key}={name} should be {', '.join(_DTYPES)}, as in mergekit")
    computed, saved = ((name or "").removeprefix("torch.") or None for name in names.values())
    if computed in ("bfloat16", "float16"):
        log.warning(
            "%s: mergekit rounds the models to dtype=%s before it merges them; here they are merged in "
            "float32, and only what is saved is rounded",
            config.file,
            computed,
        )
    return saved or computed


def _wider(base: Path, models: Sequence[Path]) -> str | None:
    """The dtype in which mergekit merges and saves, if the base's is wider than the models'."""
    folders = [base, *(folder for folder in models if not is_adapter(folder))]
    headers = [Checkpoint.open(folder).header for folder in folders]
    of_base, *others = ({info.torch_dtype for info in header.values()} for header in headers)
    every = {dtype for dtype in of_base.union(*others) if dtype and dtype.is_floating_point}
    wider = not of_base & every <= set().union(*others)
    return str(reduce(torch.promote_types, every)).removeprefix("torch.") if wider else None


def _ours(config: Config) -> tuple[Any, list[float] | None]:
    if config.merge_method not in _READ:
        raise ConfigError(
            f"merge_method {config.merge_method} is not known here; there are {', '.join(_READ)}"
        )
    if config.merge_method not in ("linear", "karcher") and config.base_model is None:
        raise ConfigError(f"{config.merge_method} needs base_model")
    if not config.ingredients:
        raise ConfigError("models has nothing but base_model")
    if config.merge_method == "linear":
        weights, normalize = _weights(config), config.value("normalize", bool, True)
        if min(weights) < 0:
            raise ConfigError(f"weight={min(weights):g}: linear subtracts no model here")
        return merging.Linear(normalize), weights
    if config.merge_method == "karcher":
        iterations, tolerance = config.value("max_iter", int, 10), config.value("tol", float, 1e-5)
        if not (iterations >= 1 and 0 < tolerance < _COARSE):
            limits = f"max_iter at least 1, and tol between 0 and {_COARSE}"
            raise ConfigError(f"max_iter={iterations} and tol={tolerance} should be {limits}")
        return merging.Karcher(iterations=iterations, tolerance=tolerance), None
    if config.merge_method == "slerp":
        t = config.value("t", float, None)
        if len(config.inputs) != 2:
            raise ConfigError("slerp takes two models, of which base_model is one")
        if t is None:
            raise ConfigError("slerp needs t among the parameters for all models")
        return merging.Slerp(t if config.inputs[0].model == config.base_model else 1 - t), None
    if config.merge_method == "model_stock":
        if config.value("filter_wise", bool, False):
            raise ConfigError("filter_wise cannot be taken")
        if len(config.ingredients) < 2:
            raise ConfigError("model_stock needs two models beside base_model")
        return merging.ModelStock(), None
    return _our_task_vectors(config), _weights(config)


def _our_task_vectors(config: Config) -> Any:
    preset = getattr(methods, config.merge_method)
    normalize = config.value("normalize", bool, config.merge_method in _NORMALIZED)
    scaled: dict[str, Any] = {"normalize": normalize, "scale": config.value("lambda", float, 1.0)}
    config.value("int8_mask", bool, False)  # it only has mergekit hold masks in fewer bytes
    if divides_otherwise(replace(preset(), normalize=normalize), _weights(config)):
        raise ConfigError("normalize=true cannot be taken with weights below 0, or that sum to 0")
    sparsifier: dict[str, Any] = {}
    for name, default in _SPARSIFIERS.items():
        if name in _READ[config.merge_method][1]:
            values = {config.value(name, float, default, model) for model in config.ingredients}
            if len(values) > 1:
                raise ConfigError(f"{name} has to be the same for all models")
            sparsifier[name] = values.pop()
    rescale = config.value("rescale", bool, config.merge_method.startswith(("dare", "della")))
    if sparsifier["density"] >= 1 or config.merge_method == "task_arithmetic":
        return replace(preset(), sparsifier=None, **scaled)
    if hasattr(preset().sparsifier, "rescale"):
        log.warning("%s: mergekit's %s", config.file, _RANDOM)
        sparsifier["rescale"] = "l1" if rescale else None
    elif rescale:
        raise ConfigError(f"rescale=true cannot be taken with {config.merge_method}")
    return preset(**scaled, **sparsifier)


def _weights(config: Config) -> list[float]:
    weights = {number: config.value("weight", float, None, number) for number in config.ingredients}
    for number, weight in weights.items():
        if weight is None:
            raise ConfigError(f"{config.inputs[number].model} has no weight")
    if not any(weights.values()):
        raise ConfigError("weight is 0 for all models")
    return [weight for weight in weights.values() if weight is not None]


def _warn_of_unread(config: Config) -> None:
    """Warns of parameters that this method does not read; refuses those that none reads."""
    shared, own = _READ[config.merge_method]
    ignored = set(config.parameters or ()) - shared - own
    for number, each in enumerate(config.inputs):
        ignored |= set(each.parameters or ()) - (own if number in config.ingredients else set())
    elsewhere = set(_ELSEWHERE).union(*(shared | own for shared, own in _READ.values()))
    if strange := sorted(ignored - elsewhere):
        raise ConfigError(f"mergekit 0.1.5 has no parameter {', '.join(strange)}: remove it")
    if ignored:
        log.warning(
            "%s: mergekit's %s does not read %s where it stands; so it is left out here, too",
            config.file,
            config.merge_method,
            ", ".join(sorted(ignored)),
        )


def _check_tokenizer(config: Config, folders: Sequence[Path]) -> None:
    """Refuses keys for tokenizers and chat templates that change something, or may."""
    asked = config.tokenizer or (config.tokenizer_source and Tokenizer(config.tokenizer_source))
    if config.chat_template not in (None, "auto"):
        raise ConfigError("chat_template cannot be taken: put it into the soup's tokenizer yourself")
    if asked is None and config.chat_template is None:
        return
    key = next(key for key in ("tokenizer_source", "tokenizer", "chat_template") if key in config.keys)
    if asked and (asked.tokens or asked.pad_to_multiple_of):
        raise ConfigError("tokens and pad_to_multiple_of of tokenizer cannot be taken")
    sources = []
    if asked and str(asked.source) not in ("union", "base"):
        sources = [folder_of(config, asked.source.model)]
    if len({_files(folder) for folder in (*folders, *sources)}) > 1:
        raise ConfigError(f"{key} cannot be taken: the models' tokenizers differ in their files")
    if asked:
        from soupkitchen.tasks.base import load_tokenizer  # it imports datasets, and few files ask for it

        numbers = sorted(load_tokenizer(str(folders[0])).get_vocab().values())
        for folder in folders:
            rows = read_json(folder / CONFIG_NAME).get("vocab_size")
            if numbers != list(range(rows if isinstance(rows, int) else -1)):
                raise ConfigError(
                    f"{key} cannot be taken: mergekit cuts the embedding to the {len(numbers)} "
                    f"tokens of the tokenizer, and that of {folder} has {rows} rows"
                )
