"""A merge method over whole checkpoints: tasting, keeping, and what it must not touch."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import soupkitchen.soup
from soupkitchen.checkpoints import Checkpoint
from soupkitchen.merging import Linear
from soupkitchen.soup import Soup


def run(folder: Path, name: str, **tensors: torch.Tensor) -> Checkpoint:
    (folder / name).mkdir(parents=True)
    (folder / name / "config.json").write_text("{}")
    save_file(tensors, folder / name / "model.safetensors")
    return Checkpoint.open(folder / name)


def runs(folder: Path, number: int, dtype: torch.dtype = torch.float32) -> list[Checkpoint]:
    torch.manual_seed(0)
    return [
        run(
            folder,
            f"run{i}",
            matrix=torch.randn(30, 7).to(dtype),
            scalar=torch.randn(()).to(dtype),
            empty=torch.zeros(0, 3).to(dtype),
        )
        for i in range(number)
    ]


def mean(checkpoints: list[Checkpoint]) -> dict[str, np.ndarray]:
    """The plain float64 average of the files' tensors."""
    files = [load_file(c.path / "model.safetensors") for c in checkpoints]
    return {name: np.mean([f[name].double().numpy() for f in files], axis=0) for name in files[0]}


@pytest.mark.parametrize("chunk", [1, 16, 1 << 16])
def test_a_soup_is_the_mean_of_its_ingredients(
    tmp_path: Path, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(soupkitchen.soup, "CPU_CHUNK", chunk)
    pool = runs(tmp_path, 4)
    soup = Soup(Linear())
    for ingredient in pool:
        soup.keep(ingredient)
    merged = dict(soup.tensors())
    assert merged.keys() == pool[0].header.keys()
    for name, expected in mean(pool).items():
        assert merged[name].shape == expected.shape
        np.testing.assert_allclose(merged[name], expected, rtol=1e-6, atol=1e-7)


def test_tasting_gives_to_the_last_bit_what_keeping_gives(tmp_path: Path) -> None:
    pool = runs(tmp_path, 3)
    soup = Soup(Linear())
    for ingredient in pool[:2]:
        soup.keep(ingredient)
    tasted = dict(soup.taste(pool[2]))
    soup.keep(pool[2])
    kept = dict(soup.tensors())
    assert all(torch.equal(tasted[name], kept[name]) for name in kept)


def test_discarding_leaves_the_soup_unchanged(tmp_path: Path) -> None:
    pool = runs(tmp_path, 4)
    soup, other = Soup(Linear()), Soup(Linear())
    for ingredient in pool[:2]:
        soup.keep(ingredient)
        other.keep(ingredient)
    before = {name: tensor.clone() for name, tensor in soup.tensors()}
    dict(soup.taste(pool[2]))
    assert soup.ingredients == ("run0", "run1")
    assert all(torch.equal(before[name], tensor) for name, tensor in soup.tensors())
    soup.keep(pool[3])
    other.keep(pool[3])
    expected = dict(other.tensors())
    assert all(torch.equal(expected[name], tensor) for name, tensor in soup.tensors())


def test_a_soup_of_one_is_that_ingredient_even_unnormalised(tmp_path: Path) -> None:
    (first,) = runs(tmp_path, 1)
    for method in (Linear(), Linear(normalize=False, weights={"run0": 3.0})):
        soup = Soup(method)
        assert all(torch.equal(dict(first.tensors())[name], x) for name, x in soup.taste(first))
        soup.keep(first)
        assert all(torch.equal(dict(first.tensors())[name], x) for name, x in soup.tensors())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_arithmetic_is_float32_and_rounds_once(tmp_path: Path, dtype: torch.dtype) -> None:
    pool = runs(tmp_path, 5, dtype)
    soup = Soup(Linear())
    for ingredient in pool:
        soup.keep(ingredient)
    merged = dict(soup.tensors())
    for name, expected in mean(pool).items():
        assert merged[name].dtype == dtype
        rounded = torch.tensor(expected, dtype=torch.float32).to(dtype)
        if dtype == torch.float64:
            torch.testing.assert_close(merged[name], rounded, rtol=1e-6, atol=1e-7)
        else:  # a float32 sum may fall to the other side of a rounding boundary, rarely
            assert (merged[name] == rounded).double().mean().nan_to_num(1.0) > 0.99


def test_weights_are_looked_up_by_name(tmp_path: Path) -> None:
    pool = runs(tmp_path, 2)
    soup = Soup(Linear(weights={"run1": 3.0}))
    for ingredient in pool:
        soup.keep(ingredient)
    one, other = (dict(c.tensors())["matrix"].double() for c in pool)
    torch.testing.assert_close(dict(soup.tensors())["matrix"].double(), (one + 3 * other) / 4)


def test_integer_buffers_are_the_best_runs_and_differences_are_named_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = [
        run(tmp_path, f"run{i}", weight=torch.randn(3), same=torch.arange(3), steps=torch.tensor(10 + i // 1))
        for i in range(3)
    ]
    soup = Soup(Linear())
    with caplog.at_level(logging.WARNING):
        for ingredient in pool:
            dict(soup.taste(ingredient))
            soup.keep(ingredient)
    merged = dict(soup.tensors())
    assert merged["steps"] == 10
    assert torch.equal(merged["same"], torch.arange(3))
    (warning,) = caplog.messages
    assert "steps" in warning
    assert "run0" in warning
