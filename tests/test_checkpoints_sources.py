"""What pool.path may name: lists, the folders of a Trainer, models of the hub, runs of trackers."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import ClassVar

import pandas as pd
import pytest
import torch
import transformers
from command import soupkitchen
from safetensors.torch import load_file

from soupkitchen.checkpoints import Pool, find_pool
from soupkitchen.checkpoints.sources import find
from soupkitchen.errors import CheckpointError, ConfigError, IncompatibleError
from soupkitchen.evaluation import LiveModel
from soupkitchen.output.mergekit import read_recipe

CPU = torch.device("cpu")


def names(pool: Pool) -> list[str]:
    return [run.name for run in pool]


# Lists


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_list_of_runs_names_weighs_and_scores_them(suffix, text_runs, tmp_path):
    rows = [
        {"path": str(text_runs / "c"), "name": "third", "weight": 2.0, "accuracy": 0.5},
        {"path": "a", "name": None, "weight": None, "accuracy": 0.7},
    ]
    shutil.copytree(text_runs / "a", tmp_path / "a")  # beside the list: paths are relative to it
    frame, file = pd.DataFrame(rows), tmp_path / f"runs{suffix}"
    frame.to_csv(file, index=False) if suffix == ".csv" else frame.to_json(file, orient="records", lines=True)
    pool = find_pool(str(file))
    assert names(pool) == ["third", "a"]
    assert pool.weights == {"third": 2.0}
    assert pool.scores == {"third": {"accuracy": 0.5}, "a": {"accuracy": 0.7}}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("folder\na\n", "no column 'path'; it has: folder"),
        ("path,weight\na,much\n", "'weight' should hold numbers"),
        ("", "cannot be read as a table"),
        ("path\nnowhere\n", "nowhere is no folder"),
    ],
)
def test_a_list_that_is_none_is_named(content, complaint, tmp_path):
    (tmp_path / "runs.csv").write_text(content)
    (tmp_path / "a").mkdir()
    with pytest.raises(CheckpointError, match=complaint):
        find_pool(str(tmp_path / "runs.csv"))


def test_scores_of_a_list_rank_the_pool_where_they_are_trusted(text_runs, texts, tmp_path):
    listed = {"wild": 0.9, "d": 0.8, "a": 0.2, "b": 0.1}  # not what they score
    frame = pd.DataFrame(
        {"path": [str(text_runs / run) for run in listed], "heldout_accuracy": listed.values()}
    )
    frame.to_csv(tmp_path / "runs.csv", index=False)
    words = ("task=text_classification", f"task.data.path={texts}", "evaluation.cache=null", "name=x")
    result = soupkitchen(f"pool.path={tmp_path}/runs.csv", *words, "pool.trust_scores=true", cwd=tmp_path)
    assert "only wild was scored" in result.stderr
    trajectory = pd.read_csv(tmp_path / "results/x/trajectory.csv")
    assert trajectory.query("stage == 'merge'")["candidate"].tolist() == list(listed)
    assert trajectory.query("stage == 'rank'")["candidate"].tolist() == ["wild"]
    table = pd.read_csv(tmp_path / "results/x/leaderboard.csv").set_index("model")
    assert table.loc["d", "kind"] == "listed"
    assert table.loc["d", "heldout_accuracy"] == 0.8
    measured = table.loc["wild", "heldout_accuracy"]
    assert measured != 0.9
    assert table.loc["soup", "heldout_accuracy"] >= measured
    result = soupkitchen(
        f"pool.path={tmp_path}/runs.csv", *words[:-1], "name=y", "pool.trust_scores=true",
        "task.metric.name=f1_macro", cwd=tmp_path, fails=True,
    )  # fmt: skip
    assert "gives no f1_macro for wild; it has heldout_accuracy" in result.stderr


@pytest.mark.parametrize(
    ("score", "metric", "says"),
    [
        ("35.0", "accuracy", "35 for b, which is no accuracy, of which the best is 1: is it in percent"),
        ("inf", "accuracy", "inf for b, which is no accuracy"),
        ("-inf", "cross_entropy", "-inf for b, which is no cross_entropy"),
        ("-0.2", "cross_entropy", "-0.2 for b, which is no cross_entropy, of which the best is"),
        ("inf", "mine.Sum", "inf for b, which is no Sum"),
        ("", "accuracy", "gives no accuracy for b"),
    ],
)
def test_listed_scores_that_the_metric_cannot_give_are_refused(
    score, metric, says, text_runs, texts, tmp_path
):
    name = metric.removeprefix("mine.")
    (tmp_path / "runs.csv").write_text(f"path,{name}\n{text_runs}/a,0.4\n{text_runs}/b,{score}\n")
    (tmp_path / "mine.py").write_text("class Sum:\n    def of(self, predictions, references): return 0.5\n")
    words = ("task=text_classification", f"task.data.path={texts}", f"task.metric.name={metric}", "name=x")
    words = (*words, f"pool.path={tmp_path}/runs.csv", "pool.trust_scores=true", "evaluation.cache=null")
    assert says in soupkitchen(*words, cwd=tmp_path, fails=True).stderr


def test_listed_scores_in_another_unit_are_warned_of(text_runs, texts, tmp_path):
    (tmp_path / "runs.csv").write_text(f"path,cross_entropy\n{text_runs}/a,40.0\n{text_runs}/b,0.01\n")
    words = (
        "task=text_classification",
        f"task.data.path={texts}",
        "task.metric.name=cross_entropy",
        "name=x",
    )
    words = (*words, f"pool.path={tmp_path}/runs.csv", "pool.trust_scores=true", "evaluation.cache=null")
    error = soupkitchen(*words, cwd=tmp_path).stderr
    assert "the list says 0.01 of b, and it scores" in error
    assert "the listed scores differ by a factor of 4000" in error


def test_weights_of_a_list_are_the_methods(text_runs, texts, tmp_path):
    frame = pd.DataFrame({"path": [str(text_runs / "a"), str(text_runs / "b")], "weight": [3.0, 1.0]})
    frame.to_csv(tmp_path / "runs.csv", index=False)
    words = ("task=text_classification", f"task.data.path={texts}", "evaluation.cache=null", "name=x")
    words = (f"pool.path={tmp_path}/runs.csv", *words, "search=uniform")
    soupkitchen(*words, cwd=tmp_path)
    saved = load_file(tmp_path / "results/x/soup/model.safetensors")
    a, b = (load_file(text_runs / run / "model.safetensors") for run in "ab")
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, (3 * a[name] + b[name]) / 4, rtol=1e-5, atol=1e-7)
    result = soupkitchen(*words[:-1], "name=y", "method.weights={a: 2}", cwd=tmp_path, fails=True)
    assert "both the list of runs (pool.path) and method.weights give weights" in result.stderr


def test_trusting_scores_needs_scores(text_runs):
    with pytest.raises(ConfigError, match="needs a list of runs with scores"):
        find_pool(str(text_runs), trust_scores=True)


# The Trainer's folders


@pytest.fixture
def trained(text_runs: Path, tmp_path: Path) -> Path:
    """Two output folders as the Trainer leaves them, each with three checkpoints."""
    for number, output in enumerate(("one", "two")):
        for step, run in zip((5, 10, 20), ("a", "b", "c") if number else ("b", "c", "d"), strict=True):
            folder = tmp_path / "out" / output / f"checkpoint-{step}"
            shutil.copytree(text_runs / run, folder)
            state = {"best_model_checkpoint": f"/elsewhere/{output}/checkpoint-10", "global_step": step}
            (folder / "trainer_state.json").write_text(json.dumps(state))
    return tmp_path / "out"


@pytest.mark.parametrize(
    ("which", "expected"),
    [
        (None, {"one": "checkpoint-10", "two": "checkpoint-10"}),
        ("best", {"one": "checkpoint-10", "two": "checkpoint-10"}),
        ("last", {"one": "checkpoint-20", "two": "checkpoint-20"}),
        ("all", {f"{o}/checkpoint-{s}": f"checkpoint-{s}" for o in ("one", "two") for s in (5, 10, 20)}),
    ],
)
def test_checkpoints_of_trainer_folders_are_runs(which, expected, trained):
    found = find(str(trained), checkpoints=which)
    assert {name: source.folder.name for name, source in found.items()} == expected
    assert list(found) == list(expected)  # by step, not by spelling


def test_a_trainers_own_model_comes_before_its_checkpoints(trained, text_runs):
    for file in (text_runs / "wild").iterdir():
        shutil.copy(file, trained / "one")
    assert find(str(trained))["one"].folder == trained / "one"
    assert find(str(trained), checkpoints="last")["one"].folder.name == "checkpoint-20"


def test_a_trainer_that_names_no_best_checkpoint_says_so(trained):
    for state in trained.glob("one/*/trainer_state.json"):
        state.write_text("{}")
    assert find(str(trained))["one"].folder.name == "checkpoint-20"
    with pytest.raises(CheckpointError, match="names no best checkpoint"):
        find(str(trained), checkpoints="best")
    with pytest.raises(ConfigError, match=r"pool\.checkpoints=first"):
        find(str(trained), checkpoints="first")


def test_copies_are_found_by_content(trained, caplog):
    pool = find_pool(str(trained), checkpoints="all")  # b and c are in both folders
    assert len(pool) == 4
    assert "two/checkpoint-10 has the same content as one/checkpoint-5" in caplog.text
    assert "two/checkpoint-20 has the same content as one/checkpoint-10" in caplog.text


# Names on the hub


@pytest.fixture
def hub(text_runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache with two models, one of them in two revisions, as huggingface_hub lays it out."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub._snapshot_download.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for repository, revisions in {"ann/x": {"main": "a", "v2": "b"}, "bob/y": {"main": "c"}}.items():
        folder = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        for number, (revision, run) in enumerate(revisions.items()):
            commit = f"{number:040x}"
            for file in sorted((text_runs / run).iterdir()):
                blob = folder / "blobs" / f"{commit}-{file.name}"
                blob.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(file, blob)
                link = folder / "snapshots" / commit / file.name
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(blob)
            (folder / "refs").mkdir(exist_ok=True)
            (folder / "refs" / revision).write_text(commit)


def test_models_of_the_hub_are_runs_by_name_and_revision(hub, text_runs):
    pool = find_pool(["ann/x@v2", "bob/y", str(text_runs / "a")], base="ann/x")
    assert names(pool) == ["ann/x@v2", "bob/y", "a"]
    for run, local in zip(pool, ("b", "c", "a"), strict=True):
        expected = load_file(text_runs / local / "model.safetensors")
        assert all(torch.equal(tensor, expected[name]) for name, tensor in run.tensors())
    assert torch.equal(
        pool.base.tensor("classifier.bias"), load_file(text_runs / "a/model.safetensors")["classifier.bias"]
    )


def test_adapters_find_their_base_on_the_hub(hub, base, adapters, tmp_path, monkeypatch):
    snapshot = tmp_path / "hub" / "models--ann--llama" / "snapshots" / "f00"
    shutil.copytree(base, snapshot)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "v1").write_text("f00")
    for name in ("a", "b"):
        shutil.copytree(adapters / name, tmp_path / "runs" / name)
        file = tmp_path / "runs" / name / "adapter_config.json"
        named = {"base_model_name_or_path": "ann/llama", "revision": "v1"}
        file.write_text(json.dumps(json.loads(file.read_text()) | named))
    pool = find_pool(str(tmp_path / "runs"))
    expected = dict(find_pool(str(adapters), exclude=["c", "d"])["b"].tensors())
    assert all(torch.equal(tensor, expected[name]) for name, tensor in pool["b"].tensors())


class Asked(BaseHTTPRequestHandler):
    """A hub that has nothing, and notes what it is asked for."""

    paths: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.paths.append(self.path)
        self.send_error(404)

    do_HEAD = do_GET  # noqa: N815

    def log_message(self, *_: object) -> None:
        """Keeps quiet."""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What a hub that can be reached is asked for."""
    server = HTTPServer(("127.0.0.1", 0), Asked)
    Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
    for name in ("HF_ENDPOINT",):
        monkeypatch.setenv(name, address)
    Asked.paths.clear()
    yield Asked.paths
    server.shutdown()
    server.server_close()


