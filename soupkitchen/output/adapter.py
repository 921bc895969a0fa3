"""Makes one LoRA adapter from a soup of LoRA adapters, and writes it.

The average of low-rank changes Σ wᵢsᵢBᵢAᵢ is exactly a low-rank change: with all Aᵢ stacked and all wᵢsᵢBᵢ
side by side, its rank is the sum of the ranks. Any other change is cut to the given rank by its singular
values, the nearest in the Frobenius norm (Eckart and Young 1936).
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.adapter_config import ADAPTER_CONFIG_NAME
from soupkitchen.checkpoints.adapters import ADAPTER_STEM, PREFIX
from soupkitchen.checkpoints.folders import read_json
from soupkitchen.checkpoints.weights import AdaptedWeights, LowRank
from soupkitchen.merging import Linear, MergeMethod, StackMethod
from soupkitchen.search.base import Coefficient
from soupkitchen.soup import Soup
from soupkitchen.soup.coefficients import parts

Changes = Iterable[tuple[str, torch.Tensor]]
"""Name and change, float32, of each changed tensor."""


class Factors(NamedTuple):
    """One tensor's change, as B·A.

    Attributes:
        down: A, (r, in, …), float32.
        up: B, (out, r, …), float32, scale included.
        plan: their names in the adapters' files.
    """

    down: torch.Tensor
    up: torch.Tensor
    plan: LowRank


class Factored(NamedTuple):
    """A model's change, by tensor; `error` is ‖Δ − BA‖ / ‖Δ‖ over all, in the Frobenius norm."""

    tensors: dict[str, Factors]
    error: float

    @property
    def rank(self) -> int:
        return max((factors.down.shape[0] for factors in self.tensors.values()), default=0)


def concatenated(runs: Sequence[Checkpoint], weights: Sequence[Coefficient]) -> Factored:
    """The exact weighted average of the changes of adapters without DoRA.

    A run's weight may differ by part of the depth; a repeated run's weights are summed.
    """
    tensors, cpu = {}, torch.device("cpu")
    for name, plan in _plans(runs).items():
        shares = _shares(runs, weights, name)
        total = sum(shares.values())
        downs, ups = [], []
        for run, weight in shares.items():
            if name in adapted(run).changed:
                down, up = adapted(run).factors(name, cpu)
                downs.append(down)
                ups.append(up * (weight / total))
        if not downs:  # the runs that change it have no weight there: the least that an adapter can have
            run = next(run for run in runs if name in adapted(run).changed)
            down, up = adapted(run).factors(name, cpu)
            downs, ups = [down[:1]], [torch.zeros_like(up[:, :1])]
        tensors[name] = _shaped(torch.cat(downs), torch.cat(ups, dim=1), runs, name, plan)
    return Factored(tensors, 0.0)


def truncated(runs: Sequence[Checkpoint], changes: Changes, rank: int) -> Factored:
    """The nearest changes of at most `rank` to `changes`, the soup of the adapters `runs`."""
    plans, tensors = _plans(runs), {}
    lost = total = 0.0
    for name, change in changes:
        plan = plans[name]
        matrix = change.float().flatten(1)
        matrix = matrix.T if plan.transposed else matrix
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        energy = values.double().square()
        total += float(energy.sum())
        lost += float(energy[rank:].sum())
        root = values[:rank].sqrt()
        tensors[name] = _shaped(root[:, None] * right[:rank], left[:, :rank] * root, runs, name, plan)
    return Factored(tensors, math.sqrt(lost / total) if total else 0.0)


