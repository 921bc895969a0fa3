"""The command as users run it, on a pool and data that the demo did not make."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
import sklearn.metrics
import torch
from bad import contents
from command import as_module, as_script, events, forked, own, soupkitchen
from conftest import ROOT
from omegaconf import OmegaConf
from safetensors.torch import load_file
from tiny import LABELS, average
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from soupkitchen.checkpoints import find_pool
from soupkitchen.records import read_csv, separated

pytestmark = pytest.mark.slow


def accuracy(tensors: dict[str, torch.Tensor], run: Path, frame: pd.DataFrame) -> float:
    """scikit-learn's accuracy of plain transformers' forward passes with `tensors` as weights."""
    model = AutoModelForSequenceClassification.from_pretrained(run)
    model.load_state_dict(tensors)
    tokenizer = AutoTokenizer.from_pretrained(run)
    with torch.inference_mode():
        logits = [model(**tokenizer(t, return_tensors="pt")).logits for t in frame["text"]]
    labels = [LABELS[row.argmax()] for row in logits]
    return sklearn.metrics.accuracy_score(frame["label"], labels)


@pytest.fixture(scope="module")
def finished(text_runs: Path, texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The results folder of a greedy run over `text_runs`."""
    folder = tmp_path_factory.mktemp("work")
    result = soupkitchen(*own(text_runs, texts), "name=cooked", "report.write=true", cwd=folder)
    assert "leaderboard  results/cooked/leaderboard.csv" in result.stdout
    assert "\x1b" not in result.stdout + result.stderr  # plain lines when piped
    return folder / "results" / "cooked"


def test_each_steps_score_is_that_of_the_plain_average_of_its_ingredients(finished, text_runs, texts):
    frames = {"heldout": pd.read_csv(texts / "validation.csv"), "test": pd.read_csv(texts / "test.csv")}
    trajectory = pd.read_csv(finished / "trajectory.csv")
    assert (trajectory["stage"] == "rank").sum() == 5
    assert (trajectory["stage"] == "merge").sum() == 5
    for step in trajectory.itertuples():
        soup = average(text_runs, step.ingredients.split(";"))
        naive = accuracy(soup, text_runs / "a", frames[step.split])
        if step.stopped_early:  # then it may not be better than the soup that it had to beat
            assert naive <= step.score_at_most <= step.best_before
        else:
            assert naive == pytest.approx(step.score, abs=1e-9)


def test_the_decisions_are_the_papers(finished):
    trajectory = pd.read_csv(finished / "trajectory.csv")
    ranking = trajectory[trajectory["stage"] == "rank"].sort_values("score", ascending=False, kind="stable")
    merges = trajectory[trajectory["stage"] == "merge"]
    assert merges["candidate"].tolist() == ranking["candidate"].tolist()
    soup, best = [], -1.0
    for step in merges.itertuples():
        assert step.ingredients.split(";") == [*soup, step.candidate]
        kept = step.score > best
        assert step.decision == ("start" if not soup else "keep" if kept else "discard")
        assert step.stopped_early == (0 < step.examples_scored < step.examples_total)
        if soup:
            assert step.best_before == best
            assert step.rule == "gain > 0"
        if soup and not step.stopped_early:
            assert step.gain == pytest.approx(step.score - best)
            assert step.gain == pytest.approx((step.fixed - step.broken) / step.examples_total)
            assert step.gain_low <= step.gain <= step.gain_high
        if kept:
            soup, best = [*soup, step.candidate], step.score
        assert step.soup_size == len(soup)
    assert len(soup) > 1  # or the pool shows nothing
    assert "wild" not in soup


