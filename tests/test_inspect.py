"""`python -m soupkitchen.inspect`: what a pool holds, held against plain numpy."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command import as_module, forked
from safetensors.numpy import load_file

from soupkitchen.checkpoints import find_pool
from soupkitchen.inspect import inspect
from soupkitchen.records import read_csv


def flat(run: Path) -> np.ndarray:
    tensors = load_file(run / "model.safetensors")
    return np.concatenate([tensors[name].reshape(-1) for name in sorted(tensors)]).astype(np.float64)


def test_distances_and_cosines_are_those_of_numpy(text_runs):
    table = inspect(find_pool(str(text_runs), exclude=["a"], base=str(text_runs / "a"))).set_index("run")
    start = flat(text_runs / "a")
    vectors = {run: flat(text_runs / run) - start for run in ("b", "c", "d", "wild")}
    for run, vector in vectors.items():
        assert table.loc[run, "distance"] == pytest.approx(
            np.linalg.norm(vector) / np.linalg.norm(start), rel=1e-5
        )
        others = [other for name, other in vectors.items() if name != run]
        cosines = [v @ vector / np.linalg.norm(v) / np.linalg.norm(vector) for v in others]
        assert table.loc[run, "mean_cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)
    assert table.loc["b", "parameters"] == start.size
    assert table.loc["b", "dtype"] == "F32"
    assert table.loc["b", "architecture"] == "BertForSequenceClassification"
    assert table.loc["b", "megabytes"] == pytest.approx(
        (text_runs / "b" / "model.safetensors").stat().st_size / 1e6, abs=0.05
    )
    assert table.loc["wild", "guess"] == "far off: likely to hurt"
    assert table.loc["b", "guess"] == "merges well"


def test_a_run_that_equals_its_base_leaves_the_others_cosines(text_runs):
    names = ["a", "b", "c"]
    pool = find_pool(str(text_runs), exclude=["d", "wild"], base=str(text_runs / "a"))
    table = inspect(pool).set_index("run")
    vectors = {name: flat(text_runs / name) - flat(text_runs / "a") for name in names}
    cosine = vectors["b"] @ vectors["c"] / np.linalg.norm(vectors["b"]) / np.linalg.norm(vectors["c"])
    assert table.loc["b", "mean_cosine"] == pytest.approx(cosine, abs=1e-5)
    assert table.loc["c", "mean_cosine"] == pytest.approx(cosine, abs=1e-5)
    assert np.isnan(table.loc["a", "mean_cosine"])
    assert table["guess"].tolist()[0] == "is the base itself"


def test_without_a_base_distances_are_from_the_mean(text_runs):
    table = inspect(find_pool(str(text_runs), exclude=["wild"])).set_index("run")
    runs = {run: flat(text_runs / run) for run in "abcd"}
    mean = np.mean(list(runs.values()), axis=0)
    for run, vector in runs.items():
        expected = np.linalg.norm(vector - mean) / np.linalg.norm(mean)
        assert table.loc[run, "distance"] == pytest.approx(expected, rel=1e-4)
    assert table["mean_cosine"].isna().all()


def test_adapters_are_inspected_as_changes_of_their_base(adapters):
    table = inspect(find_pool(str(adapters))).set_index("run")
    assert table["adapter"].all()
    assert (table["distance"] > 0).all()


def test_the_command_prints_a_table_and_writes_a_csv(copy_runs, text_runs, tmp_path):
    runs = copy_runs("a", "b", "c")
    (runs / "b" / "model.safetensors").write_bytes(b"")
    state = {"log_history": [{"loss": 1.0}, {"eval_accuracy": 0.25}, {"eval_accuracy": 0.75}]}
    (runs / "c" / "trainer_state.json").write_text(json.dumps(state))
    words = (str(runs), "--base", str(text_runs / "d"), "--csv", "pool.csv")
    result = forked(as_module("soupkitchen.inspect"), *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "merges well" in result.stdout
    assert f"base: {text_runs / 'd'}" in result.stdout
    assert "b  " in result.stderr  # what cannot be read is named
    assert "cannot be read as safetensors" in result.stderr
    table = pd.read_csv(tmp_path / "pool.csv")
    assert table["run"].tolist() == ["a", "c"]
    assert table["eval_accuracy"].tolist()[1] == 0.75
    result = forked(as_module("soupkitchen.inspect"), "nowhere", cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")


def test_names_are_printed_without_obeying_them_and_no_cell_of_the_csv_is_a_formula(copy_runs, tmp_path):
    runs = copy_runs("a", "b", "c")
    names = ["=1+1", "NA", "\x1b[31mred"]
    for old, new in zip("abc", names, strict=True):
        (runs / old).rename(runs / new)
    result = forked(as_module("soupkitchen.inspect"), str(runs), "--csv", "pool.csv", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout + result.stderr
    assert r"\x1b[31mred" in result.stdout
    raw = pd.read_csv(tmp_path / "pool.csv", keep_default_na=False)
    assert sorted(raw["run"]) == sorted(["'=1+1", "NA", "\x1b[31mred"])
    assert sorted(read_csv(tmp_path / "pool.csv")["run"]) == sorted(names)
