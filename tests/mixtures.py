"""All shipped methods, and mixtures of a pool as they compare."""

from __future__ import annotations

import torch

from soupkitchen.options import files
from soupkitchen.options.building import build

METHODS = {name: build(files.compose("method", name)) for name in files.names("method")}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Tells whether two mixtures are equal to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