def test_the_saved_soup_is_the_plain_average_and_loads_as_any_model(finished, text_runs, texts):
    leaderboard = pd.read_csv(finished / "leaderboard.csv")
    soup = leaderboard[leaderboard["kind"] == "soup"].iloc[0]
    expected = average(text_runs, soup["ingredients"].split(";"))
    saved = load_file(finished / "soup" / "model.safetensors")
    assert saved.keys() == expected.keys()
    for name, tensor in saved.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6, atol=1e-7)
    score = accuracy(saved, finished / "soup", pd.read_csv(texts / "validation.csv"))
    assert score == pytest.approx(soup["heldout_accuracy"], abs=1e-9)
    assert (finished / "soup").stat().st_mode & 0o777 == 0o755


def test_the_leaderboard_holds_every_single_run_the_uniforms_and_the_soup(finished):
    table = pd.read_csv(finished / "leaderboard.csv").set_index("model")
    singles = table[table["kind"] == "single"]
    assert set(singles.index) == {"a", "b", "c", "d", "wild"}
    assert {"soup", "uniform"} < set(table.index)
    assert table.index.str.startswith("uniform_top_").sum() == 1
    assert table.loc["soup", "heldout_accuracy"] >= singles["heldout_accuracy"].max()
    best = singles["heldout_accuracy"].idxmax()
    assert set(table.index[table["test_accuracy"].notna()]) - {best} == {
        "soup", "uniform", *table.index[table.index.str.startswith("uniform_top_")],
    }  # fmt: skip
    assert (table["ci_low"] <= table["heldout_accuracy"]).all()
    assert (table["ci_high"] >= table["heldout_accuracy"]).all()
    assert (finished / "soupkitchen.log").read_text().count("rank ") >= 5


def test_a_finished_run_is_reported_not_repeated(finished, text_runs, texts):
    before = (finished / "trajectory.csv").stat().st_mtime_ns
    result = soupkitchen(*own(text_runs, texts), "name=cooked", "report.write=true", cwd=finished.parents[1])
    assert "soup" in result.stdout
    assert (finished / "trajectory.csv").stat().st_mtime_ns == before


def test_a_finished_runs_table_may_go_unread(finished, text_runs, texts):
    unread = "import os; there, here = os.pipe(); os.close(there); os.dup2(here, 1)"
    words = (*own(text_runs, texts), "name=cooked", "report.write=true")
    told = soupkitchen(*words, cwd=finished.parents[1], fails=141, before=unread)
    assert "Broken" not in told.stderr


def test_a_command_whose_streams_are_closed_keeps_its_files_whole(text_runs, texts, tmp_path):
    closed = "import os, sys; [os.close(fd) for fd in (0, 1, 2)]; sys.stdout = sys.stderr = None"
    soupkitchen(*own(text_runs, texts), "pool.exclude=[c,d,wild]", "name=x", cwd=tmp_path, before=closed)
    folder = tmp_path / "results" / "x"
    assert events(folder)[-1]["event"] == "finish"
    assert (folder / "soup" / "config.json").is_file()


def test_overwrite_moves_the_old_results_aside(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "name=x", "pool.exclude=[c,d,wild]")
    soupkitchen(*words, cwd=tmp_path)
    soupkitchen(*words, "search=uniform", "overwrite=true", cwd=tmp_path)
    (aside,) = (tmp_path / "results" / "x").glob("before-*")
    assert {"leaderboard.csv", "trajectory.csv", "soup", "config.yaml"} <= {f.name for f in aside.iterdir()}
    table = pd.read_csv(tmp_path / "results" / "x" / "trajectory.csv")
    assert table[table["stage"] == "merge"]["decision"].tolist() == ["start", "keep"]


def test_a_run_that_fails_leaves_earlier_results_where_they_were(finished, text_runs, texts, tmp_path):
    shutil.copytree(finished.parents[1], tmp_path / "work")
    before = contents(tmp_path)
    words = (*own(text_runs, texts), "name=cooked", "report.write=true", "overwrite=true", "task.text=body")
    assert "task.text=body" in soupkitchen(*words, cwd=tmp_path / "work", fails=True).stderr
    assert contents(tmp_path) == before


