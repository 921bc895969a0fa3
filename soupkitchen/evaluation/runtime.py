"""Options of the evaluation, and of device, precision, batches and memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import convert_file_size_to_int, get_max_memory, patch_environment, set_seed

from soupkitchen.errors import ConfigError
from soupkitchen.evaluation.confidence import ConfidentStopping
from soupkitchen.evaluation.scoring import EarlyStopping
from soupkitchen.models import Loading
from soupkitchen.options import check_fields
from soupkitchen.options.kinds import AtLeast1, DeviceMap, DeviceSizes, Effort, Seed, Stopping, whole
from soupkitchen.store.evaluations import EvaluationCache

_DEVICE = "ACCELERATE_TORCH_DEVICE"
_PRECISION = {"auto": "no", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class EvaluationOptions:
    """Options of scoring; only a confidence can change results.

    Attributes:
        effort: which defaults `conf/` and `cook` give to `early_stopping` and to a search's `ranking` and
            `accept`; says nothing by itself.
        early_stopping: true or "exact": stop scoring a candidate once the rest cannot change the decision.
            ``{"confidence": p}``: also once that is this sure; kept candidates are still scored in full.
            False: score everything.
        cache: a folder of evaluations for later runs, or None.

    Raises:
        ConfigError: if an option has the wrong type.
    """

    effort: Effort = "exact"
    early_stopping: Stopping = True
    cache: str | None = None

    def __post_init__(self) -> None:
        check_fields(self, "evaluation")

    @property
    def stopping(self) -> EarlyStopping | None:
        if self.early_stopping is False:
            return None
        if isinstance(self.early_stopping, Mapping):
            return ConfidentStopping(self.early_stopping["confidence"])
        return EarlyStopping()

    def open_cache(self) -> EvaluationCache | None:
        return EvaluationCache(Path(self.cache).expanduser()) if self.cache else None


@dataclass(frozen=True)
class Runtime:
    """Options of device, precision, batches and memory; `conf/runtime/default.yaml` describes them.

    Attributes:
        dtype: of accelerate's mixed precision, which leaves weights alone; "auto" for none.
        device_map: any value that accelerate takes.
        max_memory: for model and merge states by device; further states go to files in `offload_folder`.
        compile: once for each shape of batch and each new model.
        profile: also synchronizes devices between parts.

    Raises:
        ConfigError: if an option has the wrong type or is out of range.
    """

    device: str = "auto"
    dtype: Literal["auto", "bfloat16", "float16"] = "auto"
    batch_size: AtLeast1 = 64
    workers: Annotated[int, whole(0, 1024)] = 0
    seed: Seed = 0
    threads: Annotated[int, whole(1, 4096)] | None = None
    device_map: DeviceMap | None = None
    max_memory: DeviceSizes | None = None
    offload_folder: str | None = None
    compile: bool = False
    profile: bool = False
    trust_remote_code: bool = False

    def __post_init__(self) -> None:
        check_fields(self, "runtime")
        if self.offload_folder is not None and not Path(self.offload_folder).expanduser().is_dir():
            raise ConfigError(f"runtime.offload_folder={self.offload_folder} is no folder")
        self.memory()

    def loading(self, dtype: torch.dtype | None = None) -> Loading:
        return Loading(dtype, self.device_map, self.memory(), self.trust_remote_code)

    def offload(self) -> Path | None:
        return None if self.offload_folder is None else Path(self.offload_folder).expanduser()

    def memory(self) -> dict[int | str, int] | None:
        """`max_memory` in bytes.

        Raises:
            ConfigError: if a size cannot be read.
        """
        if self.max_memory is None:
            return None
        try:
            given = {_device_key(device): size for device, size in self.max_memory.items()}
            return {device: convert_file_size_to_int(size) for device, size in given.items()}
        except (ValueError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"runtime.max_memory={self.max_memory} should say how much by device, as {{cpu: 8GiB}} "
                f"({error})"
            ) from error

    def state_budget(self, taken: Mapping[torch.device, int], device: torch.device) -> tuple[int, int]:
        """Bytes for merge states, on `device` and on the host; `taken` are the live model's by device."""
        on_device, on_host = self._memory_of(device)
        if self.max_memory is None:  # the model is not in free memory; the rest of the work needs some
            return int(0.8 * on_device), int(0.8 * on_host)
        of_model = sum(size for device, size in taken.items() if device.type == "cpu")
        beside = sum(size for other, size in taken.items() if _same_device(other, device))
        batches = self.batch_budget(device)
        return max(on_device - beside - batches[0], 0), max(on_host - of_model - batches[1], 0)

    def batch_budget(self, device: torch.device) -> tuple[int, int]:
        """Bytes for stored batches, on the device and on the host."""
        on_device, on_host = self._memory_of(device)
        return on_device // 32, on_host // 32

    def _memory_of(self, device: torch.device) -> tuple[int, int]:
        memory: Mapping[int | str, int] = self.memory() or get_max_memory()
        on_device = 0 if device.type == "cpu" else memory.get(device.index or 0, memory.get(device.type, 0))
        return on_device, memory.get("cpu", 0)

    def accelerator(self) -> Accelerator:
        """Makes this process's accelerator; sets seeds and threads.

        Raises:
            ConfigError: if the device is missing, or cannot compute in `dtype`.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        set_seed(self.seed)
        AcceleratorState._reset_state(reset_partial_state=True)  # a sweep's last job may have set others
        chosen = {} if self.device == "auto" else {_DEVICE: str(self._existing_device())}
        with patch_environment(**chosen):  # the only way to give accelerate a device
            accelerator = Accelerator(
                cpu=self.device == "cpu",
                mixed_precision=_PRECISION[self.dtype],
                dynamo_backend="inductor" if self.compile else "no",
            )
        if self.dtype == "float16" and accelerator.device.type == "cpu":
            raise ConfigError(
                "runtime.dtype=float16 needs a GPU (accelerate has none of it on CPUs); try bfloat16"
            )
        if self.compile:
            _check_compiler(accelerator.device)
        return accelerator

    def _existing_device(self) -> torch.device:
        try:
            device = torch.device(self.device)
            torch.ones(1, device=device).item()  # fails for "meta"
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"runtime.device={self.device} cannot be used here ({reason}); "
                "runtime.device=auto takes what there is"
            ) from error
        return device


def _check_compiler(device: torch.device) -> None:
    """Raises:
    ConfigError: if a tiny model cannot be compiled.
    """
    try:
        torch.compile(torch.nn.Softplus())(torch.ones(2, device=device))
    except Exception as error:  # compilers raise anything
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise ConfigError(
            f"runtime.compile=true cannot be used here ({told[0]}): it needs a C++ compiler on a CPU, Triton "
            "on a GPU"
        ) from error


def _device_key(device: int | str) -> int | str:
    return int(device) if str(device).isdecimal() else str(device)


def _same_device(one: torch.device, other: torch.device) -> bool:
    return one.type == other.type and (one.index or 0) == (other.index or 0)
