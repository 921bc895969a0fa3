"""Several tasks: their aggregate, and their columns."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from command import own, same, soupkitchen
from made_up import Table
from tiny import LABELS

from soupkitchen import metrics
from soupkitchen.errors import ConfigError, DataError
from soupkitchen.records.report import page
from soupkitchen.records.run import Run
from soupkitchen.tasks import Several


def test_tasks_are_aggregated_as_asked():
    tasks = {name: Table("accuracy", np.zeros(1)) for name in "ab"}
    scores = {"a": 0.4, "b": 0.8}
    assert Several(tasks).score(scores) == pytest.approx(0.6)
    assert Several(tasks, weights={"a": 3, "b": 1}).score(scores) == pytest.approx(0.5)
    assert Several(tasks, "min").score(scores) == 0.4
    normalized = Several(tasks, "normalized")
    assert np.isnan(normalized.score(scores))
    ranked = normalized.ranked(
        {"x": {"a": 0.5, "b": 0.1}, "y": {"a": 0.2, "b": 1.0}, "z": {"a": np.nan, "b": 0.0}}
    )
    assert ranked.score(scores) == pytest.approx((0.4 / 0.5 + 0.8 / 1.0) / 2)
    of_losses = Several({name: Table("mse", np.zeros(1)) for name in "ab"}, "normalized")
    losses = of_losses.ranked({"x": {"a": -2.0, "b": -1.0}, "y": {"a": -4.0, "b": -0.5}})
    assert losses.score({"a": -4.0, "b": -0.5}) == pytest.approx((0.5 + 1) / 2)
    with pytest.raises(DataError, match="scores 0 on a"):
        normalized.ranked({"x": {"a": 0.0, "b": 1.0}})


def test_a_task_of_weight_0_counts_for_its_floor_only():
    tasks = {name: Table("accuracy", np.zeros(1)) for name in "abc"}
    told = {"weights": {"a": 1, "b": 0, "c": 3}, "floors": {"b": -0.01, "c": 0}}
    for aggregate in ("mean", "normalized"):
        several = Several(tasks, aggregate, **told).ranked({"x": {"a": 1.0, "b": 0.0, "c": 1.0}})
        assert several.score({"a": 0.4, "b": np.inf, "c": 0.8}) == pytest.approx(0.7)
        assert np.isnan(several.score({"a": 0.4, "b": np.nan, "c": 0.8}))
        assert several.shares == {"a": 0.25, "b": 0.0, "c": 0.75}
        assert several.least({"a": 0.1, "b": 0.58, "c": 0.9}) == pytest.approx({"b": 0.57, "c": 0.9})
    assert Several(tasks).least({"a": 0.1, "b": 0.58, "c": 0.9}) == {}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (
            {"floors": {"a": 0.01}},
            r"task\.floors={'a': 0\.01} should be a number of at most 0 by name of task",
        ),
        ({"floors": [0]}, r"task\.floors=\[0\] should be a number of at most 0 by name of task"),
        ({"floors": {"mmlu_": 0}}, r"task\.floors\.mmlu_: there is no task of that name.*mean mmlu\?"),
        ({"tasks": "a", "floors": {"a": 0}}, r"task\.floors are for several tasks"),
        ({"floors": {"a": 0}, "weights": {"a": 1, "mmlu": 0}}, r"task\.weights=.*0, if they have a floor"),
        ({"floors": {"a": 0}, "weights": {"a": 0, "mmlu": 0}}, r"task\.weights="),
        ({"floors": {"a": 0, "mmlu": 0}, "weights": {"a": 0, "mmlu": 0}}, r"task\.weights="),
    ],
)
def test_floors_that_cannot_be_are_refused_by_name(options, complaint):
    tasks = {name: Table("accuracy", np.zeros(1)) for name in options.pop("tasks", ("a", "mmlu"))}
    with pytest.raises(ConfigError, match=complaint):
        Several(tasks, **options)


def write_two_tasks(texts: Path, folder: Path) -> Several:
    """The texts' labels, and whether texts are long: two tasks for models with one head."""
    for name in ("validation", "test"):
        frame = pd.read_csv(texts / f"{name}.csv")
        long = frame["text"].str.count(" ") > 6
        (folder / "length").mkdir(parents=True, exist_ok=True)
        frame.assign(label=np.where(long, LABELS[0], LABELS[1])).to_csv(
            folder / "length" / f"{name}.csv", index=False
        )


