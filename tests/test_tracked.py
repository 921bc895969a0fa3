"""Pools as trackers know them: an experiment of MLflow's, a table that W&B exports."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from soupkitchen.checkpoints import find_pool, tracker_runs
from soupkitchen.errors import CheckpointError

# MLflow's, with SQLAlchemy 2.1
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture
def store(text_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local store of MLflow's with an experiment, as the Trainer's callback fills it."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    experiment = mlflow.create_experiment("sweep", artifact_location=str(tmp_path / "artifacts"))
    client = mlflow.MlflowClient()
    for number, name in enumerate(("c", "a", "b", "nowhere", "failed")):
        run = client.create_run(experiment, run_name=f"run {name}").info.run_id
        if name != "nowhere":
            client.log_param(run, "output_dir", str(text_runs / name))
        client.log_metric(run, "eval_accuracy", 0.5 + number / 10)
        client.set_terminated(run, "FAILED" if name == "failed" else "FINISHED")
    return tmp_path


def test_an_experiment_of_mlflows_is_a_pool_whatever_its_number_of_runs(store, caplog, monkeypatch):
    monkeypatch.setattr(tracker_runs, "_PAGE", 2)
    pool = find_pool("mlflow:sweep")
    assert [run.name for run in pool] == ["run c", "run a", "run b"]
    assert pool.scores == {"run c": {"accuracy": 0.5}, "run a": {"accuracy": 0.6}, "run b": {"accuracy": 0.7}}
    assert "1 runs of sweep do not say where they are" in caplog.text
    with pytest.raises(CheckpointError, match="no experiment called swep; it has Default, sweep"):
        find_pool("mlflow:swep")


def test_a_table_that_wandb_exports_is_a_pool(text_runs, tmp_path, caplog):
    rows = [
        {"Name": f"sunny-{name}", "State": state, "output_dir": str(text_runs / name), "eval/accuracy": 0.5,
         "Created": "2026-01-01T00:00:00.000Z"}
        for name, state in {"a": "finished", "b": "finished", "c": "crashed", "d": "finished"}.items()
    ]  # fmt: skip
    rows += [rows[0] | {"Name": "nowhere", "output_dir": None}]
    pd.DataFrame(rows).to_csv(tmp_path / "export.csv", index=False)
    pool = find_pool(str(tmp_path / "export.csv"))
    assert [run.name for run in pool] == ["sunny-a", "sunny-b", "sunny-d"]
    assert pool.scores["sunny-a"] == {"accuracy": 0.5}
    assert "2 rows are of no finished run, or have no output_dir: left out" in caplog.text
