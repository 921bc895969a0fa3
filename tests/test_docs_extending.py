"""What docs/extending.md shows works as shown, and what CONTRIBUTING.md names is there."""

from __future__ import annotations

import functools
import re
import textwrap
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
from causal import ENCODER, best_is_soup, cook
from command import own, soupkitchen
from conftest import ROOT
from safetensors.torch import load_file
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

PAGE = (ROOT / "docs" / "extending.md").read_text()


def block(language: str) -> str:
    found, *_ = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found


@pytest.mark.slow
def test_the_example_method_runs_the_whole_job(text_runs, texts, tmp_path):
    (tmp_path / "my_module.py").write_text(block("python"))
    (tmp_path / "my_conf" / "method").mkdir(parents=True)
    yaml = block("yaml").replace("soupkitchen.merging.Boldest", "my_module.Boldest")
    (tmp_path / "my_conf" / "method" / "boldest.yaml").write_text(yaml)
    words = ["--config-dir", "my_conf", "method=boldest", *own(text_runs, texts), "search=uniform", "name=x"]
    words += [f"pool.base={text_runs / 'd'}", "pool.exclude=[d,wild]"]
    soupkitchen(*words, cwd=tmp_path)
    saved = load_file(tmp_path / "results" / "x" / "soup" / "model.safetensors")
    base = load_file(text_runs / "d" / "model.safetensors")
    for name, tensor in saved.items():
        runs = [load_file(text_runs / run / "model.safetensors")[name] for run in "abc"]
        deltas = np.stack([(run - base[name]).double().numpy() for run in runs])
        boldest = np.take_along_axis(deltas, np.abs(deltas).argmax(0)[None], 0)[0]
        np.testing.assert_allclose(tensor, base[name].double().numpy() + boldest, atol=1e-6)


def own_module(kind: str, folder: Path, name: str) -> list[str]:
    """Puts the page's example of that kind, and its YAML, where a user would; words that choose it."""
    code, yaml = re.search(
        rf"```python\n((?:(?!```).)*?class {name}\b.*?)```.*?```yaml\n(.*?)```", PAGE, re.DOTALL
    ).groups()
    (folder / "my_module.py").write_text(textwrap.dedent(code))
    file = re.search(rf"my_conf/{kind}/(\w+)\.yaml", yaml)
    (folder / "my_conf" / kind).mkdir(parents=True)
    (folder / "my_conf" / kind / f"{file[1]}.yaml").write_text(textwrap.dedent(yaml))
    return ["--config-dir", "my_conf", f"{kind}={file[1]}"]


def job(text_runs: Path, texts: Path, folder: Path, *words: str, results: str = "results") -> pd.DataFrame:
    """The trajectory of a job with a module of one's own."""
    words = (*words, *own(text_runs, texts), "name=x", f"results_dir={results}")
    result = soupkitchen(*words, cwd=folder)
    (folder / "said").write_text(result.stdout)
    return pd.read_csv(folder / results / "x" / "trajectory.csv")


@pytest.mark.slow
def test_the_example_search_tries_the_best_run_with_each_other(text_runs, texts, tmp_path):
    table = job(text_runs, texts, tmp_path, *own_module("search", tmp_path, "Pairs"))
    ranked = table[table["stage"] == "rank"].sort_values("score", ascending=False, kind="stable")
    best, *others = ranked["candidate"]
    merges = table[table["stage"] == "merge"].iloc[1:]
    assert merges["ingredients"].tolist() == [f"{best};{other}" for other in others]
    scores = merges["score"].fillna(-1)  # those that were scored in full
    before = np.maximum.accumulate([ranked["score"].iloc[0], *scores])[:-1]
    np.testing.assert_array_equal(merges["decision"] == "keep", scores > before)


@pytest.mark.slow
def test_the_example_executor_scores_the_same_and_tells(text_runs, texts, tmp_path):
    told = job(text_runs, texts, tmp_path, *own_module("executor", tmp_path, "Told"))
    said = (tmp_path / "said").read_text()
    assert re.search(r"^ranking a \(1 of 5\): \d\.\d{3} s$", said, re.MULTILINE)
    alone = job(text_runs, texts, tmp_path, results="alone")
    seconds = ["merge_seconds", "eval_seconds"]
    pd.testing.assert_frame_equal(told.drop(columns=seconds), alone.drop(columns=seconds))


def test_every_folder_that_is_named_exists():
    for path in re.findall(
        r"`((?:soupkitchen|scripts|tests|docs)/[\w/.]+)`", (ROOT / "CONTRIBUTING.md").read_text() + PAGE
    ):
        assert (ROOT / path).exists(), path


@pytest.mark.slow
def test_the_example_of_a_metric_decides_a_whole_job(text_runs, texts, tmp_path):
    words = [
        *own_module("task", tmp_path, "Recall"),
        f"task.data.path={texts}",
        "task.metric.options.label=1",
    ]
    soupkitchen(*words, f"pool.path={text_runs}", "pool.exclude=[wild]", "name=x", cwd=tmp_path)
    board = pd.read_csv(tmp_path / "results" / "x" / "leaderboard.csv").set_index("model")
    folder = tmp_path / "results" / "x" / "soup"
    soup = AutoModelForSequenceClassification.from_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    frame = pd.read_csv(texts / "test.csv")
    with torch.inference_mode():
        logits = [soup(**tokenizer(text, return_tensors="pt")).logits[0] for text in frame["text"]]
    predicted = [soup.config.id2label[int(one.argmax())] for one in logits]
    right = soup.config.id2label[1]
    expected = sklearn.metrics.recall_score(frame["label"] == right, np.equal(predicted, right))
    assert board.loc["soup", "test_recall"] == pytest.approx(expected, abs=1e-4)
    assert board.loc["soup", "ci_low"] < board.loc["soup", "ci_high"]  # it can be resampled


@pytest.mark.slow
def test_the_example_task_decides_a_whole_job(tmp_path):
    words = own_module("task", tmp_path, "Calibration")
    make = functools.partial(lambda: BertForSequenceClassification(BertConfig(**ENCODER)))
    row = {"text": "w1", "label": 1}
    best_is_soup(cook("calibration", words[:2], row, make, tmp_path), lower_is_better=True)
