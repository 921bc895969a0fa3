"""Makes recipes of mergekit's YAMLs: a key means what it does to mergekit 0.1.5, or is refused by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path
from typing import Any, TypeVar

import torch

from soupkitchen import methods
from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.adapters import is_adapter
from soupkitchen.checkpoints.configuration import CONFIG_NAME
from soupkitchen.checkpoints.mergekit import AVERAGING, Config, read, reference
from soupkitchen.checkpoints.sources import adapted_by_mergekit, base_of_mergekit, of_mergekit
from soupkitchen.checkpoints.strangers import read_bytes, read_json
from soupkitchen.errors import ConfigError
from soupkitchen.merging import Karcher, Linear, MagnitudeOutliers, ModelStock, RankRandom, Slerp
from soupkitchen.models.processors import check_files
from soupkitchen.output.mergekit import COARSE, NAMES, RANDOM, divides_otherwise
from soupkitchen.output.recipe_file import Place, RecipeFile
from soupkitchen.soup import Recipe

log = logging.getLogger(__name__)

T = TypeVar("T")

_SPARSE: dict[Any, tuple[str, ...]] = {MagnitudeOutliers: ("gamma",), RankRandom: ("epsilon",)}
_READ: dict[str, tuple[set[str], set[str]]] = {
    "linear": ({"normalize"}, {"weight"}),
    "slerp": ({"t"}, set()),
    "karcher": ({"max_iter", "tol"}, set()),
    "model_stock": ({"filter_wise"}, set()),
    **{
        name: ({"int8_mask", "normalize", "rescale", "lambda"}, {"weight", "density", *_SPARSE.get(kind, ())})
        for (kind, _), name in NAMES.items()
    },
}
"""The parameters that a method reads: those for all models, and those that each model may have its own of."""
_ELSEWHERE = (
    "alpha", "eps", "normalize_weights", "nuslerp_flatten", "nuslerp_row_wise", "r", "scale", "select_topk",
)  # fmt: skip
"""Parameters of mergekit's other methods."""
_NORMALIZED = ("ties", "della")
"""Methods that divide by the weights if the YAML does not say."""
_DTYPES = ("float32", "bfloat16", "float16", "float64")


def recipe_file(file: Path) -> RecipeFile:
    """The recipe that a YAML of mergekit's says.

    Raises:
        CheckpointError: if it cannot be read, or names what is not there.
        ConfigError: if soupkitchen has no words for it.
    """
    config = read(file)
    if config.unknown:
        raise ConfigError(f"{file}: mergekit 0.1.5 reads no {', '.join(config.unknown)} in a YAML: remove it")
    dtype = _dtype(config)
    method, weights = _ours(config)
    _say_what_is_not_read(config)
    numbers = config.ingredients
    found = [adapted_by_mergekit(config, model) for model in config.models]
    places = [Place(str(folder), "", str(on) if on else None) for folder, on in found]
    on_disk = [on or folder for folder, on in found]
    names = [f"{number}-{Path(places[number].path).name}" for number in numbers]
    runs = {name: places[number] for name, number in zip(names, numbers, strict=True)}
    donor = 0 if config.base is None else config.models.index(config.base)
    like = donor if donor in numbers else numbers[0]
    first = names[numbers.index(like)]
    if len(names) == 1:  # one run by itself would be copied; beside one that counts 0 it is merged
        names, weights = names * 2, [weights[0] if weights else 1.0, 0.0]
    homes = {place.on for place in places}
    home = homes.pop() if len(homes) == 1 else None  # of adapters, what they all are put into
    base = str(base_of_mergekit(config)) if method.needs_base else home
    if method.needs_base and dtype is None:
        dtype = _wider(on_disk[donor], [on_disk[number] for number in numbers])
    recipe = _made(file, lambda: Recipe.of(names, method, weights, dtype))
    _check_tokenizer(config, on_disk)
    if len({_files(on_disk[number]) for number in (donor, like)}) > 1:
        log.warning(
            "%s: tokenizer and configuration are those of %s; mergekit takes those of %s",
            file,
            on_disk[like],
            on_disk[donor],
        )
    described = on_disk[like] / CONFIG_NAME
    if not described.exists() and base is not None:  # an adapter by itself
        described = Path(base) / CONFIG_NAME
    kind = (read_json(described).get("architectures") or [None])[0] if described.exists() else None
    if not isinstance(kind, str):
        raise ConfigError(f"{file}: {described} does not name the class of the model (architectures)")
    place = Place(base, "") if base else None
    return RecipeFile(recipe, runs, first, place, kind, str(on_disk[like]))


