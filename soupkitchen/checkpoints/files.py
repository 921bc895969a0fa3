"""Weight files: safetensors, or PyTorch's own without any code, in one file or in shards.

Opening a folder reads headers only; tensors are memory-mapped. An index can only name files of its own
folder, and a pickle that holds anything but tensors is refused. A pickle can claim a tensor that is larger
than the bytes in the file (every row the same memory), that lies on no device, or that is no array of
numbers. Only plain tensors no larger than the file are taken.

A folder may hold other weights. A Trainer leaves the state of its optimizer beside a model, an export leaves
the same weights in another format: neither is missed. But a head in a folder below, trained apart, is part of
the fine-tuned model.
"""

from __future__ import annotations

import logging
import os
import pickle
import re
import zipfile
from argparse import Namespace
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from importlib import import_module
from pathlib import Path, PosixPath, PurePosixPath
from threading import Lock
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from soupkitchen.checkpoints import fingerprints
from soupkitchen.checkpoints.fingerprints import Block, Findings, Places
from soupkitchen.checkpoints.folders import CONFIG_NAME, Stamp, open_regular, read_json, stamp
from soupkitchen.checkpoints.weights import TensorInfo, Weights
from soupkitchen.errors import CheckpointError, first_line, first_of
from soupkitchen.process import stopwatch

_ZIP = b"PK\x03\x04"
_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
_SHARED = 8
"""The most tensors of the same bytes; tied weights have a few names."""
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
_DICTS = ("defaultdict", "AttributeDict", "AttrDict", "EasyDict", "Dict", "Box")
_MOST_NAMES = 10_000
_one_at_a_time = Lock()
"""torch has one list of safe classes for all threads."""
log = logging.getLogger(__name__)
SAFE, _PICKLE = ".safetensors", ".bin"
_SUFFIXES = (SAFE, _PICKLE, ".pt", ".pth")
_DEEP = 3
_MANY = 100_000
_SHOWN = 3
_TRAINING = re.compile(
    r"optimizer.*|scheduler.*|scaler.*|rng_state.*|training_args.*|random_states.*|sampler.*|custom_checkpoint.*"
    r"|trainer_.*|ema_.*|dataloader.*"
)
_VARIANT = r"(\.(fp\d+|bf16|b?float\d+|int\d+|(non_)?ema|\d+)|-\d+-of-\d+)*\.(safetensors|bin|pt|pth)"
_SAME_MODEL = re.compile(rf"(model|pytorch_model|consolidated){_VARIANT}")
_SAME_ADAPTER = re.compile(rf"adapter_model{_VARIANT}")
_NOT_THE_MODEL = re.compile(
    r"\..*|checkpoint-.*|runs|logs|wandb|mlruns|lightning_logs|global_step.*|optimizer.*|pytorch_model_fsdp.*"
    r"|distributed_checkpoint.*|onnx|openvino|coreml|tflite|gguf|original|eval.*|__pycache__"
)
"""Folders of training state, logs, exports, and original files before a conversion."""
Getter = Callable[[str], torch.Tensor]


# PyTorch's own files


def load_pickle(file: Path) -> dict[str, torch.Tensor]:
    """Reads the tensors of a PyTorch file, memory-mapped if possible.

    Raises:
        CheckpointError: if it holds anything else, which is never run.
    """
    content = load_anything(file)
    if not (isinstance(content, Mapping) and holds_only_tensors(content)):
        raise CheckpointError(f"{file} should hold tensors by name, as a model's state dict does")
    return plain_tensors(file, content)


def holds_only_tensors(content: Mapping[Any, Any]) -> bool:
    return all(isinstance(name, str) and isinstance(x, torch.Tensor) for name, x in content.items())