def test_a_soup_that_was_deleted_is_saved_again(finished, text_runs, texts, tmp_path):
    shutil.copytree(finished.parents[1], tmp_path / "work")
    soup = tmp_path / "work" / "results" / "cooked" / "soup"
    before = contents(soup)
    shutil.rmtree(soup)
    result = soupkitchen(*own(text_runs, texts), "name=cooked", "report.write=true", cwd=tmp_path / "work")
    assert "results/cooked/soup is gone: the soup is merged and saved again" in result.stderr
    assert contents(soup) == before


def lost_by(folder: Path, *names: str) -> None:
    for name in names:
        if name.startswith("!"):
            file = folder / name[1:]
            file.write_bytes(file.read_bytes().replace(b"1", b"2"))
        else:
            (folder / name).unlink()


WITHOUT_RUNS = "import sys; sys.modules['soupkitchen.experiment.session'] = None"


def test_what_follows_from_the_journal_is_made_again_without_runs(finished, text_runs, texts, tmp_path):
    shutil.copytree(finished.parents[1], tmp_path / "work")
    folder = tmp_path / "work" / "results" / "cooked"
    before = contents(folder)
    names = ("leaderboard.csv", "report.html", "trajectory.png", "!trajectory.csv")
    lost_by(folder, *names)
    words = (*own(text_runs, texts), "name=cooked", "report.write=true")
    error = soupkitchen(*words, cwd=tmp_path / "work", before=WITHOUT_RUNS).stderr
    for name in names[:3]:
        assert f"cooked/{name} is missing: it is made again" in error
    assert "cooked/trajectory.csv was changed: it is made again" in error
    after = contents(folder)
    changed = {name for name in before if before[name] != after.get(name)}
    assert changed <= {"checksums.json", "soupkitchen.log"}
    assert [name.split("/")[1] for name in after.keys() - before.keys() if "/" in name] == ["trajectory.csv"]
    assert "again" not in soupkitchen(*words, cwd=tmp_path / "work", before=WITHOUT_RUNS).stderr


def test_what_takes_the_runs_is_made_again_by_the_same_command(finished, text_runs, texts, tmp_path):
    shutil.copytree(finished.parents[1], tmp_path / "work")
    folder = tmp_path / "work" / "results" / "cooked"
    before = contents(folder)
    (folder / "soup" / "README.md").write_text("my own card")
    words, work = (*own(text_runs, texts), "name=cooked", "report.write=true"), tmp_path / "work"
    lost_by(folder, "map.json", "recipe.yaml")
    error = soupkitchen(*words, cwd=work).stderr
    assert "map.json is missing: it is made again" in error
    assert (folder / "soup" / "README.md").read_text() == "my own card"
    lost_by(folder, "!soup/config.json")
    error = soupkitchen(*words, cwd=work).stderr
    assert "soup/config.json was changed: it is made again" in error
    assert "soup: what was there is in" in error
    after = contents(folder)
    assert {name for name in before if before[name] != after.get(name)} <= {
        "checksums.json", "soupkitchen.log", "report.html",
    }  # fmt: skip
    assert "again" not in soupkitchen(*words, cwd=work, before=WITHOUT_RUNS).stderr


def test_a_flipped_bit_is_found_by_a_check_and_put_right_by_the_same_command(
    finished, text_runs, texts, tmp_path
):
    work = tmp_path / "work"
    shutil.copytree(finished.parents[1], work)
    folder, words = work / "results" / "cooked", (*own(text_runs, texts), "name=cooked", "report.write=true")
    check = ("--check", str(folder))
    assert forked(as_module("soupkitchen.report"), *check, cwd=tmp_path).returncode == 0
    weights = folder / "soup" / "model.safetensors"
    before, times = weights.read_bytes(), weights.stat()
    weights.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert "again" not in soupkitchen(*words, cwd=work, before=WITHOUT_RUNS).stderr
    found = forked(as_module("soupkitchen.report"), *check, cwd=tmp_path)
    assert found.returncode == 1
    assert "soup/model.safetensors was changed" in found.stderr
    assert "soup/model.safetensors was changed: it is made again" in soupkitchen(*words, cwd=work).stderr
    assert weights.read_bytes() == before
    assert forked(as_module("soupkitchen.report"), *check, cwd=tmp_path).returncode == 0