def _files(folder: Path) -> tuple[tuple[str, bytes], ...]:
    """The files of the tokenizer in `folder`."""
    return tuple((str(file.relative_to(folder)), read_bytes(file)) for file in check_files(folder))


def _dtype(config: Config) -> str | None:
    """The dtype to save in."""
    names = {"dtype": config.said.dtype, "out_dtype": config.said.out_dtype}
    for key, name in names.items():
        if name is not None and name.removeprefix("torch.") not in _DTYPES:
            raise ConfigError(f"{config.file}: {key}={name} should be {', '.join(_DTYPES)}, as in mergekit")
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
    """The dtype that mergekit merges and saves in if the base has a wider one than the models; else None."""
    whole = [folder for folder in models if not is_adapter(folder)]
    of_base, *others = (
        {info.torch_dtype for info in Checkpoint.open(one).header.values()} for one in (base, *whole)
    )
    every = {dtype for dtype in of_base.union(*others) if dtype and dtype.is_floating_point}
    wider = not of_base & every <= set().union(*others)
    return str(reduce(torch.promote_types, every)).removeprefix("torch.") if wider else None


def _ours(config: Config) -> tuple[Any, list[float] | None]:
    """The method, and the weights of the ingredients."""
    file = config.file
    if config.method not in _READ:
        raise ConfigError(
            f"{file}: merge_method {config.method} is not known here; there are {', '.join(_READ)}"
        )
    if config.method not in ("linear", "karcher") and config.base is None:
        raise ConfigError(f"{file}: {config.method} needs base_model")
    if not config.ingredients:
        raise ConfigError(f"{file}: models has nothing but base_model")
    if config.method == "linear":
        weights, normalize = _weights(config), config.value("normalize", bool, True)
        if min(weights) < 0:
            raise ConfigError(f"{file}: weight={min(weights):g}: linear subtracts no model here")
        return Linear(normalize), weights
    if config.method == "karcher":
        iterations, tolerance = config.value("max_iter", int, 10), config.value("tol", float, 1e-5)
        if not (iterations >= 1 and 0 < tolerance < COARSE):
            limits = f"max_iter at least 1, and tol between 0 and {COARSE}"
            raise ConfigError(f"{file}: max_iter={iterations} and tol={tolerance} should be {limits}")
        return Karcher(iterations=iterations, tolerance=tolerance), None
    if config.method == "slerp":
        t = config.value("t", float, None)
        if len(config.models) != 2:
            raise ConfigError(f"{file}: slerp takes two models, of which base_model is one")
        if t is None:
            raise ConfigError(f"{file}: slerp needs t among the parameters for all models")
        return _made(file, lambda: Slerp(t if config.models[0] == config.base else 1 - t)), None
    if config.method == "model_stock":
        if config.value("filter_wise", bool, False):
            raise ConfigError(f"{file}: filter_wise cannot be taken")
        if len(config.ingredients) < 2:
            raise ConfigError(f"{file}: model_stock needs two models beside base_model")
        return ModelStock(), None
    return _task_vectors(config), _weights(config)


