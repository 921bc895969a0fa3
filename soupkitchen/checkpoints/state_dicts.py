"""Files that `torch.save`, Lightning or safetensors wrote of a model: each is a run, without a folder.

Such a file may hold a state dict itself, or by a key, beside the state of an optimizer, the number of an
epoch, an average of the weights (EMA). Wrappers of modules leave prefixes, as ``module.`` (data parallel)
and ``_orig_mod.`` (torch.compile); names of tensors are told without.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from soupkitchen.checkpoints.files import WeightFiles, infos_of, read_header, stamp
from soupkitchen.checkpoints.pickles import load_anything, plain_tensors
from soupkitchen.checkpoints.views import View
from soupkitchen.errors import CheckpointError

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".pt.tar", ".pth.tar")
_PARALLEL, _COMPILED = "module.", "_orig_mod."
_TRAINING = re.compile("optim|sched|callback|loop|scaler|rng|sampler", re.IGNORECASE)
_DEEP = 3


class StateDict(WeightFiles):
    """The tensors of one file, by the names that the file gives them.

    Attributes:
        file: the file.
        key: where in it the tensors are, as ``state_dict`` or ``ema.module``; empty where it holds nothing
            else.
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
            self.key, header = "", read_header(file)
            if key:
                raise CheckpointError(
                    f"{file} holds nothing but tensors, so there is no pool.key={key} in it"
                )
        else:
            self.key, tensors = read(file, key)
            header = infos_of(tensors)
        super().__init__(dict(sorted(header.items())), {file: tuple(header)}, stamps)
        self.file, self._part = file, self.key
        if file.suffix != ".safetensors":
            self._handle = partial(_getter, key=self.key)


def is_state_dict(file: Path) -> bool:
    """Whether `file` is called as files with state dicts are."""
    return file.name.endswith(SUFFIXES) and file.is_file()


def stem_of(file: Path) -> str:
    """The name of the file without what says its format."""
    suffix = max((suffix for suffix in SUFFIXES if file.name.endswith(suffix)), key=len, default="")
    return file.name.removesuffix(suffix)


def without_prefixes(weights: StateDict) -> View:
    """The tensors by names without what wrappers of modules put before them."""
    names = dict.fromkeys(weights.header, "")
    parallel = all(name.startswith(_PARALLEL) for name in names)
    for name in names:
        names[name] = name.replace(_COMPILED, "")
        if parallel:
            names[name] = names[name].removeprefix(_PARALLEL)
    if len(set(names.values())) < len(names):
        raise CheckpointError(f"{weights.file} has tensors whose names differ by {_COMPILED} only")
    return View(weights, {told: name for name, told in names.items()})


def read(file: Path, key: str | None = None) -> tuple[str, dict[str, torch.Tensor]]:
    """The state dict in a file of PyTorch's, and the key under which it is.

    Raises:
        CheckpointError: where there is none, or several and no key.
    """
    content = load_anything(file)
    if key is not None:
        found = content
        for part in key.split(".") if key else ():
            found = found.get(part) if isinstance(found, Mapping) else None
        if not _is_state_dict(found):
            there = ", ".join(_state_dicts(content)) or "none"
            raise CheckpointError(f"{file} has no state dict called {key} (pool.key); it has {there}")
        return key, plain_tensors(file, found)
    if _is_state_dict(content):
        return "", plain_tensors(file, content)
    state_dicts = _state_dicts(content)
    if not state_dicts:
        raise CheckpointError(f"{file} should hold tensors by name, as a model's state dict does")
    if len(state_dicts) > 1:
        raise CheckpointError(
            f"{file} holds several state dicts: say which as pool.key={' or pool.key='.join(state_dicts)}"
        )
    return next((name, plain_tensors(file, found)) for name, found in state_dicts.items())


def replaced(file: Path, key: str, tensors: Mapping[str, torch.Tensor]) -> Any:
    """What `file` holds with other tensors for the state dict under `key`, and without any others.

    The state of an optimizer is that of one run, and none of a soup's.
    """
    if not key:
        return dict(tensors)
    content = load_anything(file)

    def put(found: Any, parts: list[str]) -> Any:
        if not parts:
            return dict(tensors)
        kept = {name: value for name, value in found.items() if name != parts[0] and not _has_tensors(value)}
        return {**kept, parts[0]: put(found[parts[0]], parts[1:])}

    return put(content, key.split("."))


def _getter(file: Path, key: str) -> Any:
    return read(file, key)[1].__getitem__


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