def test_a_report_lost_to_a_full_disk_is_made_by_the_next_call(text_runs, texts, tmp_path):
    words = (
        *own(text_runs, texts),
        "name=x",
        "search=uniform",
        "pool.exclude=[c,d,wild]",
        "report.write=true",
    )
    full = (
        "import soupkitchen.records.report as report\n"
        "def write_report(folder): raise OSError(28, 'No space left on device')\n"
        "report.write_report = write_report"
    )
    assert "report.html could not be written" in soupkitchen(*words, cwd=tmp_path, before=full).stderr
    assert not (tmp_path / "results" / "x" / "report.html").exists()
    soupkitchen(*words, cwd=tmp_path, before=WITHOUT_RUNS)
    assert (tmp_path / "results" / "x" / "report.html").exists()


def test_tables_are_printed_in_any_encoding(finished, text_runs, texts):
    ascii_only = (
        "import sys; sys.stdout.reconfigure(encoding='ascii'); sys.stderr.reconfigure(encoding='ascii')"
    )
    words = (*own(text_runs, texts), "name=cooked", "report.write=true")
    result = soupkitchen(*words, cwd=finished.parents[1], before=ascii_only)
    (wild,) = (line for line in result.stdout.splitlines() if "wild " in line)
    assert wild.split()[5] == "-"  # no test score


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.1, 0.2])
def test_a_results_folder_that_vanishes_ends_its_run_in_plain_words(text_runs, texts, tmp_path, seconds):
    journal = tmp_path / "results" / "x" / "journal.jsonl"
    with ThreadPoolExecutor() as threads:
        run = threads.submit(soupkitchen, *own(text_runs, texts), "name=x", cwd=tmp_path, fails=True)
        while not journal.exists():
            assert not run.done()
            time.sleep(0.001)
        time.sleep(seconds)
        shutil.rmtree(journal.parent.rename(tmp_path / "gone"), ignore_errors=True)  # at once, then for good
        said = run.result().stderr
    assert "is gone: something removed or renamed it" in said


REMOVED_ONCE_SAVED = """
import shutil
from soupkitchen.output.model import Output
save = Output.save
def removed(self, live, processor, folder, *more):
    saved = save(self, live, processor, folder, *more)
    shutil.rmtree(folder.parent)
    return saved
Output.save = removed
"""


def test_a_results_folder_that_vanishes_with_the_soup_is_what_is_named(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "name=x")
    told = soupkitchen(*words, cwd=tmp_path, before=REMOVED_ONCE_SAVED, fails=True).stderr.splitlines()
    folder = tmp_path / "results" / "x"
    assert told[-1] == f"error: {folder} is gone: something removed or renamed it while the run worked"


def test_names_of_runs_neither_reach_the_terminal_raw_nor_break_tables(copy_runs, texts, tmp_path):
    runs = copy_runs("a", "b", "c", "d")
    names = {"a": "NA", "b": "x;y", "c": "=1+1", "d": "\x1b]0;gone\x07\r"}
    for old, new in names.items():
        (runs / old).rename(runs / new)
    result = soupkitchen(*own(runs, texts), "name=x", cwd=tmp_path)
    assert not set(result.stdout + result.stderr) & {"\x1b", "\x07", "\r"}
    assert r"\x1b]0;gone\x07\r" in result.stdout
    assert not set((tmp_path / "results/x/soupkitchen.log").read_text()) & {"\x1b", "\x07", "\r"}
    table = read_csv(tmp_path / "results" / "x" / "leaderboard.csv").set_index("model")
    assert set(table.index[table["kind"] == "single"]) == set(names.values())
    assert set(separated(table.loc["uniform", "ingredients"])) == set(names.values())


