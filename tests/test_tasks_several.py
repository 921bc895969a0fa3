"""Several tasks: their aggregate, and their columns."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from command import own, soupkitchen
from made_up import Table
from tiny import LABELS

from soupkitchen import metrics
from soupkitchen.errors import DataError
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


def test_normalised_scores_grow_through_zero():
    task = SimpleNamespace(metric=metrics.load("pearson"), model_class=object)
    tasks = Several({"one": task, "two": task}, "normalized")  # type: ignore[dict-item]
    for best in (-0.1, 0.1):
        ranked = tasks.ranked({"run": {"one": best, "two": 0.5}})
        scores = [ranked.score({"one": x, "two": 0.5}) for x in np.linspace(-0.9, 0.9, 19) + 0.01]
        assert (np.diff(scores) > 0).all()