def write_adapter(
    runs: Sequence[Checkpoint], factored: Factored, whole: dict[str, torch.Tensor], folder: Path
) -> None:
    """Writes an adapter as peft does.

    Args:
        runs: its ingredients; base, names and other options are the first's.
        whole: tensors that replace the base's, by name.
    """
    tensors: dict[str, torch.Tensor] = {}
    modules: dict[str, int] = {}
    for factors in factored.tensors.values():
        tensors[factors.plan.down] = factors.down.contiguous()
        tensors[factors.plan.up] = factors.up.contiguous()
        modules[_module(factors.plan.down)] = factors.down.shape[0]
    for name, tensor in whole.items():
        key = next(key for run in runs if (key := adapted(run).replaced.get(name)) is not None)
        tensors[key] = tensor.contiguous()
    configs = [read_json(run.path / ADAPTER_CONFIG_NAME) for run in runs]
    saved = sorted({module for config in configs for module in config.get("modules_to_save") or []})
    config: dict[str, Any] = {
        **configs[0],
        "r": factored.rank,
        "lora_alpha": factored.rank,
        "rank_pattern": {module: rank for module, rank in modules.items() if rank != factored.rank},
        "alpha_pattern": {module: rank for module, rank in modules.items() if rank != factored.rank},
        "target_modules": sorted(modules),
        "modules_to_save": saved or None,
        **dict.fromkeys(("exclude_modules", "layers_to_transform", "layers_pattern")),
        "use_rslora": False,
        "use_dora": False,
        "use_bdlora": None,
        "init_lora_weights": True,
        "fan_in_fan_out": any(config.get("fan_in_fan_out") for config in configs),
        "inference_mode": True,
    }
    save_file(tensors, folder / f"{ADAPTER_STEM}.safetensors", {"format": "pt"})
    text = json.dumps(config, indent=2, sort_keys=True)
    (folder / ADAPTER_CONFIG_NAME).write_text(f"{text}\n", encoding="utf-8")


def adapted(run: Checkpoint) -> AdaptedWeights:
    assert isinstance(run.weights, AdaptedWeights)
    return run.weights


def _shares(runs: Sequence[Checkpoint], weights: Sequence[Coefficient], name: str) -> dict[Checkpoint, float]:
    shares: dict[Checkpoint, float] = defaultdict(float)
    for run, weight in zip(runs, weights, strict=True):
        if isinstance(weight, tuple):
            weight = weight[parts(run.header, len(weight))[name]]
        shares[run] += weight
    return {run: weight for run, weight in shares.items() if weight}


def _plans(runs: Sequence[Checkpoint]) -> dict[str, LowRank]:
    return {name: plan for run in reversed(runs) for name, plan in adapted(run).changed.items()}


def _shaped(
    down: torch.Tensor, up: torch.Tensor, runs: Sequence[Checkpoint], name: str, plan: LowRank
) -> Factors:
    kernel = runs[0].header[name].shape[2:]
    if kernel:
        down = down.reshape(down.shape[0], -1, *kernel)
        up = up.reshape(*up.shape, *(1 for _ in kernel))
    return Factors(down, up, plan)


def _module(key: str) -> str:
    return key.removeprefix(PREFIX).removesuffix(".weight").rsplit(".", 1)[0]


def is_exact(runs: Sequence[Checkpoint], method: MergeMethod | StackMethod) -> bool:
    """Tells whether the soup of `runs` is exactly one adapter: a weighted sum without DoRA."""
    plans = [plan for run in runs for plan in adapted(run).changed.values()]
    return isinstance(method, Linear) and not any(plan.magnitude for plan in plans)


def unlike_plain(runs: Sequence[Checkpoint]) -> str | None:
    """Names a change in `runs` that is no product of two matrices, if there is one."""
    for run in runs:
        if edited := sorted(adapted(run).edited):
            return f"{run.name} trained biases or rows of {edited[0]}"
        of_mixtures = sorted(name for name, plan in adapted(run).changed.items() if plan.experts > 1)
        if of_mixtures:
            return f"{run.name} adapts {of_mixtures[0]}, a parameter of a mixture"
    return None


def changes(runs: Sequence[Checkpoint], weights: Sequence[Coefficient], soup: Soup) -> Changes:
    """Yields the base's changes in the soup of the adapters `runs`, float32."""
    changed = set(_plans(runs))
    if len(runs) == 1:  # a soup of one is that run, whatever the method
        for name in changed:
            if (change := runs[0].weights.task_vector(name, torch.device("cpu"))) is not None:
                yield name, change
        return
    base = runs[0].adapted
    assert base is not None
    soup.dtype_of = lambda name: torch.float32
    for name, merged in soup.blend(runs, weights):
        if name in changed:
            yield name, merged.cpu() - base.tensor(name).float()


def whole_tensors(
    runs: Sequence[Checkpoint], weights: Sequence[Coefficient], soup: Soup
) -> dict[str, torch.Tensor]:
    names = {name for run in runs for name in adapted(run).replaced}
    merged = soup.blend(runs, weights) if names else ()
    return {name: tensor.cpu() for name, tensor in merged if name in names}