def test_an_option_of_swept_methods_is_given_to_each(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), f"pool.base={text_runs / 'd'}", "pool.exclude=[d,wild]")
    density = "method.sparsifier.density=0.4"
    soupkitchen("-m", *words, "method=ties,dare_ties", density, "search=uniform", cwd=tmp_path)
    configs = [OmegaConf.load(path) for path in tmp_path.glob("results/*/config.yaml")]
    sparsifiers = {config.method.sparsifier._target_.rsplit(".", 1)[-1] for config in configs}
    assert sparsifiers == {"Magnitude", "Random"}
    assert [config.method.sparsifier.density for config in configs] == [0.4, 0.4]
    soupkitchen(*words, "method=ties", density, "search=uniform", cwd=tmp_path)  # the same folder
    assert len(list(tmp_path.glob("results/*/config.yaml"))) == 2
    result = soupkitchen("-m", *words, "method=linear,slerp", density, cwd=tmp_path, fails=True)
    assert "has no option method.sparsifier.density; other choices of method have it" in result.stderr
    assert len(list(tmp_path.glob("results/*/config.yaml"))) == 2


def test_a_loss_is_minimised_and_shown_as_it_is(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "task.metric.name=cross_entropy", "name=x", "task.data.test=null")
    result = soupkitchen(*words, cwd=tmp_path)
    assert "No test split" in result.stderr
    table = pd.read_csv(tmp_path / "results" / "x" / "leaderboard.csv")
    singles = table[table["kind"] == "single"]["heldout_cross_entropy"]
    assert (table["heldout_cross_entropy"] > 0).all()
    assert table[table["kind"] == "soup"]["heldout_cross_entropy"].iloc[0] <= singles.min()
    assert table["test_cross_entropy"].isna().all()
    trajectory = pd.read_csv(tmp_path / "results" / "x" / "trajectory.csv")
    kept = trajectory[trajectory["decision"] == "keep"]
    assert (kept["score"] < kept["best_before"]).all()
    assert (kept["gain"] > 0).all()


def test_test_labels_change_no_decision(finished, text_runs, texts, tmp_path):
    for name in ("train", "validation", "test"):
        frame = pd.read_csv(texts / f"{name}.csv")
        if name == "test":
            frame["label"] = frame["label"].iloc[::-1].to_numpy()
        (tmp_path / "data").mkdir(exist_ok=True)
        frame.to_csv(tmp_path / "data" / f"{name}.csv", index=False)
    soupkitchen(*own(text_runs, tmp_path / "data"), "name=x", cwd=tmp_path)
    columns = ["stage", "candidate", "decision", "split", "score", "ingredients"]
    one, other = (
        pd.read_csv(folder / "trajectory.csv")[columns].query("split == 'heldout'")
        for folder in (finished, tmp_path / "results" / "x")
    )
    pd.testing.assert_frame_equal(one, other)
    assert load_file(finished / "soup" / "model.safetensors").keys()
    for name, tensor in load_file(finished / "soup" / "model.safetensors").items():
        assert torch.equal(load_file(tmp_path / "results/x/soup/model.safetensors")[name], tensor)


def test_no_gain_is_said_plainly_and_the_soup_is_the_best_run(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "name=x", "pool.exclude=[b,c,d]", "method.normalize=false")
    result = soupkitchen(*words, cwd=tmp_path)
    assert "No run improved on the best single one" in result.stderr
    saved = load_file(tmp_path / "results/x/soup/model.safetensors")
    for name, tensor in load_file(text_runs / "a" / "model.safetensors").items():
        assert torch.equal(saved[name], tensor)


def test_overlap_of_held_out_and_test_is_warned_of(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "task.data.test=validation", "name=x", "pool.exclude=[c,d,wild]")
    result = soupkitchen(*words, cwd=tmp_path)
    assert "80 of 80 test examples are held-out examples too" in result.stderr


