"""Weight files: safetensors, or PyTorch's own without any code, in one file or in shards.

Opening a folder reads headers only; tensors are memory-mapped. An index can only name files of its own
folder, and a pickle that holds anything but tensors is refused.

A folder may hold other weights. A Trainer leaves the state of its optimizer beside a model, an export leaves
the same weights in another format: neither is missed. But a head in a folder below, trained apart, is part of
the fine-tuned model.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from soupkitchen.checkpoints import fingerprints
from soupkitchen.checkpoints.fingerprints import Block, Findings, Places
from soupkitchen.checkpoints.folders import CONFIG_NAME, Stamp, open_regular, read_json, stamp
from soupkitchen.checkpoints.pickles import holds_tensors, load_pickle
from soupkitchen.checkpoints.weights import TensorInfo, Weights
from soupkitchen.errors import CheckpointError, first_of
from soupkitchen.process import stopwatch

log = logging.getLogger(__name__)

SAFE, _PICKLE = ".safetensors", ".bin"
_SUFFIXES = (SAFE, _PICKLE, ".pt", ".pth")
_DEEP = 3
"""Levels of folders that are looked at."""
_MANY = 100_000
"""Entries that are looked at."""
_SHOWN = 3

_TRAINING = re.compile(
    r"optimizer.*|scheduler.*|scaler.*|rng_state.*|training_args.*|random_states.*|sampler.*|custom_checkpoint.*"
    r"|trainer_.*|ema_.*|dataloader.*"
)
"""Files that training resumes from."""
_VARIANT = r"(\.(fp\d+|bf16|b?float\d+|int\d+|(non_)?ema|\d+)|-\d+-of-\d+)*\.(safetensors|bin|pt|pth)"
_SAME_MODEL = re.compile(rf"(model|pytorch_model|consolidated){_VARIANT}")
_SAME_ADAPTER = re.compile(rf"adapter_model{_VARIANT}")
"""The same weights in transformers' other format, in another precision, or as their makers published them."""
_NOT_THE_MODEL = re.compile(
    r"\..*|checkpoint-.*|runs|logs|wandb|mlruns|lightning_logs|global_step.*|optimizer.*|pytorch_model_fsdp.*"
    r"|distributed_checkpoint.*|onnx|openvino|coreml|tflite|gguf|original|eval.*|__pycache__"
)
"""Folders of training's state and logs, of exports, and of the files that a model was converted from."""

Getter = Callable[[str], torch.Tensor]


class WeightFiles(Weights):
    """The weight files of one model."""

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
        places: by name, the file and the tensor's name there.
        stamps: of all files that were read, taken before that.
        opener: opens one of the files.
        part: where in its file the state dict is; empty if it is the whole file.
        """
        self._header = dict(sorted(header.items()))
        self._places, self._stamps, self._part = places, stamps, part
        self._opened = _Opened(opener or _open)
        self._found: Findings | None = None

    @classmethod
    def open(cls, folder: Path, stem: str = "model") -> WeightFiles:
        """Reads the headers of `<stem>.safetensors` in `folder`, its shards, or their PyTorch kin.

        Raises:
            CheckpointError: if there are none, or broken ones.
        """
        index = _index(folder, stem)
        weight_map = _weight_map(index) if index else {}
        stamps = {index: stamp(index)} if index else {}
        header: dict[str, TensorInfo] = {}
        places: dict[str, tuple[Path, str]] = {}
        files = [folder / shard for shard in sorted(set(weight_map.values()))]
        for file in files if index else [_single(folder, stem)]:
            stamps[file] = stamp(file)
            infos = read_header(file)
            if twice := header.keys() & infos.keys():
                raise CheckpointError(f"{file}: the tensor {min(twice)!r} is in another shard too")
            header |= infos
            places |= {name: (file, name) for name in infos}
        for name, shard in weight_map.items():  # or a half-copied run would pass for a whole one
            if places.get(name) != (folder / shard, name):
                raise CheckpointError(
                    f"{index} says that {shard} holds {name!r}; it does not. Copy the run again."
                )
        return cls(header, places, stamps)

    @classmethod
    def together(cls, parts: Mapping[str, WeightFiles]) -> WeightFiles:
        """The weight files of several folders as those of one model; `parts` are by prefix of names."""
        header: dict[str, TensorInfo] = {}
        places: dict[str, tuple[Path, str]] = {}
        stamps: dict[Path, Stamp] = {}
        for prefix, part in parts.items():
            header |= {f"{prefix}{name}": info for name, info in part.header.items()}
            places |= {f"{prefix}{name}": place for name, place in part._places.items()}
            stamps |= part._stamps
        return cls(header, places, stamps)

    @property
    def header(self) -> Mapping[str, TensorInfo]:
        return self._header

    @cached_property
    def files(self) -> list[Path]:
        """The files that hold tensors."""
        return list(dict.fromkeys(file for file, _ in self._places.values()))

    def tensor(self, name: str) -> torch.Tensor:
        """Memory-maps the tensor called `name`."""
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
    """Tells whether `folder` holds weight files of that stem."""
    names = [_names(stem, suffix) for suffix in (SAFE, _PICKLE)]
    return any(os.path.lexists(folder / name) for pair in names for name in pair)


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Shape and dtype of the tensors in a file, by name.

    Raises:
        CheckpointError: if it cannot be read.
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


def _names(stem: str, suffix: str) -> tuple[str, str]:
    """transformers' and peft's names of the file and of an index of shards."""
    if suffix == _PICKLE and stem == "model":
        stem = "pytorch_model"
    return f"{stem}{suffix}", f"{stem}{suffix}.index.json"


def _index(folder: Path, stem: str) -> Path | None:
    """The index of shards; None if there is a single file, or nothing."""
    for suffix in (SAFE, _PICKLE):
        single, index = (folder / name for name in _names(stem, suffix))
        if os.path.lexists(single):
            return None
        if os.path.lexists(index):
            return index
    return None


def _single(folder: Path, stem: str) -> Path:
    safe, pickled = (_names(stem, suffix)[0] for suffix in (SAFE, _PICKLE))
    for name in (safe, pickled):
        if os.path.lexists(folder / name):
            return folder / name
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
    """The name of the shard by name of tensor."""
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index} has no valid weight_map; copy the run again")
    for shard in sorted(set(weight_map.values())):
        if shard in ("", ".", "..") or Path(shard).name != shard:
            raise CheckpointError(f"{index} names {shard!r}, which is not a file of its own folder")
        if not os.path.lexists(index.parent / shard):
            raise CheckpointError(f"{index} names the shard {shard}, which is missing; copy the run again")
    return weight_map


class _Opened:
    """The file that was read last, kept open: opening it for each tensor can take as long as merging.

    It is opened anew now and then, since pages that were looked at count as the process's
    memory for as long as they are mapped.
    """

    _MOST = 32 << 20
    """Bytes of tensors handed out before the file is opened anew."""

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
    """Refuses a run that holds other weights than those that are merged, if they may be part of the model.

    Args:
        folder: the run's.
        merged: the files of its weights.

    Raises:
        CheckpointError: naming them.
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
    """Yields the files below `folder` with suffixes of weights."""
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
    """Tells whether the subfolder is no part of the model: by its name, or as it is a model of its own."""
    if _NOT_THE_MODEL.fullmatch(folder.name) or (folder / "adapter_config.json").exists():
        return True
    config = folder / CONFIG_NAME
    return config.exists() and "model_type" in read_json(config)


def is_of_training(file: Path) -> bool:
    """Tells whether training resumes from the file, by its name."""
    return _TRAINING.fullmatch(file.name) is not None
