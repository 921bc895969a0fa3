"""What goes into the live model and what comes out of it, watched in one place for all tasks.

A task takes the likeliest label, token or choice of what a model puts out, and the likeliest of nothing
but NaN is number 0: a model that is broken would pass for one that always says the first label. So the
model's own outputs are looked at, before any task sees them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch


class Boundary:
    """Watches the forward passes of a model.

    Floating-point inputs, as the pixels of images, are given in the dtype of the model's weights.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._dtype = _dtype_of(model)
        self._not_finite: list[torch.Tensor] = []
        self._recorded: list[torch.Tensor] | None = None
        model.register_forward_pre_hook(self._before, with_kwargs=True)
        model.register_forward_hook(self._after, with_kwargs=True)

    def forget(self) -> None:
        """Forgets the forward passes so far."""
        self._not_finite = []

    @property
    def finite(self) -> torch.Tensor | None:
        """Whether nothing that the model has put out since `forget` is NaN or has an infinity on top.

        0-dimensional, on the device; None where it has put out nothing.
        Single outputs may be minus infinity, as those of tokens that a model never says; padding
        has no part in it.
        """
        found, self._not_finite = self._not_finite, []
        return ~torch.stack([one.to(found[0].device) for one in found]).any() if found else None

    @contextmanager
    def recording(self) -> Iterator[list[torch.Tensor]]:
        """A list to which each forward pass adds what the model puts out."""
        recorded = self._recorded = []
        try:
            yield recorded
        finally:
            self._recorded = None

    def _before(self, model: torch.nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        return tuple(map(self._cast, args)), {name: self._cast(value) for name, value in kwargs.items()}

    def _cast(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or self._dtype is None:
            return value
        if torch.is_autocast_enabled(value.device.type):
            return value
        return value.to(self._dtype)

    def _after(self, model: torch.nn.Module, args: tuple, kwargs: dict[str, Any], output: Any) -> None:
        mask = kwargs.get("attention_mask")
        for values in _outputs(output):
            if self._recorded is not None:
                self._recorded.append(values.detach().cpu().clone())
            if not values.numel():
                continue
            top = values.amax(-1) if values.dim() else values  # of a NaN and a number the NaN
            strange = ~top.isfinite()
            if isinstance(mask, torch.Tensor) and mask.shape == strange.shape:
                strange &= mask != 0
            self._not_finite.append(strange.any())


def _outputs(output: Any) -> Iterator[torch.Tensor]:
    """What a model puts out: its logits or, without, all tensors of floating-point numbers."""
    if isinstance(output, torch.Tensor):
        output = (output,)
    elif isinstance(output, Mapping):
        logits = output.get("logits")
        output = tuple(output.values()) if logits is None else (logits,)
    elif not isinstance(output, tuple):
        return
    yield from (x for x in output if isinstance(x, torch.Tensor) and x.is_floating_point())


def _dtype_of(model: torch.nn.Module) -> torch.dtype | None:
    """That of most weights; None for a model without floating-point ones."""
    elements: Counter[torch.dtype] = Counter()
    for parameter in model.parameters():
        if parameter.is_floating_point():
            elements[parameter.dtype] += parameter.numel()
    return elements.most_common(1)[0][0] if elements else None
