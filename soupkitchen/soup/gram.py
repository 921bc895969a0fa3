"""Inner products of task vectors: how far runs went, and how much they agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.merging.chunks import chunks


def task_vector_gram(runs: Sequence[Checkpoint], base: Checkpoint | None) -> tuple[np.ndarray, float]:
    """The inner products of the runs' task vectors, (runs, runs), float64, and the base's norm.

    Tensors are read once, a piece of all runs at a time. Without a base, the mean of the runs
    stands in for it.
    """
    device = torch.device("cpu")
    gram, squares = torch.zeros(len(runs), len(runs), dtype=torch.float64), 0.0
    for name, info in runs[0].header.items():
        shared = base is None or (name in base.header and base.header[name].shape == info.shape)
        if not (shared and info.is_floating_point):
            continue
        tensors = [run.weights.exact(name, device).reshape(-1) for run in runs]
        start = base.tensor(name).reshape(-1) if base else None
        for part in chunks(info.elements, device, beside=len(runs) + 1):
            values = torch.stack([tensor[part].float() for tensor in tensors])
            center = values.mean(0) if start is None else start[part].float()
            squares += float(center.double().square().sum())
            vectors = values.sub_(center)
            gram += (vectors @ vectors.T).double()
    return gram.numpy(), squares**0.5
