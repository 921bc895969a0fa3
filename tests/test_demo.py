"""The whole default job, on the real model and real texts: what the README's first command does."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from safetensors.torch import load_file
from tiny import average
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import soupkitchen.demo

pytestmark = pytest.mark.slow

RUNS = 9


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the default run's results; its pool is cooked if it is not there yet."""
    folder = tmp_path_factory.mktemp("demo")
    with FileLock(tmp_path_factory.getbasetemp() / "demo.lock"):
        result = subprocess.run(
            [sys.executable, "-m", "soupkitchen"], cwd=folder, capture_output=True, text=True, check=False
        )
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().splitlines()[-1] == "all runs     results/leaderboard.csv"
    return folder / "results" / "demo-linear-greedy"


@pytest.fixture(scope="module")
def cooked() -> Path:
    return Path(os.environ["SOUPKITCHEN_CACHE"]) / "demo" / "seed-0"


@functools.cache
def loaded(folder: Path) -> tuple[Any, Any]:
    """A model and its tokenizer."""
    return AutoModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def accuracy(weights: dict[str, torch.Tensor], folder: Path, frame: pd.DataFrame) -> float:
    """Plain transformers, scikit-learn's metric."""
    model, tokenizer = loaded(folder)
    model.load_state_dict(weights)
    labels = []
    for texts in np.array_split(frame["text"].to_numpy(), 10):
        batch = tokenizer(list(texts), truncation=True, max_length=16, padding=True, return_tensors="pt")
        with torch.inference_mode():
            labels += [model.config.id2label[int(row.argmax())] for row in model(**batch).logits]
    return sklearn.metrics.accuracy_score(frame["label"], labels)


def test_the_soup_is_at_least_as_good_as_the_best_single_run(demo):
    table = pd.read_csv(demo / "leaderboard.csv")
    assert (
        table.columns.tolist()
        == (
            "rank model kind ingredients heldout_accuracy test_accuracy ci_low ci_high delta_vs_best_single"
        ).split()
    )
    assert table["kind"].value_counts().to_dict() == {"single": RUNS, "uniform": 2, "soup": 1}
    soup, singles = (table[table["kind"] == kind]["heldout_accuracy"] for kind in ("soup", "single"))
    assert soup.iloc[0] >= singles.max()


def test_the_trajectory_has_a_row_for_every_model_that_was_scored(demo):
    trajectory = pd.read_csv(demo / "trajectory.csv")
    # final: soup, uniform and uniform_top_k on both splits, the best single run on test
    assert trajectory["stage"].value_counts().to_dict() == {"rank": RUNS, "merge": RUNS, "final": 7}
    assert trajectory["step"].tolist() == list(range(2 * RUNS + 7))


def test_recomputing_each_step_naively_gives_the_tables_score(demo, cooked):
    trajectory = pd.read_csv(demo / "trajectory.csv")
    assert trajectory["stage"].value_counts().to_dict()["merge"] == RUNS
    heldout = pd.read_csv(cooked / "data" / "validation.csv")
    for step in trajectory[trajectory["stage"] == "merge"].itertuples():
        soup = average(cooked / "runs", step.ingredients.split(";"))
        naive = accuracy(soup, cooked / "base", heldout)
        one = 1.01 / len(heldout)  # an example may tip where two logits are equal to float32 rounding
        if step.stopped_early:
            assert naive <= step.score_at_most + one
            assert step.score_at_most <= step.best_before
        else:
            assert naive == pytest.approx(step.score, abs=one)


def test_the_saved_soup_is_the_average_of_its_ingredients(demo, cooked):
    table = pd.read_csv(demo / "leaderboard.csv")
    soup = table[table["kind"] == "soup"].iloc[0]
    expected = average(cooked / "runs", soup["ingredients"].split(";"))
    saved = load_file(demo / "soup" / "model.safetensors")
    assert saved.keys() == expected.keys()
    assert max((saved[name] - expected[name]).abs().max() for name in saved) <= 1e-6
    test = pd.read_csv(cooked / "data" / "test.csv")
    assert accuracy(saved, demo / "soup", test) == pytest.approx(soup["test_accuracy"], abs=1.01 / len(test))


def test_the_runs_are_fine_tunes_of_one_init_as_the_trainer_leaves_them(cooked):
    runs = sorted(folder for folder in (cooked / "runs").iterdir() if not folder.name.startswith("."))
    assert len(runs) == RUNS
    base = load_file(cooked / "base" / "model.safetensors")
    embeddings = "bert.embeddings.word_embeddings.weight"
    for run in runs:
        assert (run / "trainer_state.json").exists()
        assert (run / "training_args.bin").exists()
        weights = load_file(run / "model.safetensors")
        assert torch.equal(weights[embeddings], base[embeddings])  # frozen
        assert not torch.equal(weights["classifier.weight"], base["classifier.weight"])


def test_no_text_is_in_two_splits(cooked):
    splits = [
        set(pd.read_csv(cooked / "data" / f"{name}.csv")["text"]) for name in ("train", "validation", "test")
    ]
    assert [len(split) for split in splits] == [600, 400, 1000]
    assert len(set.union(*splits)) == 2000


def test_the_second_time_nothing_is_cooked_again(demo, cooked):
    before = {file: file.stat().st_mtime_ns for file in cooked.rglob("*.safetensors")}
    from soupkitchen.demo import cook

    assert cook(cooked.parents[1], seed=0) == cooked
    assert {file: file.stat().st_mtime_ns for file in cooked.rglob("*.safetensors")} == before


def test_runs_of_two_tasks_become_one_model_for_both(demo, tmp_path):
    with FileLock(Path(os.environ["SOUPKITCHEN_CACHE"]).parent / "two_tasks.lock"):
        command = [sys.executable, "-m", "soupkitchen", "experiment=two_tasks", "name=x"]
        result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(tmp_path / "results/x/leaderboard.csv").set_index("model")
    tasks = table[["heldout_technical", "heldout_other"]]
    np.testing.assert_allclose(table["heldout_mean"], tasks.mean(axis=1))
    assert (tasks[table["kind"] == "single"].min(axis=1) < 0.2).all()  # a run knows one task only
    assert tasks.loc["soup"].min() > 0.4


@pytest.mark.parametrize(
    "name", ["söup kitchen", "it's", 'a "b" c', "a,b=[c]", "{x}", "(y)", "back\\slash", '\\"']
)
def test_folders_of_any_name_reach_the_script_that_fine_tunes(name, tmp_path, monkeypatch):
    said: list[list[str]] = []
    monkeypatch.setattr(soupkitchen.demo, "_run", lambda words, failure: said.append(words))
    folder = tmp_path / name
    soupkitchen.demo._finetune("demo", folder / "data", folder / "runs", folder / "base", 0, folder / "model")
    words = OverridesParser.create().parse_overrides(said[0][1:])
    told = {word.key_or_group: word.value() for word in words}
    folders = {"model": "model", "data.path": "data", "output": "runs", "base": "base"}
    expected = {option: str(folder / below) for option, below in folders.items()}
    assert told == {"sweep": "demo", "seed": 0, **expected}