def test_the_hub_is_asked_for_what_the_user_names_and_not_for_what_files_name(
    asked, base, adapters, tmp_path
):
    for name in ("a", "b"):
        shutil.copytree(adapters / name, tmp_path / "runs" / name)
        file = tmp_path / "runs" / name / "adapter_config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": "ann/llama"}))
    with pytest.raises(
        IncompatibleError, match=r"the hub is asked only for what you name yourself, as pool.base"
    ):
        find_pool(str(tmp_path / "runs"))
    pool = find_pool(str(tmp_path / "runs"), base=str(base))
    LiveModel(pool.reference, transformers.AutoModelForCausalLM, CPU)
    assert asked == []
    with pytest.raises(CheckpointError, match="ann/llama is no folder here, and as a name on the hub"):
        find_pool(str(tmp_path / "runs"), base="ann/llama")
    assert any("ann/llama" in path for path in asked)


def as_csv(name: str, file: Path) -> None:
    file.write_text(f"path\n{name}\n")


def as_jsonl(name: str, file: Path) -> None:
    file.write_text(json.dumps({"path": name}) + "\n")


def as_wandb_exports(name: str, file: Path) -> None:
    file.write_text(f"Name,State,output_dir\nx,finished,{name}\n")


def as_mergekit(name: str, file: Path) -> None:
    file.write_text(f"merge_method: linear\nmodels: [{{model: {name}, parameters: {{weight: 1}}}}]\n")


