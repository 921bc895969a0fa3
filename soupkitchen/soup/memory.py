"""Memory for a soup's running state: on the device, on the host, or in mapped files.

The state takes 4 bytes a parameter for an average, 8 for model stock, 10 for TIES (16 if weights are not
whole). It overflows from the device to the host, then to memory-mapped files.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from soupkitchen.errors import ConfigError
from soupkitchen.merging.base import MergeMethod
from soupkitchen.merging.chunks import chunks


class StateMemory:
    """Memory with a budget in bytes; None is no limit.

    Args:
        device: of arithmetic; a CPU has only the host's memory.
        folder: of mapped files; None for the system's temporary folder.
    """

    def __init__(
        self,
        device: torch.device,
        on_device: int | None = None,
        on_host: int | None = None,
        folder: Path | None = None,
    ) -> None:
        self.device = device
        self._folder = folder
        self._left = {device: on_device} if device.type != "cpu" else {}
        self._left[torch.device("cpu")] = on_host

    def state(self, method: MergeMethod, elements: int) -> Any:
        """The empty state for a tensor of this size."""
        state: Any = None
        fields: list[Any] = []
        for part in chunks(elements, self.device):
            number = part.stop - part.start
            state = method.init(torch.empty(number, dtype=torch.float32, device=self.device))
            if not fields:
                fields = [self._place(x, elements) if _is_long(x, number) else x for x in state]
            for field, value in zip(fields, state, strict=True):
                if _is_long(value, number):
                    field[part] = value
        if state is None:
            return method.init(torch.empty(0, dtype=torch.float32, device=self.device))
        return type(state)(*fields)

    def converted(self, field: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Converts a field of a state, and frees the old one."""
        converted = self._place(field.new_empty(0, dtype=dtype), field.numel()).copy_(field)
        if field.untyped_storage().filename is None:  # else it lies in a file
            place = next(place for place in self._left if place.type == field.device.type)
            self.give_back(field.nbytes, place)
        return converted

    def hold(self, tensor: torch.Tensor) -> torch.Tensor:
        place = self.room(tensor.nbytes, on_host=False)
        return tensor if place is None else tensor.to(place)

    def room(self, size: int, on_host: bool = True) -> torch.device | None:
        """Reserves `size` bytes; None if they fit nowhere."""
        for place, left in self._left.items():
            if (on_host or place.type != "cpu") and (left is None or size <= left):
                self._left[place] = None if left is None else left - size
                return place
        return None

    def give_back(self, size: int, place: torch.device) -> None:
        left = self._left[place]
        self._left[place] = None if left is None else left + size

    def _place(self, like: torch.Tensor, elements: int) -> torch.Tensor:
        place = self.room(elements * like.element_size())
        if place is None:
            return self._mapped(elements, like.dtype)
        return torch.empty(elements, dtype=like.dtype, device=place)

    def _mapped(self, elements: int, dtype: torch.dtype) -> torch.Tensor:
        """A tensor in a file that is unlinked at once, and lives as long as the tensor."""
        try:
            with tempfile.NamedTemporaryFile(dir=self._folder, prefix=".state.") as file:
                file.truncate(elements * dtype.itemsize)
                return torch.from_file(file.name, shared=True, size=elements, dtype=dtype)
        except (OSError, RuntimeError) as error:
            raise ConfigError(
                f"no room for a soup's state in files at {self._folder or tempfile.gettempdir()} ({error}); "
                "raise runtime.max_memory, or name another folder as runtime.offload_folder"
            ) from error


def _is_long(value: Any, number: int) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() == number