def test_a_run_that_failed_before_it_began_does_not_stand_in_the_way(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "name=x", "pool.exclude=[c,d,wild]")
    soupkitchen(*words, "task.text=body", cwd=tmp_path, fails=True)
    soupkitchen(*words, cwd=tmp_path)
    assert (tmp_path / "results" / "x" / "leaderboard.csv").exists()


def test_the_wheel_works_in_any_folder(text_runs, texts, tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "-q"]
    subprocess.run([*build, "-w", str(tmp_path / "wheel"), str(ROOT)], check=True, timeout=300)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    assert (tmp_path / "site" / "soupkitchen" / "py.typed").is_file()
    assert (tmp_path / "site" / "soupkitchen" / "conf" / "method" / "ties.yaml").is_file()
    words = [*own(text_runs, texts), "name=x", "pool.exclude=[c,d,wild]"]
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path / 'site')!r}); sys.argv[1:] = {words!r}\n"
        "import soupkitchen, soupkitchen.__main__, soupkitchen.demo, soupkitchen.options.files as r\n"
        f"assert soupkitchen.__file__.startswith({str(tmp_path)!r})\n"
        "assert (r.folder('scripts') / 'finetune_pool.py').exists()\n"
        "soupkitchen.__main__.main()"
    )
    (tmp_path / "elsewhere").mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "elsewhere", check=True, timeout=300)
    assert (tmp_path / "elsewhere" / "results" / "x" / "soup" / "config.json").exists()


def test_label_names_of_the_saved_soup_are_the_runs(finished):
    config = json.loads((finished / "soup" / "config.json").read_text())
    assert list(config["id2label"].values()) == list(LABELS)


def test_a_sweep_of_ones_own_makes_a_pool(text_runs, texts, tmp_path):
    words = [
        *(f"model={text_runs / 'a'}", f"data.path={texts}", "output=sweep/runs"),
        "arguments={use_cpu: true, num_train_epochs: 1}",
        "runs={slow: {learning_rate: 1e-4}, fast: {learning_rate: 1e-2, label_smoothing_factor: 0.1}}",
    ]
    for _ in range(2):  # the second time there is nothing to do
        trained = forked(as_script(ROOT / "scripts" / "finetune_pool.py"), *words, cwd=tmp_path)
        assert trained.returncode == 0, trained.stderr
        pool = find_pool(str(tmp_path / "sweep" / "runs"), base=str(tmp_path / "sweep" / "base"))
        assert [run.name for run in pool] == ["fast", "slow"]
        assert pool.base.config["id2label"] == dict(zip("012", LABELS, strict=True))
        weights = [dict(run.tensors())["classifier.weight"] for run in (pool.base, *pool)]
        assert (weights[1] - weights[0]).norm() > 10 * (weights[2] - weights[0]).norm() > 0
    assert sorted(f.name for f in tmp_path.iterdir()) == ["sweep"]


def test_whoever_names_no_runs_is_told_that_it_is_the_demo(text_runs, texts, tmp_path):
    none = "cache_dir=/dev/null"
    demo = soupkitchen(none, cwd=tmp_path, fails=True)
    assert demo.stderr.startswith("This is the demo: ")
    assert "pool.path='runs/*' task=text_classification task.data.path=" in demo.stderr
    assert demo.stdout == ""
    pool = soupkitchen(f"pool.path={text_runs}/*", none, cwd=tmp_path, fails=True)
    assert pool.stderr.startswith("The data are the demo's: task=… and task.data.path=… name yours\n")
    task = soupkitchen("task=text_classification", f"task.data.path={texts}", none, cwd=tmp_path, fails=True)
    assert task.stderr.startswith("The runs are the demo's: pool.path='runs/*' names yours\n")
    both = soupkitchen(*own(text_runs, texts), "task.text=no", cwd=tmp_path, fails=True)
    assert "demo" not in both.stderr
    many = soupkitchen("-m", "method=linear,slerp", none, cwd=tmp_path, fails=True)
    assert many.stderr.count("This is the demo: ") == 1