def _task_vectors(config: Config) -> Any:
    file, preset = config.file, getattr(methods, config.method)
    normalize = config.value("normalize", bool, config.method in _NORMALIZED)
    scaled: dict[str, Any] = {"normalize": normalize, "scale": config.value("lambda", float, 1.0)}
    config.value("int8_mask", bool, False)  # it only has mergekit hold masks in fewer bytes
    if divides_otherwise(replace(preset(), normalize=normalize), _weights(config)):
        raise ConfigError(f"{file}: normalize=true cannot be taken with weights below 0, or that sum to 0")
    sparsifier: dict[str, Any] = {}
    for name, default in {"density": 1.0, "gamma": 0.01, "epsilon": 0.15}.items():
        if name in _READ[config.method][1]:
            values = {config.value(name, float, default, model) for model in config.ingredients}
            if len(values) > 1:
                raise ConfigError(f"{file}: {name} has to be the same for all models")
            sparsifier[name] = values.pop()
    rescale = config.value("rescale", bool, config.method.startswith(("dare", "della")))
    if sparsifier["density"] >= 1 or config.method == "task_arithmetic":
        return _made(file, lambda: replace(preset(), sparsifier=None, **scaled))
    if hasattr(preset().sparsifier, "rescale"):
        log.warning("%s: mergekit's %s", file, RANDOM)
        sparsifier["rescale"] = "l1" if rescale else None
    elif rescale:
        raise ConfigError(f"{file}: rescale=true cannot be taken with {config.method}")
    return _made(file, lambda: preset(**scaled, **sparsifier))


def _weights(config: Config) -> list[float]:
    weights = {number: config.value("weight", float, None, number) for number in config.ingredients}
    for number, weight in weights.items():
        if weight is None:
            raise ConfigError(f"{config.file}: {config.models[number]} has no weight")
    if not any(weights.values()):
        raise ConfigError(f"{config.file}: weight is 0 for all models")
    return [weight for weight in weights.values() if weight is not None]


def _say_what_is_not_read(config: Config) -> None:
    """Names parameters that mergekit does not read here either; refuses those that it never reads."""
    shared, own = _READ[config.method]
    ignored = set(config.shared) - shared - own
    for model, settings in zip(config.models, config.parameters, strict=True):
        counts = model != config.base or config.method in AVERAGING
        ignored |= set(settings) - (own if counts else set())
    known = set(_ELSEWHERE).union(*(one for pair in _READ.values() for one in pair))
    if strange := sorted(ignored - known):
        raise ConfigError(f"{config.file}: mergekit 0.1.5 has no parameter {', '.join(strange)}: remove it")
    if ignored:
        log.warning(
            "%s: mergekit's %s does not read %s where it stands; so it is left out here, too",
            config.file,
            config.method,
            ", ".join(sorted(ignored)),
        )


def _check_tokenizer(config: Config, folders: Sequence[Path]) -> None:
    """Checks that what the file says of tokenizers and chat templates changes nothing.

    Raises:
        ConfigError: if it does, or that cannot be seen.
    """
    file, asked = config.file, config.tokenizer
    if config.said.chat_template not in (None, "auto"):
        raise ConfigError(f"{file}: chat_template cannot be taken: put it into the soup's tokenizer yourself")
    if asked is None and config.said.chat_template is None:
        return
    key = next(key for key in ("tokenizer_source", "tokenizer", "chat_template") if key in config.keys)
    if asked and (asked.tokens or asked.pad_to_multiple_of):
        raise ConfigError(f"{file}: tokens and pad_to_multiple_of of tokenizer cannot be taken")
    sources = []
    if asked and asked.source not in ("union", "base"):
        sources = [of_mergekit(config, reference(file, asked.source).model)]
    if len({_files(folder) for folder in (*folders, *sources)}) > 1:
        raise ConfigError(f"{file}: {key} cannot be taken: the models' tokenizers differ in their files")
    if asked:
        from soupkitchen.tasks.base import load_tokenizer  # it imports datasets, and few files ask for it

        numbers = sorted(load_tokenizer(str(folders[0])).get_vocab().values())
        for folder in folders:
            rows = read_json(folder / CONFIG_NAME).get("vocab_size")
            if numbers != list(range(rows if isinstance(rows, int) else -1)):
                raise ConfigError(
                    f"{file}: {key} cannot be taken: mergekit cuts the embedding to the {len(numbers)} "
                    f"tokens of the tokenizer, and that of {folder} has {rows} rows"
                )


def _made(file: Path, make: Callable[[], T]) -> T:
    """What `make` makes; an option of ours that it refuses is one that the file says."""
    try:
        return make()
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
