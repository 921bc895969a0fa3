"""Where and how the work runs: device, arithmetic of the forward pass, batches."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed

from soupkitchen.errors import ConfigError

_DEVICE = "ACCELERATE_TORCH_DEVICE"
_PRECISION = {"auto": "no", "bfloat16": "bf16", "float16": "fp16"}


@dataclass(frozen=True)
class Runtime:
    """How to run.

    Attributes:
        device: "auto" for what accelerate finds, or "cpu", "cuda", "cuda:1", "mps".
        dtype: "auto" to compute in the weights' own dtype; "bfloat16" or "float16"
            for accelerate's mixed precision. Weights keep their dtype either way.
        batch_size: examples in a forward pass.
        workers: processes that prepare batches beside the main one.
        seed: for whatever is random.
        threads: CPU threads of torch; None for torch's own choice.

    Raises:
        ConfigError: for a device or dtype that there is not.
    """

    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 64
    workers: int = 0
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in _PRECISION:
            raise ConfigError(f"runtime.dtype={self.dtype}: choose from {', '.join(_PRECISION)}")
        for option, least in (("batch_size", 1), ("workers", 0)):
            value = getattr(self, option)
            if not isinstance(value, int) or value < least:
                raise ConfigError(f"runtime.{option}={value}: should be a whole number of at least {least}")

    def accelerator(self) -> Accelerator:
        """The accelerator of this process. Sets seeds and threads as it is made.

        Raises:
            ConfigError: for a device that is not there, or cannot do what `dtype` asks.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        set_seed(self.seed)
        AcceleratorState._reset_state(reset_partial_state=True)  # a sweep's earlier job may have had another
        os.environ.pop(_DEVICE, None)
        if self.device != "auto":
            os.environ[_DEVICE] = str(self._existing_device())
        accelerator = Accelerator(cpu=self.device == "cpu", mixed_precision=_PRECISION[self.dtype])
        if self.dtype == "float16" and accelerator.device.type == "cpu":
            raise ConfigError(
                "runtime.dtype=float16 needs a GPU (accelerate has none of it on CPUs); try bfloat16"
            )
        return accelerator

    def _existing_device(self) -> torch.device:
        try:
            device = torch.device(self.device)
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(
                f"runtime.device={self.device} cannot be used here ({reason}); "
                "runtime.device=auto takes what there is"
            ) from error
        return device
