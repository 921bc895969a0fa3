"""Reads PyTorch's own weight files as tensors and nothing else.

A pickle can claim a tensor that is larger than the bytes in the file (every row the same memory), that lies
on no device, or that is no array of numbers. Only plain tensors no larger than the file are taken.
"""

from __future__ import annotations

import pickle
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path, PosixPath, PurePosixPath
from threading import Lock
from typing import Any

import numpy as np
import torch

from soupkitchen.checkpoints.folders import open_regular
from soupkitchen.errors import CheckpointError, first_line

_ZIP = b"PK\x03\x04"
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""The first bytes of files before PyTorch 1.6."""
_SHARED = 8
"""The most tensors of the same bytes: tied weights have a few names."""
_SCALAR = import_module("numpy._core.multiarray").scalar
_NUMBERS = [
    _SCALAR,
    np.dtype,
    *{type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "uint8", "float16", "float32", "float64")},
]
_HARMLESS: list[Any] = [
    *(Namespace, PosixPath, PurePosixPath),
    *_NUMBERS,
    (_SCALAR, "numpy.core.multiarray.scalar"),
]
"""Classes that run no code when they are made."""
_DICTS = ("defaultdict", "AttributeDict", "AttrDict", "EasyDict", "Dict", "Box")
"""Names of kinds of dictionaries, as options are kept in."""
_MOST_NAMES = 10_000
_one_at_a_time = Lock()
"""torch has one list of safe classes for all threads."""


def load_pickle(file: Path) -> dict[str, torch.Tensor]:
    """Reads the tensors of a PyTorch file, memory-mapped if its format allows it.

    Raises:
        CheckpointError: if there is anything else in it. Nothing of that is run.
    """
    content = load_anything(file)
    if not (isinstance(content, Mapping) and holds_only_tensors(content)):
        raise CheckpointError(f"{file} should hold tensors by name, as a model's state dict does")
    return plain_tensors(file, content)


def holds_only_tensors(content: Mapping[Any, Any]) -> bool:
    """Tells whether all keys are text and all values are tensors."""
    return all(isinstance(name, str) and isinstance(x, torch.Tensor) for name, x in content.items())


class Inert:
    """Stands for a class or function that a file names: it is neither imported nor called."""

    def __init__(self, *given: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _InertDict(Inert):
    """Stands for a class that is a kind of dictionary."""

    def __new__(cls, *given: Any) -> Any:
        return OrderedDict()


def load_anything(file: Path, inert: bool = False) -> Any:
    """Reads a PyTorch file of tensors, numbers, texts, and collections of these.

    Options of a command line (`argparse.Namespace`), paths and numpy's numbers, which trainers leave beside
    a model, are plain data, too.

    Args:
        inert: whether anything else, as hyperparameters of OmegaConf, becomes `Inert`.

    Raises:
        CheckpointError: for anything else in it. Nothing of that is run.
    """
    with open_regular(file) as handle:
        mapped = handle.read(len(_ZIP)) == _ZIP  # files as before PyTorch 1.6 cannot be mapped
    try:
        if mapped:
            _check_stored(file)
        with _one_at_a_time:
            stand_ins = _stand_ins(file) if mapped and inert else []
            with torch.serialization.safe_globals([*stand_ins, *_HARMLESS]):
                return torch.load(file, map_location="cpu", weights_only=True, mmap=mapped)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{file} holds more than tensors, and unpickling that could run code: it was not opened. "
            "Where you trust it, load it with transformers and save it again with save_pretrained, which "
            "writes safetensors; or save its state dict alone with torch.save."
        ) from error
    except CheckpointError:
        raise
    except Exception as error:  # what a broken pickle raises is anything
        raise CheckpointError(
            f"{file} cannot be read as a PyTorch file ({first_line(error)}); copy the run again"
        ) from error


def _stand_ins(file: Path) -> list[Any]:
    """A stand-in for each class that the file names, unless it is harmless."""
    names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    if len(names) > _MOST_NAMES:
        raise CheckpointError(f"{file} names {len(names)} classes, which no checkpoint does")
    harmless = {
        kind[1] if isinstance(kind, tuple) else f"{kind.__module__}.{kind.__qualname__}" for kind in _HARMLESS
    }
    return [
        (_InertDict if name.rsplit(".", 1)[-1] in _DICTS else Inert, name)
        for name in names
        if name not in harmless
    ]


def holds_tensors(file: Path) -> bool:
    """Tells whether PyTorch wrote tensors to `file`, by its first bytes and its list of contents."""
    with open_regular(file) as handle:
        begin = handle.read(len(_LEGACY))
        if not begin.startswith(_ZIP):
            return begin == _LEGACY
        try:
            return any("/data/" in name for name in zipfile.ZipFile(handle).namelist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return False


def _check_stored(file: Path) -> None:
    """PyTorch never compresses; what is compressed may be a thousand times as large as the file."""
    if any(info.compress_type != zipfile.ZIP_STORED for info in zipfile.ZipFile(file).infolist()):
        raise CheckpointError(
            f"{file} is compressed, as PyTorch writes no file; save it again with torch.save"
        )


def plain_tensors(file: Path, content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Checks the state dict `content` of `file`.

    Raises:
        CheckpointError: if a tensor is not plain, or claims more bytes than are stored.
    """
    stored: dict[int, int] = {}
    claimed = 0
    for name, tensor in content.items():
        if what := _strange(tensor):
            raise CheckpointError(
                f"{file}: {name} is {what}, not a plain tensor; save the model again with save_pretrained"
            )
        storage = tensor.untyped_storage()
        if tensor.nbytes > storage.nbytes():
            raise CheckpointError(
                f"{file}: {name} claims {tensor.nbytes:,} bytes, of which {storage.nbytes():,} are stored "
                "(an expanded tensor); save the model again with save_pretrained"
            )
        stored[storage.data_ptr()] = max(storage.nbytes(), stored.get(storage.data_ptr(), 0))
        claimed += tensor.nbytes
    if claimed > _SHARED * sum(stored.values()):
        raise CheckpointError(
            f"{file}: its tensors claim {claimed:,} bytes, of which {sum(stored.values()):,} are stored; "
            "save the model again with save_pretrained"
        )
    return {name: tensor.detach() for name, tensor in content.items()}


def _strange(tensor: torch.Tensor) -> str | None:
    """The reason why a tensor cannot be taken; None for a plain one."""
    layout = str(tensor.layout).removeprefix("torch.")
    reasons = {
        f"of the class {type(tensor).__name__}": type(tensor) not in (torch.Tensor, torch.nn.Parameter),
        "a nested tensor": tensor.is_nested,
        f"a sparse tensor ({layout})": tensor.layout != torch.strided,
        f"on the device {tensor.device}": tensor.device.type != "cpu",
        "a quantised tensor": tensor.is_quantized,
        "of complex numbers": tensor.is_complex(),
    }
    return next((reason for reason, holds in reasons.items() if holds), None)
