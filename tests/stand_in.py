"""An accelerator for tests on machines without one: the host's arithmetic behind a device of its own.

A tensor on the device wraps one on the host. What a GPU would refuse is refused (operands on both
sides, numpy on a device's tensor), and what it would wait for is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "standin"
_aten = torch.ops.aten

_COPIES = {_aten.copy_, _aten._to_copy, _aten._copy_from}
_TAKE_INDICES_FROM_THE_HOST = {_aten.index, _aten.index_put_, _aten.index_put}
_MAY_MIX = _COPIES | _TAKE_INDICES_FROM_THE_HOST
_WAIT = {
    _aten._local_scalar_dense,
    _aten.equal,
    _aten.is_nonzero,
    _aten.nonzero,
    _aten.masked_select,
    _aten._unique2,
    _aten.unique_dim,
}


@dataclass
class Counts:
    """What crossed between host and device.

    Attributes:
        synchronisations: how often the host waited for a number, or for a size.
        to_host: copies to the host, for which it waits, too.
        to_device: copies to the device.
        bytes_to_host: in these.
        bytes_to_device: in these.
    """

    synchronisations: int = 0
    to_host: int = 0
    to_device: int = 0
    bytes_to_host: int = 0
    bytes_to_device: int = 0

    @property
    def waits(self) -> int:
        return self.synchronisations + self.to_host

    def reset(self) -> None:
        for field in fields(self):
            setattr(self, field.name, 0)


class _OnDevice(torch.Tensor):
    """A tensor of the device, which wraps one of the host."""

    host: torch.Tensor

    @staticmethod
    def __new__(cls, host: torch.Tensor) -> _OnDevice:
        tensor: _OnDevice = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            host.shape,
            strides=host.stride(),
            storage_offset=host.storage_offset(),
            dtype=host.dtype,
            device=f"{NAME}:0",
        )
        tensor.host = host
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(f"{func}: the stand-in is not there any more, or not in this thread")

    def storage(self) -> Any:
        return self.host.storage()

    def untyped_storage(self) -> Any:
        return self.host.untyped_storage()

    def data_ptr(self) -> int:
        return self.host.data_ptr()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"can't convert {NAME}:0 device type tensor to numpy")

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def __deepcopy__(self, memo: Any) -> torch.Tensor:
        copied = self.detach().clone()
        return (
            torch.nn.Parameter(copied, self.requires_grad) if isinstance(self, torch.nn.Parameter) else copied
        )

    def __repr__(self, **kwargs: Any) -> str:
        return f"{NAME}({self.host!r})"


class _Mode(TorchDispatchMode):
    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        packet, target = func.overloadpacket, kwargs.get("device")
        operands: list[torch.Tensor] = []
        host = _host_of(operands)
        hosts = _mapped(host, args)
        host_kwargs = {name: _mapped(host, value) for name, value in kwargs.items()}
        ours = [x for x in operands if isinstance(x, _OnDevice)]
        if not ours and not _is_ours(target):
            return func(*args, **kwargs)
        others = [x for x in operands if not isinstance(x, _OnDevice) and x.dim()]
        if ours and others and packet not in _MAY_MIX:
            raise RuntimeError(f"{func}: expected all tensors to be on the same device, {NAME} and cpu")
        by_mask = packet in _TAKE_INDICES_FROM_THE_HOST and any(x.dtype == torch.bool for x in operands[1:])
        self.counts.synchronisations += by_mask or packet in _WAIT
        stays_there = bool(ours) if target is None else _is_ours(target)
        if target is not None:
            host_kwargs["device"] = torch.device("cpu")
        if packet is _aten._to_copy:
            self._count(operands[0], stays_there)
        elif packet is _aten.copy_:
            stays_there = isinstance(operands[0], _OnDevice)
            self._count(operands[1], stays_there)
        known: dict[int, torch.Tensor] = {id(x.host): x for x in ours}
        result = func(*hosts, **host_kwargs)

        def ours_again(x: torch.Tensor) -> torch.Tensor:
            return known[id(x)] if id(x) in known else _OnDevice(x) if stays_there else x

        return _mapped(ours_again, result)

    def _count(self, source: torch.Tensor, to_device: bool) -> None:
        if isinstance(source, _OnDevice) == to_device:
            return
        size = source.numel() * source.element_size()
        if to_device:
            self.counts.to_device += 1
            self.counts.bytes_to_device += size
        else:
            self.counts.to_host += 1
            self.counts.bytes_to_host += size


def _mapped(function: Callable[[torch.Tensor], torch.Tensor], one: Any) -> Any:
    """`one` with the tensors that it is, or has in lists, replaced; torch's for all containers is slow."""
    if isinstance(one, torch.Tensor):
        return function(one)
    return type(one)(_mapped(function, part) for part in one) if isinstance(one, list | tuple) else one


def _host_of(seen: list[torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    def host(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x.host if isinstance(x, _OnDevice) else x

    return host


def _is_ours(device: Any) -> bool:
    return device is not None and torch.device(device).type == NAME


def _module() -> ModuleType:
    """What torch expects of a device's module."""
    module: Any = ModuleType(f"torch.{NAME}")
    module.is_available = lambda: True
    module.is_initialized = lambda: True
    module._is_in_bad_fork = lambda: False
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module.set_device = lambda device: None
    module.synchronize = lambda device=None: None
    module.empty_cache = lambda: None
    module.max_memory_allocated = lambda device=None: 3 << 28
    module.reset_peak_memory_stats = lambda device=None: None
    module.manual_seed = module.manual_seed_all = lambda seed: None
    module.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    return module


_registered = False


@contextmanager
def stand_in() -> Iterator[Counts]:
    """Has ``torch.device("standin")`` for a while, in this thread."""
    global _registered
    if not _registered:
        _setup_privateuseone_for_python_backend(NAME, backend_module=_module())
        _registered = True
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    counts = Counts()
    # its tensors have no version counters under inference mode
    modes = mock.patch.multiple(torch.inference_mode, __enter__=_enter, __exit__=_exit)
    with modes, mock.patch.object(torch, "tensor", _tensor), _Mode(counts):
        try:
            yield counts
        finally:
            torch.__future__.set_swap_module_params_on_conversion(swapped)


_plain_tensor = torch.tensor


def _tensor(data: Any, *, device: Any = None, **options: Any) -> torch.Tensor:
    """torch makes it on its device past all modes."""
    made = _plain_tensor(data, device="cpu" if _is_ours(device) else device, **options)
    return made.to(device) if _is_ours(device) else made


def _enter(self: Any) -> None:
    self.standing_in = torch.no_grad()
    self.standing_in.__enter__()


def _exit(self: Any, *error: Any) -> None:
    self.standing_in.__exit__(*error)
