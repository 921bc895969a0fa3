"""One fine-tuned run on disk, opened and not yet read.

A run is a folder as ``save_pretrained``, the Trainer or peft leaves it: a model with `config.json` and its
weights, or a LoRA adapter with `adapter_config.json`. Or it is a file that `torch.save`, Lightning or
safetensors wrote, with a state dict, whose model a function of the user's makes.

Such a file may hold a state dict itself, or by a key, beside the state of an optimizer, the number of an
epoch, an average of the weights (EMA). Wrappers of modules leave prefixes in it, as ``module.`` (data
parallel, `AveragedModel`), ``_orig_mod.`` (torch.compile) and FSDP's, and numbers that they count; tensors
are named without. An average may be in the same state dict, by a prefix, as ema-pytorch's ``ema_model.``.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import torch

from soupkitchen.checkpoints import folders
from soupkitchen.checkpoints.files import (
    SAFE,
    Getter,
    Inert,
    WeightFiles,
    has_weights,
    holds_only_tensors,
    load_anything,
    plain_tensors,
    read_header,
)
from soupkitchen.checkpoints.sentence import weights_of
from soupkitchen.checkpoints.weights import TensorInfo, Tensors, View, Weights
from soupkitchen.errors import CheckpointError, first_of

log = logging.getLogger(__name__)

SUFFIXES = (SAFE, ".pt", ".pth", ".ckpt", ".bin", ".pt.tar", ".pth.tar")
_TRAINING = re.compile("optim|sched|callback|loop|scaler|rng|sampler|averaging_state", re.IGNORECASE)
_LIGHTNING, _LIVE = "state_dict", "current_model_state"
_DEEP, _SHOWN = 3, 3

_PARALLEL, _COMPILED = "module.", "_orig_mod."
_WRAPPERS = re.compile(
    r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|_forward_module)\."
)
_AVERAGE = re.compile(r"([^.]+\.)*?(ema_model|model_ema|ema|swa_model|averaged?_model)\.")
TRAINER_STATE = "trainer_state.json"
_LONGEST_STEP = 18


@dataclass(frozen=True)
class StateDict:
    """The state dict in a file, at `path` (as ``ema.module``; empty for the whole file), with the given
    `prefix`.
    """

    file: Path
    weights: WeightFiles
    path: str = ""
    prefix: str | None = None

    @classmethod
    def open(cls, file: Path, key: str | None = None) -> StateDict:
        """Reads the file's header.

        Args:
            key: the state dict to read, if there are several.

        Raises:
            CheckpointError: if it holds no state dict, or several.
        """
        stamps = {file: folders.stamp(file)}
        if file.suffix == SAFE:
            header = read_header(file)
            if key and not (key.endswith(".") and any(name.startswith(key) for name in header)):
                raise CheckpointError(
                    f"{file} holds nothing but tensors, so there is no pool.key={key} in it"
                )
            return cls(file, WeightFiles(header, _in(file, header), stamps), prefix=key or None)
        path, prefix, tensors = _read(file, key)
        header = {name: TensorInfo.of(tensor) for name, tensor in tensors.items()}
        weights = WeightFiles(header, _in(file, header), stamps, partial(_getter, key=path), path)
        return cls(file, weights, path, prefix)

    @property
    def key(self) -> str:
        return ".".join(part for part in (self.path, self.prefix) if part)

    @cached_property
    def naming(self) -> Naming:
        return Naming.of(self.file, self.weights.header, self.prefix)

    @property
    def model(self) -> View:
        return View(self.weights, self.naming.names)

    def with_tensors(self, tensors: Mapping[str, torch.Tensor]) -> Any:
        """The file's content with other tensors, by the model's names, and without optimizer state.

        Stand-ins of unknown classes cannot be written.
        """
        naming = self.naming
        named = {name: self.weights.tensor(name) for name in naming.counts}
        for names in (naming.others, naming.names):
            named |= {stored: tensors[name] for name, stored in names.items()}
        if not self.path:
            return named
        lost: list[str] = []

        def replaced(content: Any, parts: list[str]) -> Any:
            if not parts:
                return named
            beside = {
                name: value for name, value in content.items() if name != parts[0] and not _has_tensors(value)
            }
            return {**_without_inert(beside, lost), parts[0]: replaced(content[parts[0]], parts[1:])}

        content = replaced(load_anything(self.file, inert=True), self.path.split("."))
        if lost:
            log.warning(
                "%s has %s of classes that are not read here: the soup's file is without them",
                self.file,
                first_of(lost, _SHOWN),
            )
        return content


def is_state_dict(file: Path) -> bool:
    return file.name.endswith(SUFFIXES) and file.is_file()


def stem_of(file: Path) -> str:
    suffix = max((suffix for suffix in SUFFIXES if file.name.endswith(suffix)), key=len, default="")
    return file.name.removesuffix(suffix)


class Naming(NamedTuple):
    """The roles of a file's tensors.

    Attributes:
        names: the file's name, by the model's name.
        others: file names of live weights beside an average, by the model's name.
        counts: names of wrappers' counters.
    """

    names: dict[str, str]
    others: dict[str, str]
    counts: list[str]

    @classmethod
    def of(cls, file: Path, header: Mapping[str, TensorInfo], prefix: str | None) -> Naming:
        """Finds the model's tensors in `file`: those with `prefix`, if given.

        An average is preferred to live weights.

        Raises:
            CheckpointError: if names differ only in wrappers' prefixes.
        """
        counts = [name for name, info in header.items() if _is_count(name, info, header)]
        named = [name for name in header if name not in counts]
        first = _averaged(named, counts) if prefix is None else prefix
        taken = _unwrapped(file, [name for name in named if name.startswith(first)], first)
        left = {_WRAPPERS.sub("", name): name for name in named if not name.startswith(first)}
        live = _live(taken, left)
        others = {name: left[live + name] for name in taken} if live is not None else {}
        if prefix is None and left:
            if len(others) < len(left):  # not of the same model: the user has to say what they are
                return cls(_unwrapped(file, list(header)), {}, [])
            log_choice(f"the averaged ({first})", str(live))
        return cls(taken, others, counts)


@cache
def log_choice(taken: str, left: str) -> None:
    """Logs once which of the files' weights are used."""
    log.info(
        "the files hold averaged weights and live ones: %s are taken; pool.key=%s takes the others",
        taken,
        left,
    )


