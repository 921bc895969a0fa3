"""Weights seen under other names, with rows in another order, or in a wider dtype."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch
import xxhash

from soupkitchen.checkpoints.files import SPELLINGS, TensorInfo, Weights


class View(Weights):
    """Other weights' tensors by other names; what has no name here is left out.

    Args:
        of: the weights.
        names: the name there by the name here.
        rows: by the name here, the rows of its tensor in their new order.
    """

    def __init__(
        self, of: Weights, names: Mapping[str, str], rows: Mapping[str, Sequence[int]] | None = None
    ) -> None:
        self._of = of
        self._names = dict(sorted(names.items()))
        self._rows = dict(rows or {})

    @property
    def names(self) -> Mapping[str, str]:
        """The name there by the name here."""
        return self._names

    @cached_property
    def header(self) -> Mapping[str, TensorInfo]:
        return {name: self._of.header[inner] for name, inner in self._names.items()}

    def tensor(self, name: str) -> torch.Tensor:
        return self._ordered(name, self._of.tensor(self._names[name]))

    def is_in_files(self, name: str) -> bool:
        return self._of.is_in_files(self._names[name])

    def leaves(self, name: str) -> bool:
        return name not in self._rows and self._of.leaves(self._names[name])

    def task_vector(self, name: str, device: torch.device) -> torch.Tensor | None:
        # a base's rows are in an order of their own, so a reordered tensor has none by itself
        return None if name in self._rows else self._of.task_vector(self._names[name], device)

    def exact(self, name: str, device: torch.device) -> torch.Tensor:
        return self._ordered(name, self._of.exact(self._names[name], device))

    @cached_property
    def fingerprint(self) -> str:
        digest = xxhash.xxh3_128(self._of.fingerprint.encode())
        renamed = {name: inner for name, inner in self._names.items() if name != inner}
        if not renamed and not self._rows and len(self._names) == len(self._of.header):
            return self._of.fingerprint
        for name, inner in self._names.items():
            digest.update(f"{name}\0{inner}\0{self._rows.get(name)}\0".encode())
        return digest.hexdigest()

    @property
    def not_finite(self) -> Mapping[str, int]:
        return self._of.not_finite

    def changed_files(self) -> list[Path]:
        return self._of.changed_files()

    def _ordered(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor[list(self._rows[name])] if name in self._rows else tensor


class Apart(View):
    """Weights that an adapter gave another model than the base: what it changed of that is no task vector."""

    def leaves(self, name: str) -> bool:
        return False

    def task_vector(self, name: str, device: torch.device) -> torch.Tensor | None:
        return None


class Widened(Weights):
    """Other weights with floating-point tensors of a wider dtype, which changes no value."""

    def __init__(self, of: Weights, dtype: torch.dtype) -> None:
        self._of, self._dtype = of, dtype

    @cached_property
    def header(self) -> Mapping[str, TensorInfo]:
        return {
            name: TensorInfo(info.shape, SPELLINGS[self._dtype]) if info.is_floating_point else info
            for name, info in self._of.header.items()
        }

    def tensor(self, name: str) -> torch.Tensor:
        tensor = self._of.tensor(name)
        return tensor.to(self._dtype) if tensor.is_floating_point() else tensor

    def is_in_files(self, name: str) -> bool:
        return self._of.is_in_files(name)

    def leaves(self, name: str) -> bool:
        return self._of.leaves(name)

    def task_vector(self, name: str, device: torch.device) -> torch.Tensor | None:
        return self._of.task_vector(name, device)

    def exact(self, name: str, device: torch.device) -> torch.Tensor:
        return self._of.exact(name, device)

    @property
    def fingerprint(self) -> str:
        return self._of.fingerprint

    @property
    def not_finite(self) -> Mapping[str, int]:
        return self._of.not_finite

    def changed_files(self) -> list[Path]:
        return self._of.changed_files()


def aligned(names: Collection[str], reference: Collection[str]) -> dict[str, str]:
    """How `names` are called in `reference`, by reference name: as they are, or but for a prefix.

    A file of a bare encoder has ``embeddings.weight`` where one of the model with a head
    has ``bert.embeddings.weight``; ``from_pretrained`` takes either for either, and so do
    we. What cannot be found is left out.
    """
    best = {name: name for name in names if name in reference}
    prefixes = {name.split(".", 1)[0] for name in (*names, *reference) if "." in name}
    for prefix in sorted(prefixes):
        added = {f"{prefix}.{name}": name for name in names if f"{prefix}.{name}" in reference}
        cut = {
            name.removeprefix(f"{prefix}."): name
            for name in names
            if name.startswith(f"{prefix}.") and name.removeprefix(f"{prefix}.") in reference
        }
        for found in (added, cut):
            known = {name: name for name in names if name in reference and name not in found.values()}
            if len(found | known) > len(best):
                best = found | known
    return best
