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
from command import soupkitchen
from filelock import FileLock
from hydra.core.override_parser.overrides_parser import OverridesParser
from safetensors.torch import load_file
from tiny import average
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import soupkitchen.demo as cooking

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


@functools.cache
def encoded(folder: Path, data: Path) -> list[Any]:
    """The texts of a split, in batches."""
    _, tokenizer = loaded(folder)
    parts = np.array_split(pd.read_csv(data)["text"].to_numpy(), 10)
    return [
        tokenizer(list(texts), truncation=True, max_length=16, padding=True, return_tensors="pt")
        for texts in parts
    ]


def accuracy(weights: dict[str, torch.Tensor], folder: Path, data: Path) -> float:
    """Plain transformers, scikit-learn's metric."""
    model, _ = loaded(folder)
    model.load_state_dict(weights)
    labels = []
    for batch in encoded(folder, data):
        with torch.inference_mode():
            labels += [model.config.id2label[int(row.argmax())] for row in model(**batch).logits]
    return sklearn.metrics.accuracy_score(pd.read_csv(data)["label"], labels)


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
    heldout = cooked / "data" / "validation.csv"
    one = 1.01 / len(
        pd.read_csv(heldout)
    )  # an example may tip where two logits are equal to float32 rounding
    for step in trajectory[trajectory["stage"] == "merge"].itertuples():
        soup = average(cooked / "runs", step.ingredients.split(";"))
        naive = accuracy(soup, cooked / "base", heldout)
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
    test = cooked / "data" / "test.csv"
    assert accuracy(saved, demo / "soup", test) == pytest.approx(soup["test_accuracy"], abs=1.01 / 1000)


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


TRAINED_SHORTLY = """
import os, runpy, sys, traceback
import soupkitchen.demo
from hydra.core.global_hydra import GlobalHydra

def run(words, failure):
    if process := os.fork():
        assert os.waitpid(process, 0)[1] == 0
        return
    code = 1
    try:
        GlobalHydra.instance().clear()
        sys.argv = [*words, "arguments.num_train_epochs=1", "~runs.lr-3e-4"]
        runpy.run_path(words[0], run_name="__main__")
        code = 0
    except BaseException:
        traceback.print_exc()
    os._exit(code)

soupkitchen.demo._run = run
"""


def test_runs_of_two_tasks_become_one_model_for_both(demo, cooked, tmp_path):
    """With four runs of one epoch instead of six of three, trained in forks, and 120 texts of each task."""
    (tmp_path / "demo" / "seed-0").mkdir(parents=True)
    for name in ("base", "data", "runs.complete"):
        (tmp_path / "demo" / "seed-0" / name).symlink_to(cooked / name)
    less = [f"task.tasks.{task}.data.{word}" for task in ("technical", "other")
            for word in ("heldout='validation[:120]'", "test=null")]  # fmt: skip
    words = ["experiment=two_tasks", "name=x", f"cache_dir={tmp_path}", "evaluation.cache=null", *less]
    soupkitchen(*words, cwd=tmp_path, before=TRAINED_SHORTLY)
    assert len(list(tmp_path.glob("demo/seed-0/two_tasks/runs/*/lr-*/trainer_state.json"))) == 4
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
    monkeypatch.setattr(cooking, "_run", lambda words, failure: said.append(words))
    folder = tmp_path / name
    cooking._finetune("demo", folder / "data", folder / "runs", folder / "base", 0, folder / "model")
    words = OverridesParser.create().parse_overrides(said[0][1:])
    told = {word.key_or_group: word.value() for word in words}
    folders = {"model": "model", "data.path": "data", "output": "runs", "base": "base"}
    expected = {option: str(folder / below) for option, below in folders.items()}
    assert told == {"sweep": "demo", "seed": 0, **expected}