def _in(file: Path, names: Collection[str]) -> dict[str, tuple[Path, str]]:
    return {name: (file, name) for name in names}


def _getter(file: Path, key: str) -> Getter:
    return _read(file, key)[2].__getitem__


def _read(file: Path, key: str | None = None) -> tuple[str, str | None, dict[str, torch.Tensor]]:
    """Reads a PyTorch file's state dict: its path, the requested prefix, and the tensors."""
    content = load_anything(file, inert=True)
    state_dicts = {"": content} if _is_state_dict(content) else _state_dicts(content)
    both = state_dicts.keys() == {_LIGHTNING, _LIVE}  # WeightAveraging's: the average is in the usual place
    choices = {_LIGHTNING: state_dicts[_LIGHTNING]} if both else state_dicts
    if key is not None:
        for path, prefix in _readings(key):
            chosen = content
            for part in path.split(".") if path else ():
                chosen = chosen.get(part) if isinstance(chosen, Mapping) else None
            if prefix is not None and not path and len(choices) == 1:
                ((path, chosen),) = choices.items()
            if _is_state_dict(chosen) and any(name.startswith(prefix or "") for name in chosen):
                return path, prefix, plain_tensors(file, chosen)
        there = ", ".join(state_dicts) or "none"
        raise CheckpointError(f"{file} has no state dict called {key} (pool.key); it has {there}")
    if not choices:
        raise CheckpointError(f"{file} should hold tensors by name, as a model's state dict does")
    if len(choices) > 1:
        raise CheckpointError(
            f"{file} holds several state dicts: say which as pool.key={' or pool.key='.join(state_dicts)}"
        )
    if both:
        log_choice(f"the averaged ({_LIGHTNING})", _LIVE)
    ((path, chosen),) = choices.items()
    if isinstance(content.get("callbacks"), Mapping):
        for name, state in content["callbacks"].items():
            if isinstance(state, Mapping) and _is_state_dict(state.get("average_model_state")):
                log_choice(f"the live ({path})", f"callbacks.{name}.average_model_state")
    return path, None, plain_tensors(file, chosen)


def _readings(key: str) -> Iterator[tuple[str, str | None]]:
    """Yields a key's meanings: a path and, if it ends with a dot, a prefix."""
    if not key.endswith("."):
        yield key, None
        return
    parts = key[:-1].split(".")
    for place in reversed(range(len(parts))):
        yield ".".join(parts[:place]), ".".join(parts[place:]) + "."


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, Mapping) and len(content) > 0 and holds_only_tensors(content)


def _state_dicts(content: Any, above: str = "", depth: int = 0) -> dict[str, Any]:
    state_dicts: dict[str, Any] = {}
    if not isinstance(content, Mapping) or depth == _DEEP:
        return state_dicts
    for name, value in content.items():
        if not isinstance(name, str) or _TRAINING.search(name):
            continue
        key = f"{above}{name}"
        if _is_state_dict(value):
            state_dicts[key] = value
        else:
            state_dicts |= _state_dicts(value, f"{key}.", depth + 1)
    return state_dicts


def _has_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        value = list(value.values())
    return any(map(_has_tensors, value)) if isinstance(value, (list, tuple)) else torch.is_tensor(value)


def _without_inert(content: Mapping[Any, Any], lost: list[str], above: str = "") -> dict[Any, Any]:
    """The content without stand-ins, whose class names are added to `lost`."""
    kept: dict[Any, Any] = {}
    for key, value in content.items():
        inside = value if isinstance(value, (list, tuple, set)) else [value]
        if isinstance(value, Mapping):
            kept[key] = _without_inert(value, lost, f"{above}{key}.")
        elif any(isinstance(item, Inert) for item in inside):
            lost.append(f"{above}{key}")
        else:
            kept[key] = value
    return kept


