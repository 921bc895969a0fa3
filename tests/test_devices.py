"""Everything on an accelerator, which here is one that stands in for it: the CPU's numbers, and few waits."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from command import SECONDS
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from stand_in import NAME, Counts, stand_in

import soupkitchen as api
from soupkitchen.checkpoints import Pool, find_pool
from soupkitchen.evaluation import EvaluationOptions, Runtime
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.merging import chunks
from soupkitchen.merging.selection import largest
from soupkitchen.search import Mixture
from soupkitchen.soup import Mixer, Recipe
from soupkitchen.soup.memory import StateMemory

METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
WAITS = 4
"""How often the host may wait for the device, for each tensor of each run that is looked at."""


@pytest.fixture
def device() -> Iterator[Counts]:
    with stand_in() as counts:
        yield counts


@pytest.fixture(scope="module")
def pool(text_runs: Path) -> Pool:
    return find_pool(str(text_runs), base=str(text_runs / "d"))


@pytest.fixture(scope="module")
def adapted(adapters: Path, base: Path) -> Pool:
    return find_pool(str(adapters), base=str(base))


DEVICE = torch.device("privateuseone", 0)  # which the stand-in renames
PLACES = {"device": (None, None), "host": (0, None), "files": (0, 0)}


def mixer(pool: Pool, place: str = "device") -> Mixer:
    return Mixer(pool, DEVICE, memory=lambda: StateMemory(DEVICE, *PLACES[place]))


def recipes_of(pool: Pool, name: str) -> list[Recipe]:
    """Soups of the first two runs and of the first three, by the method called `name`."""
    method: Any = getattr(api.methods, name)()
    runs = tuple(run.name for run in pool)[:3]
    return [Recipes(method).of(Mixture(some))[0] for some in (runs[:2], runs)]


@pytest.mark.parametrize(
    ("kind", "place"), [("pool", "device"), ("pool", "host"), ("pool", "files"), ("adapted", "host")]
)
@pytest.mark.parametrize("name", METHODS)
def test_merges_are_those_of_the_cpu(
    device: Counts, name: str, place: str, kind: str, request: pytest.FixtureRequest
) -> None:
    pool: Pool = request.getfixturevalue(kind)
    ours, theirs = mixer(pool, place), Mixer(pool)
    two, three = recipes_of(pool, name)
    for recipe, growing in ((two, True), (three, True), (three, False)):
        expected = {n: x.clone() for n, x in theirs.tensors(recipe, growing)}
        device.reset()
        merged = dict(ours.tensors(recipe, growing))
        if place == "device":  # else a state comes and goes
            assert device.waits <= WAITS * recipe.size * len(expected)
        assert device.synchronisations <= recipe.size * len(expected)
        for tensor, x in merged.items():
            torch.testing.assert_close(x.cpu(), expected[tensor], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", METHODS)
def test_nobody_waits_for_each_chunk(
    device: Counts, name: str, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, recipe = recipes_of(pool, name)
    waits = []
    for size in (chunks.GPU_CHUNK, 50):
        monkeypatch.setattr(chunks, "GPU_CHUNK", size)
        device.reset()
        for _ in mixer(pool).tensors(recipe):
            pass
        waits.append(device.waits)
    assert waits[0] == waits[1]


def test_what_lies_on_the_host_is_refused_on_the_device(device: Counts) -> None:
    x = torch.ones(3)
    on_device = x.to(DEVICE)
    assert device.to_device == 1
    with pytest.raises(RuntimeError, match="same device"):
        on_device + x
    with pytest.raises(TypeError, match="numpy"):
        on_device.numpy()
    assert (on_device + torch.tensor(2.0)).sum().item() == 9
    assert device.synchronisations == 1


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.integers(2, 800), st.floats(0, 1), st.sampled_from([None, 8, 1]))
def test_the_largest_are_found_on_a_device(seed: int, size: int, share: float, digits: int | None) -> None:
    random = np.random.default_rng(seed)
    values = random.normal(size=size) * 10.0 ** random.integers(-30, 30, size)
    if digits is not None:  # many are equal
        values = np.round(random.normal(size=size) * digits)
    x = torch.tensor(values, dtype=torch.float32)
    k = max(1, int(share * size))
    # numpy's stable order: of equal magnitudes the earlier first
    chosen = np.argsort(-x.abs().numpy(), kind="stable")[:k]
    expected = torch.zeros_like(x)
    expected[chosen] = x[chosen]
    with stand_in(), mock.patch.object(chunks, "GPU_CHUNK", int(random.integers(1, size + 1))):
        kept = largest(x.to(DEVICE), k).keep(x.to(DEVICE), 0).cpu()
    assert torch.equal(kept, expected)


def run_of(
    runs: Path | str, task: Any, folder: Path, name: str, method: Any, **options: Any
) -> tuple[pd.DataFrame, api.Result]:
    runtime = Runtime(batch_size=16, threads=1, device=name, max_memory={0: "1GiB", "cpu": "1GiB"})
    result = api.cook(
        str(runs), task, method=method, runtime=runtime, results_dir=folder, name=name, **options
    )
    return result.trajectory.drop(columns=SECONDS), result


@pytest.mark.parametrize("name", ["linear", "ties"])
def test_a_whole_run_is_that_of_the_cpu(name: str, text_runs: Path, texts: Path, tmp_path: Path) -> None:
    task, method = api.tasks.text_classification(str(texts)), getattr(api.methods, name)()
    options = {"evaluation": EvaluationOptions(cache=None), "base": str(text_runs / "d")}
    expected, theirs = run_of(f"{text_runs}/*", task, tmp_path, "cpu", method, **options)
    with stand_in() as counts:
        trajectory, ours = run_of(f"{text_runs}/*", task, tmp_path, NAME, method, **options)
    assert len(expected) > 5
    pd.testing.assert_frame_equal(trajectory, expected)
    files = [result.folder / "soup" / "model.safetensors" for result in (theirs, ours)]
    for (tensor, x), (_, y) in zip(*(load_file(file).items() for file in files), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-9, msg=tensor)
    if name == "linear":  # one for each batch, another by transformers, and some for each tensor, once
        batches, tensors = expected["examples_scored"].sum() / 16, len(load_file(files[0]))
        assert counts.synchronisations <= 2 * batches + 2 * tensors


def test_the_check_of_a_gpu_runs_where_there_is_none(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "scripts" / "gpu_check.py"), "--device", "cpu", "--skip-demo"]
    command += ["--millions", "1", "--texts", "8", "--output", str(tmp_path / "check.md")]
    subprocess.run(command, check=True, cwd=tmp_path, env=os.environ | {"OMP_NUM_THREADS": "1"})
    told = (tmp_path / "check.md").read_text()
    assert "too much" not in told
    assert all(f"| {name} |" in told for name in METHODS)
    assert "Perplexity: " in told
