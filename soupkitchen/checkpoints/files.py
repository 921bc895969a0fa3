"""Weight files: safetensors, or PyTorch's own without any code, in one file or in shards.

Opening a folder reads headers only; tensors are memory-mapped, and copied by nobody until
somebody computes with them. Nothing that a file says is believed before it is checked: an
index can only name files of its own folder, and a pickle that holds anything but tensors
is refused unopened.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, wraps
from pathlib import Path
from threading import Lock
from typing import Any, TypeVar, cast

import torch
import xxhash
from safetensors import SafetensorError, safe_open

from soupkitchen.checkpoints.content import Block, RawFiles, blocks_of, not_finite
from soupkitchen.checkpoints.fingerprints import Findings, findings
from soupkitchen.checkpoints.pickles import load_pickle
from soupkitchen.checkpoints.strangers import open_regular, read_json
from soupkitchen.errors import CheckpointError
from soupkitchen.stopwatch import stopwatch

Tensors = Iterator[tuple[str, torch.Tensor]]

F = TypeVar("F", bound=Callable[..., Any])

Stamp = tuple[int, int, int] | None
"""Size, time of the last change in ns and inode of a file; None where there is none."""

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""torch's dtypes by safetensors' spelling."""
SPELLINGS = {dtype: spelling for spelling, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class TensorInfo:
    """What a file's header says of a tensor: `dtype` in safetensors' spelling (``F32``)."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """torch's name of the dtype; None for one that cannot be merged."""
        return _DTYPES.get(self.dtype)

    @property
    def is_floating_point(self) -> bool:
        return self.torch_dtype is not None and self.torch_dtype.is_floating_point

    @property
    def elements(self) -> int:
        return torch.Size(self.shape).numel()

    @property
    def nbytes(self) -> int:
        """Bytes that it takes; 0 of a dtype that cannot be merged."""
        return 0 if self.torch_dtype is None else self.elements * self.torch_dtype.itemsize


class Weights(ABC):
    """Named tensors that can be had one at a time, wherever they come from."""

    @property
    @abstractmethod
    def header(self) -> Mapping[str, TensorInfo]:
        """Shape and dtype by name, sorted by name."""

    @abstractmethod
    def tensor(self, name: str) -> torch.Tensor:
        """The tensor called `name`."""

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """A digest of all tensors: the same for the same weights."""

    @property
    @abstractmethod
    def not_finite(self) -> Mapping[str, int]:
        """How many values in the run's own files are NaN or infinite, by tensor that has such."""

    @abstractmethod
    def changed_files(self) -> list[Path]:
        """The files that are not what they were when they were opened: by size, time and inode."""

    def tensors(self) -> Tensors:
        """Yields (name, tensor) for every tensor."""
        for name in self.header:
            yield name, self.tensor(name)

    @property
    def names_twins(self) -> bool:
        """Whether the format names tied tensors twice."""
        return False

    def is_in_files(self, name: str) -> bool:
        """Whether the tensor is read as it is, and not computed."""
        return True

    def leaves(self, name: str) -> bool:
        """Whether the tensor is known, without looking, to be that of the base model."""
        return False

    def task_vector(self, name: str, device: torch.device) -> torch.Tensor | None:
        """What fine-tuning changed, float32, where that is known by itself and exactly; else None."""
        return None

    def exact(self, name: str, device: torch.device) -> torch.Tensor:
        """The tensor, not rounded to its dtype where it is computed and not read."""
        return self.tensor(name)


class WeightFiles(Weights):
    """The weight files of one folder.

    Attributes:
        files: for each file, the names of the tensors that it holds.
    """

    def __init__(
        self,
        header: Mapping[str, TensorInfo],
        files: Mapping[Path, tuple[str, ...]],
        stamps: Mapping[Path, Stamp],
    ) -> None:
        """`stamps` are those of all files that were read, taken before that."""
        self._header = header
        self.files = files
        self._stamps = stamps
        self._part, self._handle = "", _handle
        self._in_file: Mapping[str, str] = {}
        self._found: Findings | None = None

    @classmethod
    def open(cls, folder: Path, stem: str = "model") -> WeightFiles:
        """Reads the headers of `<stem>.safetensors` in `folder`, its shards, or their PyTorch kin.

        Raises:
            CheckpointError: where there are none, or broken ones.
        """
        files: dict[Path, tuple[str, ...]] = {}
        header: dict[str, TensorInfo] = {}
        index = _index(folder, stem)
        stamps = {index: stamp(index)} if index else {}
        for file in _shards(index) if index else [_single(folder, stem)]:
            stamps[file] = stamp(file)
            infos = read_header(file)
            if twice := header.keys() & infos.keys():
                raise CheckpointError(f"{file}: the tensor {min(twice)!r} is in another shard too")
            header |= infos
            files[file] = tuple(infos)
        if index:
            _check_index(index, files)
        return cls(dict(sorted(header.items())), files, stamps)

    @classmethod
    def together(cls, parts: Mapping[str, WeightFiles]) -> WeightFiles:
        """The weight files of several folders as those of one model.

        Args:
            parts: by what comes before the names of their tensors.
        """
        header: dict[str, TensorInfo] = {}
        files: dict[Path, tuple[str, ...]] = {}
        stamps: dict[Path, Stamp] = {}
        in_file: dict[str, str] = {}
        for prefix, part in parts.items():
            header |= {f"{prefix}{name}": info for name, info in part.header.items()}
            files |= {file: tuple(f"{prefix}{name}" for name in names) for file, names in part.files.items()}
            in_file |= {f"{prefix}{name}": name for name in part.header}
            stamps |= part._stamps
        whole = cls(dict(sorted(header.items())), files, stamps)
        whole._in_file = in_file
        return whole

    @property
    def header(self) -> Mapping[str, TensorInfo]:
        return self._header

    def tensor(self, name: str) -> torch.Tensor:
        """The tensor called `name`, memory-mapped."""
        return self._opened.tensor(self._file_of[name], self._in_file.get(name, name))

    @property
    def fingerprint(self) -> str:
        return self._findings().fingerprint

    @property
    def not_finite(self) -> Mapping[str, int]:
        return self._findings().not_finite

    def changed_files(self) -> list[Path]:
        return [file for file, before in self._stamps.items() if stamp(file) != before]

    def _findings(self) -> Findings:
        """What takes a look at every byte, now or before.

        It is no cached_property: before Python 3.12 one has threads wait for each other.
        """
        if self._found is None:
            # of files that are others by now, the header is still that of before
            self._found = (
                self._read() if self.changed_files() else findings(self.files, self._read, self._part)
            )
        return self._found

    def _read(self) -> Findings:
        """Reads every byte, in one pass; whoever has it find anything else raises `fingerprints._FORMAT`."""
        digest, strange = xxhash.xxh3_128(), {}
        with RawFiles() as raw:
            for name, info in self.header.items():
                digest.update(f"{name} {info.dtype} {info.shape}\0".encode())
                number = 0
                for block in self._blocks(name, raw):
                    digest.update(block)
                    stopwatch.read += block.nbytes
                    if info.is_floating_point:
                        assert info.torch_dtype is not None
                        number += not_finite(block, info.torch_dtype)
                if number:
                    strange[name] = number
        return Findings(digest.hexdigest(), strange)

    def _blocks(self, name: str, raw: RawFiles) -> Iterator[Block]:
        file = self._file_of[name]
        if file.suffix != _SAFE:
            return blocks_of(self.tensor(name))
        return raw.blocks(file, self._in_file.get(name, name))

    @property
    def names_twins(self) -> bool:
        return any(file.suffix != _SAFE for file in self.files)

    @cached_property
    def _file_of(self) -> dict[str, Path]:
        return {name: file for file, names in self.files.items() for name in names}

    @cached_property
    def _opened(self) -> _Opened:
        return _Opened(self._handle)


def stamp(file: Path) -> Stamp:
    """What tells a file from another that takes its place."""
    try:
        told = file.stat()
    except OSError:
        return None
    return told.st_size, told.st_mtime_ns, told.st_ino


def cached_by(*names: str) -> Callable[[F], F]:
    """Keeps what a function finds in its first argument, a folder, while the files called so are the same."""

    def decorated(function: F) -> F:
        @cache
        def known(stamps: tuple[Stamp, ...], folder: Path, *others: Hashable) -> Any:
            return function(folder, *others)

        @wraps(function)
        def found(folder: Path, *others: Hashable) -> Any:
            return known(tuple(stamp(folder / name) for name in names), folder, *others)

        return cast("F", found)

    return decorated


def has_weights(folder: Path, stem: str = "model") -> bool:
    """Whether `folder` holds weight files of that stem."""
    names = [_names(stem, suffix) for suffix in (_SAFE, _PICKLE)]
    return any(os.path.lexists(folder / name) for pair in names for name in pair)


_SAFE, _PICKLE = ".safetensors", ".bin"


def _names(stem: str, suffix: str) -> tuple[str, str]:
    """transformers' and peft's names of the file and of an index of shards."""
    if suffix == _PICKLE and stem == "model":
        stem = "pytorch_model"
    return f"{stem}{suffix}", f"{stem}{suffix}.index.json"


def _index(folder: Path, stem: str) -> Path | None:
    """The index of shards, where there is no single file."""
    for suffix in (_SAFE, _PICKLE):
        single, index = (folder / name for name in _names(stem, suffix))
        if os.path.lexists(single):
            return None
        if os.path.lexists(index):
            return index
    return None


def _single(folder: Path, stem: str) -> Path:
    for suffix in (_SAFE, _PICKLE):
        file = folder / _names(stem, suffix)[0]
        if os.path.lexists(file):
            return file
    safe, _ = _names(stem, _SAFE)
    pickled, _ = _names(stem, _PICKLE)
    told = f"{folder} holds no weights: no {safe} and no {pickled}, in one file or in shards"
    variants = sorted(
        file.name
        for name in (safe, pickled, f"diffusion_pytorch_{safe}")
        for file in folder.glob(f"{Path(name).stem}.*{Path(name).suffix}")
    )
    if variants:
        told += f", but the variant {variants[0]}: call it {safe if variants[0].endswith(_SAFE) else pickled}"
    raise CheckpointError(told)


def _shards(index: Path) -> list[Path]:
    shards = sorted(set(_weight_map(index).values()))
    for shard in shards:
        if shard in ("", ".", "..") or Path(shard).name != shard:
            raise CheckpointError(f"{index} names {shard!r}, which is not a file of its own folder")
        if not os.path.lexists(index.parent / shard):
            raise CheckpointError(f"{index} names the shard {shard}, which is missing; copy the run again")
    return [index.parent / shard for shard in shards]


def _weight_map(index: Path) -> dict[str, str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(v, str) for v in weight_map.values()):
        raise CheckpointError(f"{index} has no valid weight_map; copy the run again")
    return weight_map


def _check_index(index: Path, files: Mapping[Path, tuple[str, ...]]) -> None:
    """An index and its shards must agree, or a half-copied run would pass for a whole one."""
    for name, shard in _weight_map(index).items():
        if name not in files[index.parent / shard]:
            raise CheckpointError(
                f"{index} says that {shard} holds {name!r}; it does not. Copy the run again."
            )


def infos_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, TensorInfo]:
    """What a header would say of tensors that were loaded."""
    return {
        name: TensorInfo(tuple(x.shape), SPELLINGS.get(x.dtype, str(x.dtype))) for name, x in tensors.items()
    }