class Inert:
    """Stands for a class or function, which is neither imported nor called."""

    def __init__(self, *given: Any, **named: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _InertDict(Inert):
    def __new__(cls, *given: Any) -> Any:
        return OrderedDict()


def load_anything(file: Path, inert: bool = False) -> Any:
    """Reads a PyTorch file of tensors, numbers, texts, and collections of these.

    `argparse.Namespace`, paths and numpy's numbers are accepted too, since trainers save them.

    Args:
        inert: turn anything else into `Inert`.

    Raises:
        CheckpointError: if it holds anything else, which is never run.
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
    """Tells by its first bytes and its contents whether PyTorch wrote tensors to `file`."""
    with open_regular(file) as handle:
        begin = handle.read(len(_LEGACY))
        if not begin.startswith(_ZIP):
            return begin == _LEGACY
        try:
            return any("/data/" in name for name in zipfile.ZipFile(handle).namelist())
        except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
            return False


def _check_stored(file: Path) -> None:
    """PyTorch never compresses; compressed data may expand a thousandfold."""
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


# The files of a folder


class WeightFiles(Weights):
    def __init__(
        self,
        header: Mapping[str, TensorInfo],
        places: Mapping[str, tuple[Path, str]],
        stamps: Mapping[Path, Stamp],
        opener: Callable[[Path], Getter] | None = None,
        part: str = "",
    ) -> None:
        """Args:
        header: shape and dtype by name.
        places: the file and the tensor's name in it, by name.
        stamps: the files' stamps from before reading.
        opener: opens a file.
        part: the state dict's place in its file; empty for the whole file.
        """
        self._header = dict(sorted(header.items()))
        self._places, self._stamps, self._part = places, stamps, part
        self._opened = _Opened(opener or _open)
        self._found: Findings | None = None

    @classmethod
    def open(cls, folder: Path, stem: str = "model") -> WeightFiles:
        """Reads the headers of `<stem>.safetensors`, its shards, or the PyTorch equivalents.

        Raises:
            CheckpointError: if files are missing or broken.
        """
        found = _located(folder, stem)
        stamps = {found: stamp(found)}
        weight_map = _weight_map(found) if found.suffix == ".json" else {}
        header: dict[str, TensorInfo] = {}
        places: dict[str, tuple[Path, str]] = {}
        for file in [folder / shard for shard in sorted(set(weight_map.values()))] or [found]:
            stamps[file] = stamp(file)
            infos = read_header(file)
            if twice := header.keys() & infos.keys():
                raise CheckpointError(f"{file}: the tensor {min(twice)!r} is in another shard too")
            header |= infos
            places |= {name: (file, name) for name in infos}
        for name, shard in weight_map.items():  # or a half-copied run would pass for a whole one
            if places.get(name) != (folder / shard, name):
                raise CheckpointError(
                    f"{found} says that {shard} holds {name!r}; it does not. Copy the run again."
                )
        return cls(header, places, stamps)

    @classmethod
    def together(cls, parts: Mapping[str, WeightFiles]) -> WeightFiles:
        named = [(f"{prefix}{name}", part, name) for prefix, part in parts.items() for name in part.header]
        header = {whole: part.header[name] for whole, part, name in named}
        places = {whole: part._places[name] for whole, part, name in named}
        return cls(header, places, {file: at for part in parts.values() for file, at in part._stamps.items()})

    @property
    def header(self) -> Mapping[str, TensorInfo]:
        return self._header

    @cached_property
    def files(self) -> list[Path]:
        return list(dict.fromkeys(file for file, _ in self._places.values()))

    def tensor(self, name: str) -> torch.Tensor:
        return self._opened.tensor(*self._places[name])

    @property
    def fingerprint(self) -> str:
        return self._findings().fingerprint

    @property
    def not_finite(self) -> Mapping[str, int]:
        return self._findings().not_finite

    def changed_files(self) -> list[Path]:
        return [file for file, before in self._stamps.items() if stamp(file) != before]

    @property
    def names_twins(self) -> bool:
        return any(file.suffix != SAFE for file in self.files)

    def _findings(self) -> Findings:
        """No cached_property: before Python 3.12 it makes threads wait for each other."""
        if self._found is None:
            if self.changed_files():  # they are read by their old headers
                self._found = self._read()
            else:
                self._found = fingerprints.findings(self.files, self._read, self._part)
        return self._found

    def _read(self) -> Findings:
        places: dict[Path, Places] = {}

        def blocks(name: str) -> Iterator[Block]:
            file, inner = self._places[name]
            if file.suffix != SAFE:
                return fingerprints.tensor_blocks(self.tensor(name))
            if file not in places:
                places[file] = fingerprints.places_in(file)
            return fingerprints.stored_blocks(file, places[file], inner)

        return fingerprints.examine(self.header, blocks)


def has_weights(folder: Path, stem: str = "model") -> bool:
    return any(os.path.lexists(folder / name) for name in _names(stem))


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Shape and dtype of a file's tensors, by name.

    Raises:
        CheckpointError: if the file cannot be read.
    """
    if file.suffix == _PICKLE:
        return {name: TensorInfo.of(tensor) for name, tensor in load_pickle(file).items()}
    open_regular(file).close()
    try:
        with safe_open(file, framework="pt") as handle:
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
            return {name: TensorInfo(tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{file} cannot be read as safetensors ({error}); copy the run again"
        ) from error


def _names(stem: str) -> list[str]:
    """transformers' and peft's names of the file and of an index of shards, in both formats."""
    pickled = f"{'pytorch_model' if stem == 'model' else stem}{_PICKLE}"
    return [name for file in (f"{stem}{SAFE}", pickled) for name in (file, f"{file}.index.json")]


def _located(folder: Path, stem: str) -> Path:
    """The file of the weights, or the index of their shards."""
    names = _names(stem)
    if there := [folder / name for name in names if os.path.lexists(folder / name)]:
        return there[0]
    safe, _, pickled, _ = names
    message = f"{folder} holds no weights: no {safe} and no {pickled}, in one file or in shards"
    variants = sorted(
        file.name
        for name in (safe, pickled, f"diffusion_pytorch_{safe}")
        for file in folder.glob(f"{Path(name).stem}.*{Path(name).suffix}")
    )
    if variants:
        message += (
            f", but the variant {variants[0]}: call it {safe if variants[0].endswith(SAFE) else pickled}"
        )
    raise CheckpointError(message)


def _weight_map(index: Path) -> dict[str, str]:
    weight_map: Any = read_json(index).get("weight_map")
    shards = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not shards or not all(isinstance(shard, str) for shard in shards):
        raise CheckpointError(f"{index} has no valid weight_map; copy the run again")
    for shard in sorted(set(shards)):
        if shard in ("", ".", "..") or Path(shard).name != shard:
            raise CheckpointError(f"{index} names {shard!r}, which is not a file of its own folder")
        if not os.path.lexists(index.parent / shard):
            raise CheckpointError(f"{index} names the shard {shard}, which is missing; copy the run again")
    return weight_map


class _Opened:
    """Keeps the last file open, since opening can take as long as merging.

    It is reopened now and then, since mapped pages that were read count as the process's memory.
    """

    _MOST = 32 << 20
    """The file is reopened after this many bytes."""

    def __init__(self, opener: Callable[[Path], Getter]) -> None:
        self._opener = opener
        self._file: Path | None = None
        self._getter: Getter | None = None
        self._bytes = 0
        self._lock = Lock()  # another thread reads ahead

    def __reduce__(self) -> tuple[type[_Opened], tuple[Callable[[Path], Any]]]:
        """Another process opens the files itself."""
        return _Opened, (self._opener,)

    def tensor(self, file: Path, name: str) -> torch.Tensor:
        with self._lock:
            if self._getter is None or file != self._file or self._bytes > self._MOST:
                self._getter = None
                self._getter = self._opener(file)
                self._file, self._bytes = file, 0
            tensor = self._getter(name)
            self._bytes += tensor.nbytes
            stopwatch.read += tensor.nbytes
        return tensor


def _open(file: Path) -> Getter:
    if file.suffix == _PICKLE:
        return load_pickle(file).__getitem__
    try:
        open_regular(file).close()
        getter: Getter = safe_open(file, framework="pt").get_tensor
    except (CheckpointError, SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read any more ({error})") from error
    return getter


# Other weights in a run's folder


def check_whole(folder: Path, merged: Collection[Path]) -> None:
    """Refuses a run with further weights that may be part of the model.

    Args:
        merged: the files of the merged weights.

    Raises:
        CheckpointError: if there are any.
    """
    folders = {file.parent for file in merged}
    same = _SAME_ADAPTER if any(_SAME_ADAPTER.fullmatch(file.name) for file in merged) else _SAME_MODEL
    parts = [
        file.relative_to(folder).as_posix()
        for file in _weight_files(folder)
        if file not in merged
        and not (file.parent in folders and same.fullmatch(file.name))
        and not is_of_training(file)
        and (file.suffix == SAFE or holds_tensors(file))
    ]
    if parts:
        raise CheckpointError(
            f"it holds weights besides its model's, which would be neither merged nor saved: "
            f"{first_of(parts, _SHOWN)}. Models of several parts cannot be merged yet; where "
            "these are no part of the model, move them out of the run's folder"
        )


def _weight_files(folder: Path) -> Iterator[Path]:
    waiting, seen = [(folder, 0)], 0
    while waiting:
        place, depth = waiting.pop()
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            seen += 1
            if seen > _MANY:
                log.warning("%s holds more than %d files; only these were looked at", folder, _MANY)
                return
            if entry.is_file():
                if entry.name.endswith(_SUFFIXES):
                    yield Path(entry.path)
            elif entry.is_dir(follow_symlinks=False) and depth < _DEEP and not _is_apart(Path(entry.path)):
                waiting.append((Path(entry.path), depth + 1))


def _is_apart(folder: Path) -> bool:
    """Tells whether the subfolder is no part of the model: by name, or as a whole model."""
    if _NOT_THE_MODEL.fullmatch(folder.name) or (folder / "adapter_config.json").exists():
        return True
    config = folder / CONFIG_NAME
    return config.exists() and "model_type" in read_json(config)


def is_of_training(file: Path) -> bool:
    return _TRAINING.fullmatch(file.name) is not None
