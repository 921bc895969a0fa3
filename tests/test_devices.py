"""Everything on an accelerator, which here is one that stands in for it: the CPU's numbers, and few waits."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
from command import SECONDS, as_script, events, forked
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from stand_in import NAME, Counts, stand_in
from tiny import llama, make_pictures, make_texts, shake, tokenizer
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

import soupkitchen as api
from soupkitchen.checkpoints import Pool, find_pool
from soupkitchen.checkpoints.files import WeightFiles
from soupkitchen.evaluation import EvaluationOptions, Runtime
from soupkitchen.experiment.recipes import Recipes
from soupkitchen.merging import chunks
from soupkitchen.merging.selection import largest
from soupkitchen.search import Mixture
from soupkitchen.soup import Mixer, Recipe
from soupkitchen.soup.memory import StateMemory
from soupkitchen.soup.reader import ReadAhead

METHODS = sorted(path.stem for path in (ROOT / "conf" / "method").glob("*.yaml"))
WAITS = 4
"""The number of times that the host may wait for the device, for each tensor of each run."""


@pytest.fixture(scope="module")
def pool(text_runs: Path) -> Pool:
    return find_pool(str(text_runs), base=str(text_runs / "d"))


@pytest.fixture(scope="module")
def adapted(adapters: Path, base: Path) -> Pool:
    return find_pool(str(adapters), base=str(base))


@pytest.fixture
def device(pool: Pool, adapted: Pool) -> Iterator[Counts]:
    """The stand-in; what lives longer than it is made before."""
    with stand_in() as counts:
        yield counts


DEVICE = torch.device("privateuseone", 0)  # which the stand-in renames
PLACES = {"device": (None, None), "host": (0, None), "files": (0, 0)}


def mixer(pool: Pool, place: str = "device") -> Mixer:
    return Mixer(
        pool, DEVICE, memory=lambda: StateMemory(DEVICE, *PLACES[place]), reader=ReadAhead(DEVICE, 10**5)
    )


def recipes_of(pool: Pool, name: str) -> list[Recipe]:
    """Soups of the first two runs and of the first three, by the method called `name`."""
    method: Any = getattr(api.methods, name)()
    runs = tuple(run.name for run in pool)[:3]
    return [Recipes(method).of(Mixture(some))[0] for some in (runs[:2], runs)]


@pytest.mark.parametrize(
    ("kind", "place"), [("pool", "device"), ("pool", "host"), ("pool", "files"), ("adapted", "host")]
)
@pytest.mark.parametrize("name", METHODS)
def test_merges_are_those_of_the_cpu(device, name, place, kind, request):
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


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_nobody_waits_for_each_chunk(device, name, pool, monkeypatch):
    _, recipe = recipes_of(pool, name)
    waits = []
    for size in (chunks.GPU_CHUNK, 50):
        monkeypatch.setattr(chunks, "GPU_CHUNK", size)
        device.reset()
        for _ in mixer(pool).tensors(recipe):
            pass
        waits.append(device.waits)
    assert waits[0] == waits[1]


def test_what_lies_on_the_host_is_refused_on_the_device(device):
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
def test_the_largest_are_found_on_a_device(seed, size, share, digits):
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


@pytest.fixture
def texts_of(text_runs: Path, texts: Path, tmp_path: Path) -> dict[str, Any]:
    task = api.tasks.text_classification(str(texts))
    return {"pool": f"{text_runs}/*", "task": task, "base": str(text_runs / "d")}


@pytest.fixture
def images_of(tmp_path: Path) -> dict[str, Any]:
    """A pool of tiny ViTs, whose files name tensors as the model does not."""
    make_pictures(tmp_path / "pictures", 12)
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8,
        patch_size=4, id2label={0: "dark", 1: "light"}, label2id={"dark": 0, "light": 1},
    )  # fmt: skip
    task = api.tasks.image_classification(str(tmp_path / "pictures"))
    around(ViTForImageClassification(config), tmp_path / "vits", ViTImageProcessorPil(size=(8, 8)))
    return {"pool": f"{tmp_path}/vits/*", "task": task, "base": str(tmp_path / "vits" / "0")}


@pytest.fixture
def causal_of(tmp_path: Path) -> dict[str, Any]:
    """A pool of tiny Llamas, scored by perplexity."""
    encode = tokenizer()
    encode.eos_token = "[SEP]"
    around(llama(len(encode)), tmp_path / "llamas", encode)
    make_texts(24, seed=5)[["text"]].to_csv(tmp_path / "texts.csv", index=False)
    task = api.tasks.language_modeling(str(tmp_path / "texts.csv"), max_length=16)
    return {"pool": f"{tmp_path}/llamas/*", "task": task, "base": str(tmp_path / "llamas" / "0")}


@pytest.fixture
def adapters_of(adapters: Path, base: Path, tmp_path: Path) -> dict[str, Any]:
    """Adapters of a tiny Llama, DoRA among them."""
    copied = shutil.copytree(base, tmp_path / "base")
    encode = tokenizer()
    encode.eos_token = "[SEP]"
    encode.save_pretrained(copied)
    random = np.random.default_rng(0)
    some = [" ".join(f"w{word}" for word in random.integers(40, size=9)) for _ in range(24)]
    pd.DataFrame({"text": some}).to_csv(tmp_path / "texts.csv", index=False)
    task = api.tasks.language_modeling(str(tmp_path / "texts.csv"), max_length=16)
    return {"pool": f"{adapters}/*", "task": task, "base": str(copied)}


def around(model: Any, folder: Path, processor: Any) -> None:
    """Saves four models near `model`."""
    for number in range(4):
        shake(model, 0.05)
        model.save_pretrained(folder / str(number))
        processor.save_pretrained(folder / str(number))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["linear", "ties", "slerp"])
@pytest.mark.parametrize("kind", ["texts_of", "images_of", "causal_of", "adapters_of"])
def test_a_whole_run_is_that_of_the_cpu(kind, name, tmp_path, request):
    options = {"evaluation": EvaluationOptions(cache=None), **request.getfixturevalue(kind)}
    runs, task, method = options.pop("pool"), options.pop("task"), getattr(api.methods, name)()
    expected, theirs = run_of(runs, task, tmp_path, "cpu", method, **options)
    with stand_in() as counts:
        trajectory, ours = run_of(runs, task, tmp_path, NAME, method, **options)
    assert len(expected) > 5
    floats = ["score", "score_at_most", "best_before", "gain", "gain_low", "gain_high", "p_value"]
    pd.testing.assert_frame_equal(trajectory.drop(columns=floats), expected.drop(columns=floats))
    pd.testing.assert_frame_equal(trajectory[floats], expected[floats], rtol=1e-5, atol=1e-4)
    files = [result.folder / "soup" / "model.safetensors" for result in (theirs, ours)]
    for (tensor, x), (_, y) in zip(*(load_file(file).items() for file in files), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-6, atol=1e-9, msg=tensor)
    told = events(ours.folder)[-1]
    assert told["peak_device_gib"] == 0.75  # as the stand-in says
    assert told["peak_host_gib"] > 0.1
    assert events(theirs.folder)[-1]["peak_device_gib"] is None
    if (kind, name) == ("texts_of", "linear"):  # one a batch, another by transformers, some a tensor, once
        batches, tensors = expected["examples_scored"].sum() / 16, len(load_file(files[0]))
        assert counts.synchronisations <= 2 * batches + 2 * tensors


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bool]]:
    """What is read of files, by name, and whether it is read ahead."""
    found: list[tuple[str, bool]] = []
    plain = WeightFiles.tensor

    def read(self: WeightFiles, name: str) -> torch.Tensor:
        found.append((name, threading.current_thread().name.startswith("read-ahead")))
        return plain(self, name)

    monkeypatch.setattr(WeightFiles, "tensor", read)
    return found


HOST = torch.device("cpu")


def test_tensors_are_read_ahead_once_each(pool, reads):
    run, ahead = pool.runs[0], ReadAhead(HOST, 10**9)
    got = dict(ahead.tensors(run))
    assert sorted(name for name, _ in reads) == sorted(run.header)
    assert [name for name, by_thread in reads if not by_thread] == list(run.header)[:1]
    assert all(torch.equal(x, run.tensor(name)) for name, x in got.items())


def test_what_is_skipped_is_let_go_and_what_comes_back_is_read_again(pool):
    run, ahead = pool.runs[0], ReadAhead(HOST, 10**9)
    names = list(run.header)
    for name in (*names[::3], *names[::-1], names[0], names[0]):
        assert torch.equal(ahead.exact(run, name), run.tensor(name))
    ahead.forget()
    assert ahead._left == 10**9


def test_no_more_is_on_its_way_than_there_is_room_for(pool, reads):
    run, ahead = pool.runs[0], ReadAhead(HOST, 300)
    for name, info in run.header.items():
        ahead.exact(run, name)
        on_their_way = sum(one.size for coming in ahead._pending.values() for one in coming)
        assert on_their_way + ahead._left == 300
        assert ahead._left >= 0
        assert info.elements * 4 <= 300 or (name, False) in reads
    assert any(by_thread for _, by_thread in reads)


def test_a_file_that_cannot_be_read_ahead_is_said_when_its_tensor_is_asked_for(pool, monkeypatch):
    run, ahead = pool.runs[0], ReadAhead(HOST, 10**9)
    first, second, *_ = run.header
    plain = WeightFiles.tensor

    def read(self: WeightFiles, name: str) -> torch.Tensor:
        if name == second:
            raise OSError("the disk is gone")
        return plain(self, name)

    monkeypatch.setattr(WeightFiles, "tensor", read)
    ahead.exact(run, first)
    with pytest.raises(OSError, match="the disk is gone"):
        ahead.exact(run, second)
    ahead._thread.shutdown()  # what it still reads is not to be seen by the next test


def test_what_an_adapter_changes_is_computed_when_it_is_asked_for(adapted, reads):
    run, ahead = adapted.runs[0], ReadAhead(HOST, 10**9)
    for name in run.header:
        assert torch.equal(ahead.exact(run, name), run.weights.exact(name, HOST))
    assert {name for name, by_thread in reads if by_thread} <= {
        name for name in run.header if run.weights.is_in_files(name)
    }


def test_the_check_of_a_gpu_runs_where_there_is_none(tmp_path):
    words = ["--device", "cpu", "--skip-demo", "--millions", "1", "--texts", "8"]
    words += ["--output", str(tmp_path / "check.md")]
    ended = forked(as_script(ROOT / "scripts" / "gpu_check.py"), *words, cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    told = (tmp_path / "check.md").read_text()
    assert "too much" not in told
    assert all(f"| {name} |" in told for name in METHODS)
    assert "Perplexity: " in told
