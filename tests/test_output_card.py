"""The model card of a soup, read as the hub reads it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from command import own, soupkitchen
from huggingface_hub import ModelCard
from transformers import AutoModelForSequenceClassification

from soupkitchen.output.card import _summary
from soupkitchen.records import read_csv
from soupkitchen.records.run import Outcome
from soupkitchen.records.tables import joined


@pytest.fixture(scope="module")
def run(text_runs: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose base has a licence, and with names that mean something in Markdown."""
    folder = tmp_path_factory.mktemp("card")
    runs = folder / "runs"
    shutil.copytree(text_runs, runs)
    (runs / "b").rename(runs / "b|*x*")
    base = folder / "models--me--tiny-bert" / "snapshots" / "0"
    shutil.copytree(text_runs / "d", base)
    (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n# tiny\n")
    words = [
        *own(runs, texts),
        f"pool.base={base}",
        "method=task_arithmetic",
        "method.normalize=true",
        "name=x",
    ]
    soupkitchen(*words, "report.write=true", cwd=folder)
    return folder / "results" / "x"


def test_the_hub_reads_what_it_is(run):
    told = ModelCard.load(run / "soup" / "README.md")
    data, table = told.data, read_csv(run / "leaderboard.csv")
    soup = table[table["kind"] == "soup"].iloc[0]
    assert data.base_model == ["me/tiny-bert"]
    assert data.base_model_relation == "merge"
    assert data.license == "apache-2.0"
    assert {"merge", "soupkitchen"} <= set(data.tags)
    assert data.pipeline_tag == "text-classification"
    scores = {(one.dataset_split, one.metric_type): one.metric_value for one in data.eval_results}
    assert scores == {
        ("heldout", "accuracy"): soup["heldout_accuracy"], ("test", "accuracy"): soup["test_accuracy"]
    }  # fmt: skip


def test_people_read_what_is_in_it_and_how_to_load_it(run):
    text = (run / "soup" / "README.md").read_text()
    table = read_csv(run / "leaderboard.csv")
    soup = table[table["kind"] == "soup"].iloc[0]
    for name in soup["ingredients"].split(";"):
        assert f"| {name.replace('|', chr(92) + '|').replace('*', chr(92) + '*')} | 1 |" in text
    assert f"| {soup['heldout_accuracy']:.4f} | {soup['ci_low']:.4f} to {soup['ci_high']:.4f} |" in text
    assert "|\n\n|" not in text
    assert "flatters the soup somewhat. Test data chose nothing." in text
    assert "TaskVectors (normalize True, scale 1.0), from the base me/tiny-bert" in text
    assert "![Score after each step](trajectory.png)" in text
    assert (run / "soup" / "trajectory.png").read_bytes() == (run / "trajectory.png").read_bytes()
    code = text.split("```python\n")[1].split("```")[0].replace("FOLDER", str(run / "soup"))
    names: dict[str, object] = {}
    exec(code, names)
    assert isinstance(names["model"], type(AutoModelForSequenceClassification.from_pretrained(run / "soup")))


def test_a_run_with_a_semicolon_in_its_name_is_one():
    soup = {"ingredients": joined(("a;b",)), "delta_vs_best_single": 0.0}
    said = _summary(Outcome("accuracy", soup, {"model": "a;b"}))
    assert said == "No merge improved on the best single run, a;b: this is that run."


def test_without_a_base_on_the_hub_none_is_named(text_runs, texts, tmp_path):
    soupkitchen(
        *own(text_runs, texts), "name=x", "search.accept={margin: 1}", "report.write=true", cwd=tmp_path
    )
    told = ModelCard.load(tmp_path / "results" / "x" / "soup" / "README.md")
    assert told.data.base_model is None
    assert told.data.license is None
    assert "No merge improved on the best single run" in told.text
    soupkitchen(*own(text_runs, texts), "name=y", "report.write=false", cwd=tmp_path)
    assert not (tmp_path / "results" / "y" / "soup" / "README.md").exists()
    assert not (tmp_path / "results" / "y" / "report.html").exists()
