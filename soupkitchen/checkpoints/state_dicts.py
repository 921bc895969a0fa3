"""Files that `torch.save`, Lightning or safetensors wrote of a model: each is a run, without a folder.

Such a file may hold a state dict itself, or by a key, beside the state of an optimizer, the number of an
epoch, an average of the weights (EMA). Wrappers of modules leave prefixes, as ``module.`` (data parallel,
`AveragedModel`), ``_orig_mod.`` (torch.compile) and FSDP's, and what they count; names of tensors are told
without. An average may be in the same state dict, by a prefix, as ema-pytorch's ``ema_model.``.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from soupkitchen.checkpoints.files import WeightFiles, infos_of, read_header, stamp
from soupkitchen.checkpoints.pickles import Inert, load_anything, plain_tensors
from soupkitchen.checkpoints.views import View
from soupkitchen.checkpoints.wrappers import Naming, tell
from soupkitchen.errors import CheckpointError

log = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pt.tar", ".pth.tar")
_TRAINING = re.compile("optim|sched|callback|loop|scaler|rng|sampler|averaging_state", re.IGNORECASE)
_LIGHTNING, _LIVE = "state_dict", "current_model_state"
_DEEP, _SHOWN = 3, 3


class StateDict(WeightFiles):
    """The tensors of one file, by the names that the file gives them.

    Attributes:
        file: the file.
        path: where in it the tensors are, as ``state_dict`` or ``ema.module``; empty if nothing else is.
        prefix: what the names of the model's tensors there begin with; None if nobody said.
    """

    def __init__(self, file: Path, key: str | None = None) -> None:
        """Reads the file's header.

        Args:
            key: which of several state dicts in it; None where there is one.

        Raises:
            CheckpointError: where it holds no state dict, or several.
        """
        stamps = {file: stamp(file)}
        if file.suffix == ".safetensors":
            self.path, self.prefix, header = "", key or None, read_header(file)
            if key and not (key.endswith(".") and any(name.startswith(key) for name in header)):
                raise CheckpointError(
                    f"{file} holds nothing but tensors, so there is no pool.key={key} in it"
                )
        else:
            self.path, self.prefix, tensors = read(file, key)
            header = infos_of(tensors)
        super().__init__(dict(sorted(header.items())), {file: tuple(header)}, stamps)
        self.file, self._part = file, self.path
        if file.suffix != ".safetensors":
            self._handle = partial(_getter, key=self.path)

    @property
    def naming(self) -> Naming:
        """Which of the tensors are the model's, and what it calls them."""
        return Naming.of(self.file, self.header, self.prefix)

    @property
    def key(self) -> str:
        """What finds the same again: path and prefix."""
        return ".".join(part for part in (self.path, self.prefix) if part)


def is_state_dict(file: Path) -> bool:
    """Whether `file` is called as files with state dicts are."""
    return file.name.endswith(SUFFIXES) and file.is_file()


def stem_of(file: Path) -> str:
    """The name of the file without what says its format."""
    suffix = max((suffix for suffix in SUFFIXES if file.name.endswith(suffix)), key=len, default="")
    return file.name.removesuffix(suffix)


def without_prefixes(weights: StateDict) -> View:
    """The tensors of the model in the file, by names without what wrappers of modules put before them."""
    return View(weights, weights.naming.names)