def _unwrapped(file: Path, names: Sequence[str], prefix: str = "") -> dict[str, str]:
    unwrapped = {_WRAPPERS.sub("", name.removeprefix(prefix)): name for name in names}
    if len(unwrapped) < len(names):
        raise CheckpointError(f"{file} has tensors whose names differ by {_COMPILED} only")
    while unwrapped and all(name.startswith(_PARALLEL) for name in unwrapped):
        unwrapped = {name.removeprefix(_PARALLEL): stored for name, stored in unwrapped.items()}
    return unwrapped


def _is_count(name: str, info: TensorInfo, names: Collection[str]) -> bool:
    """Tells whether the tensor is a counter of `AveragedModel` or ema-pytorch."""
    above, _, last = name.rpartition(".")
    wrapped = {"n_averaged": _PARALLEL, "initted": "ema_model.", "step": "ema_model."}.get(last)
    if wrapped is None or info.elements != 1:
        return False
    return any(other.startswith(f"{above}.{wrapped}" if above else wrapped) for other in names)


def _averaged(names: Sequence[str], counts: Sequence[str]) -> str:
    of_counts = {
        f"{count.removesuffix('n_averaged')}{_PARALLEL}" for count in counts if count.endswith("n_averaged")
    }
    of_ema = {f"{count.removesuffix('initted')}ema_model." for count in counts if count.endswith("initted")}
    of_names = {match[0] for name in names if (match := _AVERAGE.match(name))}
    return next((min(prefixes) for prefixes in (of_counts, of_ema, of_names) if len(prefixes) == 1), "")


def _live(taken: Collection[str], left: Collection[str]) -> str | None:
    longest = max(taken, key=len, default="")
    prefixes = (name.removesuffix(longest) for name in left if name.endswith(longest))
    return next((prefix for prefix in prefixes if all(prefix + name in left for name in taken)), None)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One run of the pool.

    Attributes:
        name: its unique name in tables.
        path: its folder or file.
        config: its `config.json`; may be empty.
        weights: its tensors; for an adapter, the adapted model's.
        adapted: an adapter's base model.
        key: the state dict's place in the file.
    """

    name: str
    path: Path
    config: dict[str, Any] = field(repr=False)
    weights: Weights = field(repr=False)
    adapted: Checkpoint | None = None
    key: str = ""

    @classmethod
    def open(cls, path: str | Path, name: str | None = None, key: str | None = None) -> Checkpoint:
        """Reads the headers in folder or file `path`; `config.json` may be missing.

        Args:
            key: the state dict to read, if a file holds several.

        Raises:
            CheckpointError: if it is no checkpoint, or a broken one.
        """
        path = Path(path)
        if path.is_file():
            state_dict = StateDict.open(path, key)
            return cls(name or stem_of(path), path, {}, state_dict.model, key=state_dict.key)
        folders.check_folder(path)
        weighed, file = has_weights(path), path / folders.CONFIG_NAME
        config = folders.read_config(path) if os.path.lexists(file) or not weighed else {}
        if not weighed and (checkpoints := sorted(path.glob("checkpoint-*"))):
            raise CheckpointError(
                f"{path} holds no model itself, only {len(checkpoints)} intermediate checkpoints; "
                f"name the ones to use, for example pool.path='{path}/checkpoint-*'."
            )
        if config.get("auto_map"):
            folders.own_files(path, "*.py")
        files = WeightFiles.open(path)
        folders.check_sizes(file, config, [info.shape for info in files.header.values()])
        return cls(name or path.name, path, config, weights_of(path, files))

    @property
    def header(self) -> Mapping[str, TensorInfo]:
        return self.weights.header

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the weights, however they are split into files."""
        return self.weights.fingerprint

    def changed_files(self) -> list[Path]:
        """The weight files, the base's included, that changed since it was opened."""
        return self.weights.changed_files()

    @property
    def architecture(self) -> Path:
        """The folder with the `config.json` for ``from_pretrained``."""
        return self.adapted.path if self.adapted else self.path

    def tensors(self) -> Tensors:
        return self.weights.tensors()

    def tensor(self, name: str) -> torch.Tensor:
        return self.weights.tensor(name)


def training_step(run: Checkpoint) -> int | None:
    """The step in `trainer_state.json`, else the last number in the run's name, as in ``checkpoint-500``;
    else None.
    """
    step: Any = None
    with suppress(CheckpointError):  # most runs have no such file
        step = folders.read_json(run.path / TRAINER_STATE).get("global_step")
    if type(step) is int and step >= 0:
        return step
    numbers = re.findall(r"\d+", run.name)
    return int(numbers[-1]) if numbers and len(numbers[-1]) <= _LONGEST_STEP else None