@pytest.mark.slow
@pytest.mark.parametrize("aggregate", ["mean", "min", "normalized"])
def test_several_tasks_decide_together_and_have_columns_of_their_own(text_runs, texts, tmp_path, aggregate):
    write_two_tasks(texts, tmp_path)
    words = [w for w in own(text_runs, texts) if not w.startswith("task")]
    words += ["task=several", f"task.aggregate={aggregate}", "name=x"]
    for name, path in {"kind": texts, "length": tmp_path / "length"}.items():
        words += [f"+task@task.tasks.{name}=text_classification", f"task.tasks.{name}.data.path={path}"]
    soupkitchen(*words, cwd=tmp_path)
    table = pd.read_csv(tmp_path / "results/x/leaderboard.csv")
    pair = table[["heldout_kind", "heldout_length"]]
    singles = table["kind"] == "single"
    expected = {
        "mean": pair.mean(axis=1),
        "min": pair.min(axis=1),
        "normalized": (pair / pair[singles].max()).mean(axis=1),
    }[aggregate]
    np.testing.assert_allclose(table[f"heldout_{aggregate}"], expected, rtol=1e-9)
    assert table.loc[table["kind"] == "soup", f"heldout_{aggregate}"].iloc[0] >= expected[singles].max()
    trajectory = pd.read_csv(tmp_path / "results/x/trajectory.csv")
    rank_rows = trajectory[trajectory["stage"] == "rank"].set_index("candidate")
    by_model = table.set_index("model")
    assert rank_rows["score_kind"].to_dict() == by_model.loc[rank_rows.index, "heldout_kind"].to_dict()
    alone = soupkitchen(*own(text_runs, texts), "search=uniform", "name=alone", cwd=tmp_path)
    assert alone.returncode == 0
    kind = pd.read_csv(tmp_path / "results/alone/leaderboard.csv").set_index("model")["heldout_accuracy"]
    assert kind["a"] == by_model.loc["a", "heldout_kind"]


@pytest.mark.slow
def test_a_run_with_floors_goes_on_where_it_was_and_tells_which_floor_discarded_what(
    text_runs, texts, tmp_path
):
    write_two_tasks(texts, tmp_path)
    words = [w for w in own(text_runs, texts) if not w.startswith("task")]
    words += ["task=several", "task.weights={kind: 1, length: 0}", "name=x"]
    for name, path in {"length": tmp_path / "length", "kind": texts}.items():
        words += [f"+task@task.tasks.{name}=text_classification", f"task.tasks.{name}.data.path={path}"]
    words += ["task.tasks.length.metric.name=cross_entropy"]
    floors = "task.floors={length: -0.1}"
    soupkitchen(*words, floors, cwd=tmp_path)
    folder = tmp_path / "results" / "x"
    table = pd.read_csv(folder / "leaderboard.csv")
    losses = table.drop_duplicates("kind").set_index("kind")["heldout_length"]
    assert losses["soup"] <= losses["single"] + 0.1
    better = table[(table["kind"] == "uniform") & (table["delta_vs_best_single"] > 0)]
    assert (better["heldout_length"] > losses["single"] + 0.1).all()
    rows = pd.read_csv(folder / "trajectory.csv", keep_default_na=False)
    said = f"misses its floor {losses['single'] + 0.1:.6g}"
    merged = rows[rows["stage"] == "merge"]
    missed = merged["reason"].str.contains(said)
    assert set(merged[missed]["decision"]) == {"discard"}
    assert f"A floor discarded {missed.sum()} of the candidates" in page(Run(folder))

    shutil.copytree(folder, tmp_path / "whole")
    journal = folder / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    broken = next(number for number, line in enumerate(lines) if said in line)
    journal.write_text("".join(lines[: broken + 2]))
    (folder / "leaderboard.csv").unlink()
    shutil.rmtree(folder / "soup")
    other = soupkitchen(*words, "task.floors={length: -0.2}", cwd=tmp_path, fails=True).stderr
    assert "task.floors.length: -0.1 before, -0.2 now" in other
    soupkitchen(*words, floors, cwd=tmp_path)
    same(folder, tmp_path / "whole")

    uniform = soupkitchen(*words, floors, "search=uniform", "name=y", cwd=tmp_path, fails=True).stderr
    assert "task.floors need a search that keeps only what is better" in uniform
    above = soupkitchen(*words, "task.floors={length: 0.1}", "name=y", cwd=tmp_path, fails=True).stderr
    assert "task.floors={'length': 0.1} should be a number of at most 0 by name of task" in above


def test_normalised_scores_grow_through_zero():
    task = SimpleNamespace(metric=metrics.load("pearson"), model_class=object)
    tasks = Several({"one": task, "two": task}, "normalized")  # type: ignore[dict-item]
    for best in (-0.1, 0.1):
        ranked = tasks.ranked({"run": {"one": best, "two": 0.5}})
        scores = [ranked.score({"one": x, "two": 0.5}) for x in np.linspace(-0.9, 0.9, 19) + 0.01]
        assert (np.diff(scores) > 0).all()