def as_base_of_mergekit(name: str, file: Path) -> None:
    models = [{"model": str(file.parent)}, {"model": f"{file.parent}-2"}]
    told = {"merge_method": "ties", "base_model": name, "models": models, "parameters": {"weight": 1}}
    file.write_text(json.dumps(told))


@pytest.mark.parametrize(
    ("write", "kind"),
    [(as_csv, "csv"), (as_jsonl, "jsonl"), (as_wandb_exports, "csv"), (as_mergekit, "yaml"),
     (as_base_of_mergekit, "yaml")],
)  # fmt: skip
def test_of_what_a_list_names_the_hub_is_asked_for_what_begins_with_hf(write, kind, asked, base, tmp_path):
    for name in ("list", "list-2"):
        shutil.copytree(base, tmp_path / name)
    file = tmp_path / "list" / f"runs.{kind}"
    write("results/run-1", file)
    for taken in (find_pool, made_again) if kind == "yaml" else (find_pool,):
        with pytest.raises(CheckpointError, match="as hf://results/run-1 in a list, or by: hf download"):
            taken(str(file))
    assert asked == []
    write("hf://ann/llama", file)
    with pytest.raises(CheckpointError, match="ann/llama is no folder here, and as a name on the hub"):
        find_pool(str(file))
    assert any("ann/llama" in path for path in asked)