def read_header(file: Path) -> dict[str, TensorInfo]:
    """What the tensors in a file are, by name.

    Raises:
        CheckpointError: where it cannot be read.
    """
    if file.suffix == _PICKLE:
        return infos_of(load_pickle(file))
    open_regular(file).close()
    try:
        with safe_open(file, framework="pt") as handle:
            slices = {name: handle.get_slice(name) for name in handle.keys()}  # noqa: SIM118
            return {name: TensorInfo(tuple(s.get_shape()), s.get_dtype()) for name, s in slices.items()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{file} cannot be read as safetensors ({error}); copy the run again"
        ) from error


class _Opened:
    """The file that was read last, kept open: opening it for each tensor can take as long as merging.

    It is opened anew now and then, since pages that were looked at count as the process's
    memory for as long as they are mapped.
    """

    _MOST = 32 << 20
    """Bytes of tensors handed out before the file is opened anew."""

    def __init__(self, opener: Callable[[Path], Any]) -> None:
        """`opener` gives what gives the tensors of a file by name."""
        self._opener = opener
        self._file: Path | None = None
        self._handle: Any = None
        self._bytes = 0
        self._lock = Lock()  # what is read ahead is read by another thread

    def __reduce__(self) -> tuple[type[_Opened], tuple[Callable[[Path], Any]]]:
        """In another process files are opened there."""
        return _Opened, (self._opener,)

    def tensor(self, file: Path, name: str) -> torch.Tensor:
        with self._lock:
            if file != self._file or self._bytes > self._MOST:
                self._handle = None
                self._handle = self._opener(file)
                self._file, self._bytes = file, 0
            tensor: torch.Tensor = self._handle(name)
            self._bytes += tensor.nbytes
            stopwatch.read += tensor.nbytes
        return tensor


def _handle(file: Path) -> Any:
    """What gives the tensors of `file` by name."""
    if file.suffix == _PICKLE:
        return load_pickle(file).__getitem__
    try:
        open_regular(file).close()
        return safe_open(file, framework="pt").get_tensor
    except (CheckpointError, SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} cannot be read any more ({error})") from error
