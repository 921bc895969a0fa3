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
"""Digits of a number that may be a step."""


@dataclass(frozen=True)
class StateDict:
    """The state dict in a file.

    Attributes:
        file: the file.
        weights: its tensors, by their names there.
        path: where in the file it is, as ``state_dict`` or ``ema.module``; empty if it is the whole file.
        prefix: of the names of the model's tensors, if the user gave it.
    """

    file: Path
    weights: WeightFiles
    path: str = ""
    prefix: str | None = None

    @classmethod
    def open(cls, file: Path, key: str | None = None) -> StateDict:
        """Reads the file's header.

        Args:
            key: of one of several state dicts in it; None if there is one.

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
        """Path and prefix, which find the same again."""
        return ".".join(part for part in (self.path, self.prefix) if part)

    @cached_property
    def naming(self) -> Naming:
        return Naming.of(self.file, self.weights.header, self.prefix)

    @property
    def model(self) -> View:
        """The tensors of the model, by names without prefixes of wrappers."""
        return View(self.weights, self.naming.names)

    def with_tensors(self, tensors: Mapping[str, torch.Tensor]) -> Any:
        """The file's content with other tensors, by the model's names, in place of all that it has.

        The state of an optimizer is left out: it is that of one run. Stand-ins of unknown classes cannot be
        written.
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
    """Tells whether `file` has a name that files with state dicts have."""
    return file.name.endswith(SUFFIXES) and file.is_file()


def stem_of(file: Path) -> str:
    """The name of the file without the suffix of its format."""
    suffix = max((suffix for suffix in SUFFIXES if file.name.endswith(suffix)), key=len, default="")
    return file.name.removesuffix(suffix)


class Naming(NamedTuple):
    """The roles of the tensors in a file.

    Attributes:
        names: the file's name by the model's, which has no prefixes of wrappers.
        others: the file's names of other weights of the same model, live ones beside their average, by the
            model's.
        counts: names of numbers that wrappers count, as that of the models in an average.
    """

    names: dict[str, str]
    others: dict[str, str]
    counts: list[str]

    @classmethod
    def of(cls, file: Path, header: Mapping[str, TensorInfo], prefix: str | None) -> Naming:
        """Finds the model's tensors in `file`: those whose names begin with `prefix`, if that is given.

        Of an average and the live weights, the average is taken.

        Raises:
            CheckpointError: for names that only differ in prefixes of wrappers.
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
    """Says once which of the weights in the pool's files are taken."""
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
    """Reads the state dict in a file of PyTorch's: its path, the prefix that was asked for, and the tensors.

    Raises:
        CheckpointError: if there is none, or several and no key.
    """
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
    """Yields readings of a key: a path to a state dict and, if it ends with a dot, a prefix of names."""
    if not key.endswith("."):
        yield key, None
        return
    parts = key[:-1].split(".")
    for place in reversed(range(len(parts))):
        yield ".".join(parts[:place]), ".".join(parts[place:]) + "."


def _is_state_dict(content: Any) -> bool:
    return isinstance(content, Mapping) and len(content) > 0 and holds_only_tensors(content)


def _state_dicts(content: Any, above: str = "", depth: int = 0) -> dict[str, Any]:
    """The state dicts in the content of a file, by their keys, without those that training resumes from."""
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
    """The content without stand-ins for classes, whose names join `lost`."""
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
    """The names by what they are without `prefix` and without those of wrappers."""
    unwrapped = {_WRAPPERS.sub("", name.removeprefix(prefix)): name for name in names}
    if len(unwrapped) < len(names):
        raise CheckpointError(f"{file} has tensors whose names differ by {_COMPILED} only")
    while unwrapped and all(name.startswith(_PARALLEL) for name in unwrapped):
        unwrapped = {name.removeprefix(_PARALLEL): stored for name, stored in unwrapped.items()}
    return unwrapped


def _is_count(name: str, info: TensorInfo, names: Collection[str]) -> bool:
    """Tells whether a wrapper counts something in the tensor: `AveragedModel`, ema-pytorch."""
    above, _, last = name.rpartition(".")
    wrapped = {"n_averaged": _PARALLEL, "initted": "ema_model.", "step": "ema_model."}.get(last)
    if wrapped is None or info.elements != 1:
        return False
    return any(other.startswith(f"{above}.{wrapped}" if above else wrapped) for other in names)


def _averaged(names: Sequence[str], counts: Sequence[str]) -> str:
    """The prefix of averaged weights, if it is certain; else nothing."""
    of_counts = {
        f"{count.removesuffix('n_averaged')}{_PARALLEL}" for count in counts if count.endswith("n_averaged")
    }
    of_ema = {f"{count.removesuffix('initted')}ema_model." for count in counts if count.endswith("initted")}
    of_names = {match[0] for name in names if (match := _AVERAGE.match(name))}
    return next((min(prefixes) for prefixes in (of_counts, of_ema, of_names) if len(prefixes) == 1), "")


def _live(taken: Collection[str], left: Collection[str]) -> str | None:
    """The prefix under which all names of `taken` are in `left`; None if there is none."""
    longest = max(taken, key=len, default="")
    prefixes = (name.removesuffix(longest) for name in left if name.endswith(longest))
    return next((prefix for prefix in prefixes if all(prefix + name in left for name in taken)), None)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One run of the pool.

    Attributes:
        name: of the run in tables, unique in its pool.
        path: its folder, or its file.
        config: its model's `config.json`; empty if there is none.
        weights: its tensors; of an adapter, those of the model that it makes.
        adapted: of an adapter, the model that it was trained on.
        key: of a file, where in it the state dict is.
    """

    name: str
    path: Path
    config: dict[str, Any] = field(repr=False)
    weights: Weights = field(repr=False)
    adapted: Checkpoint | None = None
    key: str = ""

    @classmethod
    def open(cls, path: str | Path, name: str | None = None, key: str | None = None) -> Checkpoint:
        """Reads the headers of the model in the folder, or file, `path`.

        A folder of weights alone, without a `config.json`, will do.

        Args:
            key: of a file, which of several state dicts in it.

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
        """Shape and dtype by tensor name, sorted by name."""
        return self.weights.header

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the content: the same for the same weights, however they are spread over files."""
        return self.weights.fingerprint

    def changed_files(self) -> list[Path]:
        """Its weight files, and those of its base, that have changed since it was opened."""
        return self.weights.changed_files()

    @property
    def architecture(self) -> Path:
        """The folder whose `config.json` ``from_pretrained`` makes the model of."""
        return self.adapted.path if self.adapted else self.path

    def tensors(self) -> Tensors:
        """Yields (name, tensor) for every tensor, memory-mapped if it lies in a file."""
        return self.weights.tensors()

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor called `name`."""
        return self.weights.tensor(name)


def training_step(run: Checkpoint) -> int | None:
    """The step in the run's `trainer_state.json`, else the last number in its name; None without either.

    A run may be called ``checkpoint-500``, ``step_1000`` or ``org/name@step1000``.
    """
    step: Any = None
    with suppress(CheckpointError):  # most runs have no such file
        step = folders.read_json(run.path / TRAINER_STATE).get("global_step")
    if type(step) is int and step >= 0:
        return step
    numbers = re.findall(r"\d+", run.name)
    return int(numbers[-1]) if numbers and len(numbers[-1]) <= _LONGEST_STEP else None
