"""From Python: the same as the command, with the same files."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from command import SECONDS, forked, soupkitchen
from conftest import ROOT
from safetensors.torch import load_file
from transformers import BertForSequenceClassification

import soupkitchen as api
from soupkitchen.checkpoints import find_pool
from soupkitchen.errors import CandidateError, CheckpointError, ConfigError, JournalError, LockError
from soupkitchen.evaluation import EvaluationOptions, Runtime
from soupkitchen.merging import Linear
from soupkitchen.search import Greedy, Uniform
from soupkitchen.soup import Mixer
from soupkitchen.store.lock import only_process


def cooked(text_runs: Path, texts: Path, folder: Path, **more: Any) -> api.Result:
    options: dict[str, Any] = {
        "method": api.methods.linear(),
        "runtime": Runtime(batch_size=16, threads=1),
        "evaluation": EvaluationOptions(),
        "results_dir": folder,
    }
    task = api.tasks.text_classification(str(texts))
    return api.cook(f"{text_runs}/*", task, **{**options, **more})


@pytest.fixture(scope="module")
def result(text_runs: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> api.Result:
    return cooked(text_runs, texts, tmp_path_factory.mktemp("cooked"), name="x")


def test_cook_gives_what_the_command_gives(result, text_runs, texts, tmp_path):
    words = (f"pool.path={text_runs}/*", "task=text_classification", f"task.data.path={texts}", "name=x")
    soupkitchen(*words, "evaluation.cache=null", "runtime.batch_size=16", cwd=tmp_path)
    other = tmp_path / "results" / "x"
    for name in ("leaderboard.csv", "trajectory.csv"):
        ours, theirs = (
            pd.read_csv(f / name).drop(columns=SECONDS, errors="ignore") for f in (result.folder, other)
        )
        pd.testing.assert_frame_equal(ours, theirs)
    for file in (other / "soup").iterdir():
        assert (result.folder / "soup" / file.name).read_bytes() == file.read_bytes()


def test_the_command_takes_a_run_of_pythons_for_its_own(result, text_runs, texts, tmp_path):
    shutil.copytree(result.folder, tmp_path / "results" / "x")
    words = ["pool=folder", f"pool.path={text_runs}/*", "task=text_classification"]
    words += [f"task.data.path={texts}", "name=x"]
    told = soupkitchen(*words, cwd=tmp_path)
    assert "keep " not in told.stderr  # it was finished
    assert "soup " in told.stdout
    error = soupkitchen(*words, "search.accept=not_worse", cwd=tmp_path, fails=True).stderr
    assert "search.accept: better before, not_worse now" in error


def test_a_result_has_tables_recipe_and_model(result, text_runs, texts):
    pd.testing.assert_frame_equal(
        result.leaderboard, pd.read_csv(result.folder / "leaderboard.csv"), check_dtype=False
    )
    assert result.trajectory["stage"].unique().tolist() == ["rank", "merge", "final"]
    soup = result.leaderboard[result.leaderboard["kind"] == "soup"].iloc[0]
    assert ";".join(result.recipe.ingredients) == soup["ingredients"]
    assert result.score == soup["heldout_accuracy"]
    assert result.gain == soup["delta_vs_best_single"] > 0
    model = result.model()
    assert isinstance(model, BertForSequenceClassification)
    saved = load_file(result.folder / "soup" / "model.safetensors")
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in saved.items())
    again = dict(Mixer(find_pool(f"{text_runs}/*")).tensors(result.recipe))
    assert all(torch.equal(again[name], tensor) for name, tensor in saved.items())


def test_the_same_call_goes_on_where_a_run_was_interrupted(result, text_runs, texts, tmp_path):
    folder = tmp_path / "x"
    shutil.copytree(result.folder, folder)
    lines = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    (folder / "journal.jsonl").write_text("".join(lines[:9]) + lines[9][:20])
    shutil.rmtree(folder / "soup")
    (folder / "leaderboard.csv").unlink()
    again = cooked(text_runs, texts, tmp_path, name="x")
    assert (folder / "journal.jsonl").read_text().splitlines(keepends=True)[:9] == lines[:9]
    pd.testing.assert_frame_equal(again.leaderboard, result.leaderboard)
    assert (folder / "soup" / "model.safetensors").read_bytes() == (
        result.folder / "soup" / "model.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_a_finished_run_is_not_repeated_and_another_gets_a_folder_of_its_own(text_runs, texts, tmp_path):
    first = cooked(text_runs, texts, tmp_path, search=Uniform())
    at = (first.folder / "journal.jsonl").stat().st_mtime_ns
    assert cooked(text_runs, texts, tmp_path, search=Uniform()).folder == first.folder
    assert (first.folder / "journal.jsonl").stat().st_mtime_ns == at
    other = cooked(text_runs, texts, tmp_path, search=Uniform(), exclude="wild")
    assert other.folder != first.folder
    table = pd.read_csv(tmp_path / "leaderboard.csv")
    assert set(table["run"]) == {first.folder.name, other.folder.name}
    with pytest.raises(ConfigError, match=r"search\._target_: soupkitchen\.search\.Uniform before"):
        cooked(text_runs, texts, tmp_path, search=Greedy(), name=first.folder.name)


def test_a_pool_that_was_opened_is_taken_as_it_is(result, text_runs, texts, tmp_path):
    pool = find_pool(f"{text_runs}/*")
    task = api.tasks.text_classification(str(texts))
    runtime = Runtime(batch_size=16, threads=1)
    again = api.cook(pool, task, runtime=runtime, results_dir=tmp_path, name="x")
    pd.testing.assert_frame_equal(again.leaderboard, result.leaderboard)


def test_only_one_process_works_in_a_folder(text_runs, texts, tmp_path):
    with only_process(tmp_path / "x"), pytest.raises(LockError, match="is in use by process"):
        cooked(text_runs, texts, tmp_path, name="x")


def test_wrong_options_are_said_before_any_work(text_runs, texts, tmp_path):
    with pytest.raises(ConfigError, match=r"top_k=0"):
        cooked(text_runs, texts, tmp_path, top_k=0)
    with pytest.raises(ConfigError, match=r"needs the model that the runs were fine-tuned from"):
        cooked(text_runs, texts, tmp_path, method=api.methods.ties(), name="x")
    assert list(tmp_path.iterdir()) == []


def test_arguments_that_make_no_sense_are_named(text_runs, texts, tmp_path):
    task, opened = api.tasks.text_classification(str(texts)), find_pool(f"{text_runs}/*")
    with pytest.raises(ConfigError, match="pool names no runs"):
        api.cook([], task, results_dir=tmp_path)
    with pytest.raises(ConfigError, match="is no task"):
        api.cook("runs", [task], results_dir=tmp_path)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="base and exclude are for find_pool"):
        api.cook(opened, task, exclude="wild", results_dir=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_texts_with_dollar_signs_are_texts(text_runs, texts, tmp_path):
    named = tmp_path / "${odd} ${x t"
    shutil.copytree(text_runs, named, ignore=shutil.ignore_patterns("c", "d", "wild"))
    pool = find_pool([named / "a", named / "b"], base=named / "a")
    task = api.tasks.text_classification(texts)
    first = api.cook(pool, task, search=Uniform(), results_dir=tmp_path / "results")
    assert api.cook(pool, task, search=Uniform(), results_dir=tmp_path / "results").folder == first.folder


@pytest.mark.slow
def test_a_run_that_failed_for_a_reason_that_is_gone_goes_on(text_runs, texts, tmp_path, monkeypatch):
    def missing(self: Any, *_: Any) -> Any:
        raise RuntimeError("libfoo is missing")

    with monkeypatch.context() as broken:
        for way in ("add", "add_"):
            broken.setattr(f"soupkitchen.merging.Linear.{way}", missing)
        with pytest.raises(CandidateError, match="libfoo is missing"):
            cooked(text_runs, texts, tmp_path, search=Uniform(), name="x")
    assert "libfoo" not in (tmp_path / "x" / "journal.jsonl").read_text()
    assert len(cooked(text_runs, texts, tmp_path, search=Uniform(), name="x").ingredients) == 5


@pytest.mark.slow
def test_weights_that_change_after_the_pool_was_opened_are_not_taken_for_what_is_cached(
    copy_runs, text_runs, texts, tmp_path
):
    runs = copy_runs("a", "b", "c", "d")
    kept = EvaluationOptions(early_stopping=False, cache=str(tmp_path / "cache"))
    options: dict[str, Any] = {"runtime": Runtime(batch_size=16, threads=1), "evaluation": kept}
    task = api.tasks.text_classification(str(texts))
    api.cook(f"{runs}/*", task, **options, results_dir=tmp_path, name="one")
    opened = find_pool(f"{runs}/*")
    assert [run.fingerprint for run in opened]
    shutil.copy(text_runs / "wild" / "model.safetensors", tmp_path / "new")
    (tmp_path / "new").replace(runs / "d" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"d/model\.safetensors changed while this run read it"):
        api.cook(opened, task, **options, results_dir=tmp_path, name="two")
    assert not (tmp_path / "two" / "soup").exists()


def test_an_effort_from_python_is_the_same_run_as_the_commands(text_runs, texts, tmp_path):
    words = (f"pool.path={text_runs}/*", "task=text_classification", f"task.data.path={texts}", "name=x")
    words += ("pool=folder", "evaluation.effort=frugal", "evaluation.cache=null", "runtime.batch_size=16")
    soupkitchen(*words, "results_dir=.", cwd=tmp_path)
    before = (tmp_path / "x" / "journal.jsonl").read_bytes()
    cooked(text_runs, texts, tmp_path, effort="frugal", name="x")
    assert (tmp_path / "x" / "journal.jsonl").read_bytes() == before
    with pytest.raises(ConfigError, match=r"search\.accept\.margin: auto before"):
        cooked(text_runs, texts, tmp_path, name="x")


def test_what_was_chosen_in_python_stands_beside_an_effort(text_runs, texts, tmp_path):
    search, evaluation = Greedy(accept="not_worse"), EvaluationOptions(early_stopping=False)
    result = cooked(
        text_runs, texts, tmp_path, search=search, evaluation=evaluation, effort="frugal", name="x"
    )
    config = yaml.safe_load((result.folder / "config.yaml").read_text())
    assert config["search"]["accept"] == "not_worse"
    assert config["search"]["ranking"] == {"confidence": 0.999}
    assert config["evaluation"]["early_stopping"] is False
    assert config["evaluation"]["effort"] == "frugal"


def test_a_method_that_no_recipe_can_tell_is_refused_before_any_work(text_runs, texts, tmp_path):
    @dataclass(frozen=True)
    class Mine(Linear):
        pass

    with pytest.raises(ConfigError, match="Mine names nothing that can be imported"):
        cooked(text_runs, texts, tmp_path, method=Mine(), name="x")
    assert list(tmp_path.iterdir()) == []


def test_what_is_not_finished_has_no_recipe(tmp_path):
    (tmp_path / "journal.jsonl").write_text("")
    with pytest.raises(JournalError, match="saved no soup yet"):
        api.Result(tmp_path).recipe  # noqa: B018


def test_importing_soupkitchen_imports_nothing_else():
    code = (
        "import sys, soupkitchen\n"
        "heavy = {'torch', 'transformers', 'datasets', 'hydra', 'omegaconf', 'pandas', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "from soupkitchen import methods, tasks\n"
        "names = {'cook', 'methods', 'tasks', 'Experiment', 'Result', '__version__'}\n"
        "assert names <= set(dir(soupkitchen))\n"
        "from soupkitchen import cook\n"
        "assert callable(cook) and callable(tasks.text_classification)\n"
        "assert 'hydra' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        api.nothing  # noqa: B018


@pytest.mark.slow
def test_cook_works_in_a_notebook(text_runs, texts, tmp_path):
    """A kernel runs cells inside an event loop, with streams that are no files."""
    code = f"""
import asyncio, io, sys
async def cell():
    from soupkitchen import cook, methods, tasks
    result = cook({str(text_runs)!r} + "/*", tasks.text_classification({str(texts)!r}), methods.linear(),
                  results_dir={str(tmp_path)!r}, name="x", exclude=["wild", "c", "d"])
    return result.leaderboard
class Stream(io.StringIO):
    def fileno(self): raise io.UnsupportedOperation("fileno")
said = sys.stdout, sys.stderr
sys.stdout, sys.stderr = Stream(), Stream()
table = asyncio.run(cell())
sys.stdout, sys.stderr = said
print(table["kind"].tolist()[0])
"""
    told = forked(code, cwd=ROOT)
    assert told.stdout.strip() in ("soup", "uniform"), told.stderr