def made_again(file: str) -> None:
    read_recipe(Path(file))


def test_an_experiments_folder_is_not_asked_of_the_hub(asked, monkeypatch):
    run = SimpleNamespace(
        data=SimpleNamespace(params={"output_dir": "results/run-1"}, metrics={}),
        info=SimpleNamespace(run_name="x"),
    )
    experiment = SimpleNamespace(experiment_id="0")
    monkeypatch.setattr("mlflow.MlflowClient.get_experiment_by_name", lambda self, name: experiment)
    monkeypatch.setattr("mlflow.search_runs", lambda *arguments, **options: [run])
    with pytest.raises(CheckpointError, match=r"results/run-1 is no folder here"):
        find_pool("mlflow:sweep")
    assert asked == []


def test_what_is_in_the_hubs_cache_is_taken_by_its_name_in_a_list(hub, tmp_path):
    (tmp_path / "runs.csv").write_text("path\nann/x\nhf://bob/y\n")
    assert names(find_pool(str(tmp_path / "runs.csv"))) == ["ann/x", "bob/y"]
    assert names(find_pool(["hf://ann/x@v2", "bob/y"], base="hf://ann/x")) == ["ann/x@v2", "bob/y"]


def test_a_name_that_the_hub_cannot_give_is_named(hub):
    with pytest.raises(CheckpointError, match=r"ann/x@v9 is no folder here, and as a name on the hub"):
        find_pool(["ann/x@v9", "bob/y"])


def test_names_in_lists_that_look_like_numbers_stay_names(text_runs, tmp_path):
    for run, name in (("a", "1e-3"), ("b", "001")):
        shutil.copytree(text_runs / run, tmp_path / name)
    (tmp_path / "runs.csv").write_text("path, weight\n1e-3, 2\n001, 3\n")
    pool = find_pool(str(tmp_path / "runs.csv"))
    assert names(pool) == ["1e-3", "001"]
    assert pool.weights == {"1e-3": 2.0, "001": 3.0}
    (tmp_path / "runs.jsonl").write_text('{"path": "1e-3", "name": "007"}\n{"path": "001", "name": "1e1"}\n')
    assert names(find_pool(str(tmp_path / "runs.jsonl"))) == ["007", "1e1"]


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
    monkeypatch.setattr("mlflow.tracking.fluent.NUM_RUNS_PER_PAGE_PANDAS", 2)
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