def read(file: Path, key: str | None = None) -> tuple[str, str | None, dict[str, torch.Tensor]]:
    """The path of the state dict in a file of PyTorch's, the prefix that was asked for, and the tensors.

    Raises:
        CheckpointError: if there is none, or several and no key.
    """
    content = load_anything(file, inert=True)
    state_dicts = {"": content} if _is_state_dict(content) else _state_dicts(content)
    both = state_dicts.keys() == {_LIGHTNING, _LIVE}  # WeightAveraging's: the average is in the usual place
    of_all = {_LIGHTNING: state_dicts[_LIGHTNING]} if both else state_dicts
    if key is not None:
        for path, prefix in _readings(key):
            found = content
            for part in path.split(".") if path else ():
                found = found.get(part) if isinstance(found, Mapping) else None
            if prefix is not None and not path and len(of_all) == 1:
                ((path, found),) = of_all.items()
            if _is_state_dict(found) and any(name.startswith(prefix or "") for name in found):
                return path, prefix, plain_tensors(file, found)
        there = ", ".join(state_dicts) or "none"
        raise CheckpointError(f"{file} has no state dict called {key} (pool.key); it has {there}")
    if both:
        tell(f"the averaged ({_LIGHTNING})", _LIVE)
    if not of_all:
        raise CheckpointError(f"{file} should hold tensors by name, as a model's state dict does")
    if len(of_all) > 1:
        raise CheckpointError(
            f"{file} holds several state dicts: say which as pool.key={' or pool.key='.join(state_dicts)}"
        )
    ((path, found),) = of_all.items()
    if isinstance(content.get("callbacks"), Mapping):
        for name, state in content["callbacks"].items():
            if isinstance(state, Mapping) and _is_state_dict(state.get("average_model_state")):
                tell(f"the live ({path})", f"callbacks.{name}.average_model_state")
    return path, None, plain_tensors(file, found)


def _readings(key: str) -> Iterator[tuple[str, str | None]]:
    """What a key may mean: a path to a state dict and, if it ends with a dot, a prefix of names in that."""
    if not key.endswith("."):
        yield key, None
        return
    parts = key[:-1].split(".")
    for place in reversed(range(len(parts))):
        yield ".".join(parts[:place]), ".".join(parts[place:]) + "."


def replaced(own: StateDict, tensors: Mapping[str, torch.Tensor]) -> Any:
    """What a file holds with other tensors for those of the model, by its names, and without any others.

    The state of an optimizer is that of one run, and none of a soup's. What stands for classes that are not
    known cannot be written.
    """
    naming = own.naming
    named = {name: own.tensor(name) for name in naming.counts}
    named |= {file: tensors[name] for names in (naming.others, naming.names) for name, file in names.items()}
    if not own.path:
        return named
    lost: list[str] = []

    def put(found: Any, parts: list[str]) -> Any:
        if not parts:
            return named
        others = {
            name: value for name, value in found.items() if name != parts[0] and not _has_tensors(value)
        }
        kept = {name: _plain(value, str(name), lost) for name, value in others.items()}
        kept = {name: value for name, value in kept.items() if not isinstance(value, Inert)}
        return {**kept, parts[0]: put(found[parts[0]], parts[1:])}

    made = put(load_anything(own.file, inert=True), own.path.split("."))
    if lost:
        log.warning(
            "%s has %s of classes that are not read here: the soup's file is without them",
            own.file,
            ", ".join(lost[:_SHOWN]) + (f" and {len(lost) - _SHOWN} more" if len(lost) > _SHOWN else ""),
        )
    return made


def _plain(value: Any, name: str, lost: list[str]) -> Any:
    """The value without what stands for classes, whose names join `lost`."""
    if isinstance(value, Inert):
        lost.append(name)
    if isinstance(value, Mapping):
        kept = {key: _plain(inner, f"{name}.{key}", lost) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if not isinstance(inner, Inert)}
    if isinstance(value, (list, tuple, set)) and any(isinstance(inner, Inert) for inner in value):
        lost.append(name)
        return Inert()
    return value


def _getter(file: Path, key: str) -> Any:
    return read(file, key)[2].__getitem__


def _is_state_dict(content: Any) -> bool:
    return (
        isinstance(content, Mapping)
        and len(content) > 0
        and all(isinstance(name, str) and isinstance(x, torch.Tensor) for name, x in content.items())
    )


def _state_dicts(content: Any, above: str = "", depth: int = 0) -> dict[str, Any]:
    """The state dicts in the content of a file, by their keys, but for what training resumes from."""
    found: dict[str, Any] = {}
    if not isinstance(content, Mapping) or depth == _DEEP:
        return found
    for name, value in content.items():
        if not isinstance(name, str) or _TRAINING.search(name):
            continue
        key = f"{above}{name}"
        if _is_state_dict(value):
            found[key] = value
        else:
            found |= _state_dicts(value, f"{key}.", depth + 1)
    return found


def _has_tensors(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_tensors, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_has_tensors, value))
    return isinstance(value, torch.Tensor)
