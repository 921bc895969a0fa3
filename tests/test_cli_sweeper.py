"""Sweeps: which jobs a command makes, what is said of those that fail, and Optuna's trials."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd
import pytest
import yaml
from command import own, soupkitchen, started
from hydra import initialize_config_dir
from hydra._internal.callbacks import Callbacks
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import OmegaConf

from soupkitchen.cli import config as conf
from soupkitchen.cli.sweeps import FittingSweeper
from soupkitchen.errors import ConfigError, SweepError
from soupkitchen.records import read_csv

conf.register_resolvers()

METHODS = sorted(file.stem for file in (conf.CONF / "method").glob("*.yaml"))


class Launcher:
    """Notes what it is given; a job fails of the error that stands for one of its words."""

    def __init__(self, errors: dict[str, Exception]) -> None:
        self.errors = errors
        self.batches: list[list[str]] = []

    def launch(self, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> list[JobReturn]:
        assert initial_job_idx == sum(map(len, self.batches))
        self.batches.append([" ".join(job) for job in jobs])
        return [self._done(job) for job in jobs]

    def _done(self, job: Sequence[str]) -> JobReturn:
        error = next((self.errors[word] for word in job if word in self.errors), None)
        done = JobReturn(overrides=list(job), status=JobStatus.FAILED if error else JobStatus.COMPLETED)
        done.return_value = error or 0.5
        return done


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where sweeps write to."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hydra(folder: Path) -> Iterator[GlobalHydra]:
    with initialize_config_dir(str(conf.CONF), version_base="1.3"):
        yield GlobalHydra.instance()


def swept(hydra: GlobalHydra, line: str, **errors: Exception) -> list[list[str]]:
    """The batches of jobs that a command line makes, the way Hydra comes to them."""
    words = conf.sweepable(line.split())
    assert hydra.hydra
    given = [word for word in words if word != "-m"]
    if "-m" not in words:
        assert hydra.hydra.get_mode("config", given) == RunMode.MULTIRUN
    config = hydra.hydra.compose_config("config", given, run_mode=RunMode.MULTIRUN)
    options = OmegaConf.to_container(config.hydra.sweeper)
    assert options.pop("_target_").startswith("hydra_plugins.soupkitchen_sweeper.")
    sweeper, launcher = (
        FittingSweeper(**options),
        Launcher({k.replace("_", "="): e for k, e in errors.items()}),
    )
    sweeper.config, sweeper.launcher = config, launcher
    sweeper.hydra_context = HydraContext(config_loader=hydra.config_loader(), callbacks=Callbacks())
    sweeper.sweep(list(config.hydra.overrides.task))
    return launcher.batches


def jobs(hydra: GlobalHydra, line: str) -> list[str]:
    (batch,) = swept(hydra, line)
    return batch


# Which jobs


def test_an_option_goes_to_the_methods_that_have_it_and_the_others_run_once(hydra, capsys):
    line = "-m method=linear,slerp,ties,dare_ties method.sparsifier.density=0.2,0.5"
    assert jobs(hydra, line) == [
        "method=linear",
        "method=slerp",
        "method=ties method.sparsifier.density=0.2",
        "method=ties method.sparsifier.density=0.5",
        "method=dare_ties method.sparsifier.density=0.2",
        "method=dare_ties method.sparsifier.density=0.5",
    ]
    said = "method=linear, method=slerp: no method.sparsifier.density there, so they run without it\n"
    assert capsys.readouterr().err == said


@pytest.mark.slow
@pytest.mark.parametrize("option", ["scale", "sparsifier.density"])
def test_each_method_is_given_exactly_what_its_yaml_has(hydra, option):
    values = ["0.2", "0.5"]
    expected = []
    for method in METHODS:
        tree = yaml.safe_load((conf.CONF / "method" / f"{method}.yaml").read_text())
        for key in option.split("."):
            tree = tree.get(key, "absent") if isinstance(tree, dict) else "absent"
        some = [""] if tree == "absent" else [f" method.{option}={value}" for value in values]
        expected += [f"method={method}{word}" for word in some]
    assert len({job.count(" ") for job in expected}) == 2
    found = jobs(hydra, f"-m method={','.join(METHODS)} method.{option}={','.join(values)}")
    assert found == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-m search=greedy,uniform search.accept=better,not_worse top_k=3",
         ["search=greedy search.accept=better top_k=3", "search=greedy search.accept=not_worse top_k=3",
          "search=uniform top_k=3"]),
        ("-m method=linear,ties method.sparsifier.density=0.4",
         ["method=linear", "method=ties method.sparsifier.density=0.4"]),
        ("-m method=ties,ties method.scale=1,1.0",
         ["method=ties method.scale=1", "method=ties method.scale=1.0"]),
        ("-m method=linear,ties ~method.normalize +method.x={a:2} method.scale=2",
         ["method=linear ~method.normalize=null +method.x={a:2}",
          "method=ties ~method.normalize=null +method.x={a:2} method.scale=2"]),
        ("-m method.normalize=true,false method.normalize=true", ["method.normalize=True"]),
        ("top_k=2 -m", ["top_k=2"]),
    ],
)  # fmt: skip
def test_combinations_are_those_that_there_can_be(hydra, line, expected):
    assert jobs(hydra, line) == expected


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("method=ties,dare_ties method.sparsifier.densty=0.2,0.5", "Did you mean method.sparsifier.density"),
        ("method=linear,slerp method.sparsifier.density=0.2", "no option method.sparsifier.density; other"),
        ("search=greedy,uniform method.sparsifier.density=0.2", "no option method.sparsifier.density; other"),
        ("method=linear,ties method.sparsifier.density=0.2 method.scal=1", "no option 'method.scal'"),
        ("method=linear,tise", "Did you mean method=ties"),
        ("method=linear,ties topk=2", "Did you mean top_k"),
        ("experiment=methods method.sparsifier.densty=0.2", "Did you mean method.sparsifier.density"),
    ],
)  # fmt: skip
def test_an_option_that_no_choice_has_is_an_error_before_any_job(hydra, folder, line, said):
    with pytest.raises(HydraException) as caught:
        swept(hydra, f"-m {line}")
    assert said in conf.explain(str(caught.value))
    assert list(folder.iterdir()) == []


def test_an_interval_is_for_sweepers_that_seek(hydra):
    with pytest.raises(ConfigError, match=r"method\.t=interval\(0,1\): .*hydra/sweeper=optuna"):
        swept(hydra, "-m method=slerp method.t=interval(0,1)")


def test_launchers_get_jobs_in_batches_and_a_batch_that_fails_does_not_keep_the_next(hydra):
    line = "-m method=linear,slerp,karcher hydra.sweeper.max_batch_size=2"
    assert swept(hydra, line) == [["method=linear", "method=slerp"], ["method=karcher"]]
    with pytest.raises(SweepError) as caught:
        swept(hydra, line, method_linear=ConfigError("one\ntwo"), method_karcher=ValueError("x"))
    assert str(caught.value) == (
        "2 of 3 jobs failed; the others are complete\n"
        "  method=linear: one\n"
        "    two\n"
        "  method=karcher: ValueError: x"
    )
    with pytest.raises(ConfigError, match="max_batch_size=0"):
        FittingSweeper(max_batch_size=0)


def test_of_a_failed_job_that_is_said_which_sets_it_apart(hydra):
    with pytest.raises(SweepError) as caught:
        swept(hydra, "-m top_k=2 method=ties method.scale=1,2", **{"method.scale_2": ConfigError("no")})
    assert str(caught.value).splitlines()[1] == "  method.scale=2: no"


# Ready-made ones


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("experiment=methods",
         [f"method={m}" for m in "linear slerp task_arithmetic ties dare_linear dare_ties".split()]),
        ("-m experiment=methods method=karcher,linear", ["method=karcher", "method=linear"]),
        ("experiment=methods method=ties", ["method=ties"]),
        ("experiment=methods method.sparsifier.density=0.3 method=linear,ties",
         ["method=linear", "method=ties method.sparsifier.density=0.3"]),
        ("experiment=methods method.scale=0.7",
         ["method=linear", "method=slerp",
          *(f"method={m} method.scale=0.7" for m in "task_arithmetic ties dare_linear dare_ties".split())]),
        ("experiment=density method.sparsifier.density=0.3,0.6",
         [f"method={m} method.sparsifier.density={d}" for m in ("ties", "dare_ties") for d in (0.3, 0.6)]),
        ("-m experiment=density method=della method.sparsifier.density=0.3",
         ["method=della method.sparsifier.density=0.3"]),
    ],
)  # fmt: skip
def test_experiments_sweep_by_themselves_and_words_have_precedence(hydra, line, expected):
    experiment = next(word for word in line.split() if word.startswith("experiment="))
    found = [job.split() for job in jobs(hydra, line)]
    assert all(experiment in job for job in found)
    assert [" ".join(word for word in job if word != experiment) for job in found] == expected


def sweeping() -> list[str]:
    """The experiments that are sweeps of our own sweeper."""
    found = []
    for file in sorted((conf.CONF / "experiment").glob("*.yaml")):
        said = yaml.safe_load(file.read_text())
        if said.get("hydra", {}).get("mode") == "MULTIRUN" and file.stem != "optuna":
            found.append(file.stem)
    return found


@pytest.mark.parametrize("experiment", sweeping())
@pytest.mark.parametrize("pool", ["", "pool.path=mine/*"])
def test_runs_of_an_experiment_are_called_as_the_same_runs_without_it(hydra, experiment, pool):
    names, made = {}, jobs(hydra, f"experiment={experiment} {pool}")
    for job in made:
        words = [word for word in job.split() if not word.startswith("experiment=")]
        choices = dict(word.split("=") for word in words if "." not in word)
        choices = {"pool": "demo", "method": "linear", "search": "greedy"} | choices
        names[conf.run_name(choices, job.split())] = conf.run_name(choices, words)
    assert all(name == without for name, without in names.items())
    assert len(names) == len(made) > 3
    assert all(name.startswith("mine-" if pool else "demo-") for name in names)


def test_an_experiment_that_says_more_than_names_do_stands_in_the_name():
    choices = {"pool": "two_tasks", "method": "linear", "search": "greedy"}
    assert conf.run_name(choices, ["experiment=two_tasks"]) == "two_tasks-linear-greedy+experiment=two_tasks"


# Real ones


@pytest.mark.slow
def test_where_jobs_fail_the_others_go_on_and_the_table_has_those_that_finished(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "pool.exclude=[c,d]", "method=task_arithmetic,linear,ties,slerp")
    result = soupkitchen("-m", *words, "method.sparsifier.density=0.5", cwd=tmp_path, fails=True)
    table = read_csv(tmp_path / "results" / "leaderboard.csv")
    assert sorted(table["method"]) == ["linear", "slerp"]
    _, told = result.stderr.split("error: 2 of 4 jobs failed; the others are complete\n")
    lines = told.splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "  method=task_arithmetic", "  method=ties method.sparsifier.density=0.5"
    ]  # fmt: skip
    assert all("pool.base" in line for line in lines)
    assert "-task_arithmetic-greedy+pool.exclude=" in result.stderr  # as it failed
    again = soupkitchen("-m", *words, "method=linear,slerp", cwd=tmp_path)
    assert "error" not in again.stderr
    assert read_csv(tmp_path / "results" / "leaderboard.csv").equals(table)


@pytest.mark.slow
def test_the_table_has_overrides_costs_and_scores_of_several_metrics(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), f"pool.base={text_runs / 'd'}", "pool.exclude=[d,wild]")
    metrics = "task.metric.name=accuracy,cross_entropy"
    density = "method.sparsifier.density=0.2,0.5"
    soupkitchen("-m", *words, metrics, "search=greedy,uniform", "method=linear,ties", density, cwd=tmp_path)
    results = tmp_path / "results"
    table = read_csv(results / "leaderboard.csv")
    columns = (
        "rank run task data metric method search method.sparsifier.density model ingredients "
        "heldout_accuracy test_accuracy ci_low ci_high delta_vs_best_single heldout_cross_entropy "
        "test_cross_entropy candidates_tried examples_scored examples_cached merge_seconds eval_seconds "
        "peak_device_gib peak_host_gib"
    )
    assert list(table.columns) == columns.split()
    for metric, down in {"accuracy": True, "cross_entropy": False}.items():
        group = table[table["metric"] == metric]
        assert list(group["rank"]) == list(range(1, 7))
        scores = group[f"heldout_{metric}"]
        assert scores.is_monotonic_decreasing if down else scores.is_monotonic_increasing
        assert group[f"test_{metric}"].notna().all()
        what = group[["method", "search", "method.sparsifier.density"]].fillna(0)
        assert sorted(what.itertuples(index=False, name=None)) == [
            ("linear", "greedy", 0), ("linear", "uniform", 0), ("ties", "greedy", 0.2),
            ("ties", "greedy", 0.5), ("ties", "uniform", 0.2), ("ties", "uniform", 0.5)
        ]  # fmt: skip
    assert list(table["metric"]) == ["accuracy"] * 6 + ["cross_entropy"] * 6
    for row in table.to_dict("records"):
        steps = read_csv(results / row["run"] / "trajectory.csv")
        tried = steps[(steps["stage"] == "merge") & steps["decision"].isin(["keep", "discard"])]
        tries = 2 if row["search"] == "greedy" else 1
        assert row["candidates_tried"] == (tried["examples_total"] > 0).sum() == tries
        again = row["examples_scored"] - steps["examples_scored"].sum()
        seconds = row["eval_seconds"] - steps["eval_seconds"].sum()
        if row["metric"] == "accuracy":
            assert again == 0
            assert seconds == pytest.approx(0, abs=0.02)
        else:  # the best run is scored again in the soup's order, which is no step
            assert 0 <= again <= 80
            assert seconds > -0.02
        assert row["merge_seconds"] >= steps["merge_seconds"].sum() - 0.02
        assert row["examples_cached"] == 0


@pytest.mark.slow
def test_what_a_run_took_from_the_cache_is_no_forward_pass_of_its_own(text_runs, texts, tmp_path):
    words = (
        *own(text_runs, texts)[:-2],
        "evaluation.cache=kept",
        "pool.exclude=[d,wild]",
        "task.data.test=null",
    )
    soupkitchen("-m", *words, "search=greedy", "top_k=2,3", cwd=tmp_path)
    table = read_csv(tmp_path / "results" / "leaderboard.csv").set_index("top_k")
    assert table.loc[3, "examples_cached"] >= 3 * 80  # the runs by themselves
    for top_k in (2, 3):
        steps = read_csv(tmp_path / "results" / table.loc[top_k, "run"] / "trajectory.csv")
        assert table.loc[top_k, "examples_scored"] == steps["examples_scored"].sum()
    assert table.loc[2, "examples_cached"] == 0


@pytest.mark.slow
def test_two_sweeps_at_once_write_one_table(text_runs, texts, tmp_path):
    words = ("-m", *own(text_runs, texts), "pool.exclude=[c,d]")
    sweeps = ("search=uniform,greedy", "method=linear"), ("search=greedy,uniform", "method=slerp,karcher")
    processes = [started(*words, *sweep, cwd=tmp_path) for sweep in sweeps]
    for process in processes:
        said = process.communicate(timeout=300)[1]
        assert process.returncode == 0, said
    table = read_csv(tmp_path / "results" / "leaderboard.csv")
    assert len(table) == 6
    assert set(table["method"]) == {"linear", "slerp", "karcher"}
    assert set(table["run"]) == {path.parent.name for path in tmp_path.glob("results/*/leaderboard.csv")}
    assert not [path for path in (tmp_path / "results").iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_a_run_of_before_goes_on_though_it_does_not_note_its_presets(text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "pool.exclude=[c,d]", "name=x")
    soupkitchen(*words, cwd=tmp_path)
    file = tmp_path / "results" / "x" / "config.yaml"
    config = yaml.safe_load(file.read_text())
    task = {"pool": "demo", "task": "text_classification"}
    assert config.pop("choices") == {**task, "method": "linear", "search": "greedy"}
    file.write_text(yaml.safe_dump(config))
    before = read_csv(tmp_path / "results" / "leaderboard.csv")
    soupkitchen(*words, cwd=tmp_path)  # it is reported
    (tmp_path / "results" / "x" / "leaderboard.csv").unlink()
    soupkitchen(*words, cwd=tmp_path)  # it is continued
    pd.testing.assert_frame_equal(read_csv(tmp_path / "results" / "leaderboard.csv"), before)
    assert before["method"].tolist() == ["linear"]


# Optuna


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["accuracy", "cross_entropy"])
def test_the_best_trial_is_the_best_row(text_runs, texts, tmp_path, metric):
    words = (
        *own(text_runs, texts),
        f"pool.base={text_runs / 'd'}",
        "pool.exclude=[d,wild]",
        "search=uniform",
    )
    trials = ("experiment=optuna", f"task.metric.name={metric}", "hydra.sweeper.n_trials=5")
    soupkitchen(*words, *trials, cwd=tmp_path)
    table = read_csv(tmp_path / "results" / "leaderboard.csv")
    study = yaml.safe_load((tmp_path / "results" / "optimization_results.yaml").read_text())
    scores = table[f"heldout_{metric}"]
    assert len(table) == 5
    assert scores.nunique() > 1
    assert study["best_value"] == (scores.max() if metric == "accuracy" else -scores.min())
    options = list(study["best_params"])
    assert sorted(options) == ["method.scale", "method.sparsifier.density"]
    best = table[scores == scores[0]]
    assert any(dict(row[options]) == study["best_params"] for _, row in best.iterrows())
    assert len(best) < 5
    times = {file: file.stat().st_mtime_ns for file in tmp_path.glob("results/*/journal.jsonl")}
    soupkitchen(*words, *trials, cwd=tmp_path)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.glob("results/*/journal.jsonl")} == times


@pytest.mark.slow
def test_words_change_what_optuna_seeks(text_runs, texts, tmp_path):
    words = (
        *own(text_runs, texts),
        f"pool.base={text_runs / 'd'}",
        "pool.exclude=[d,wild]",
        "search=uniform",
    )
    trials = ("experiment=optuna", "hydra.sweeper.n_trials=2", "method=dare_ties", "method.scale=1")
    soupkitchen(*words, *trials, "method.sparsifier.density=choice(0.3,0.6)", cwd=tmp_path)
    for file in tmp_path.glob("results/*/config.yaml"):
        method = yaml.safe_load(file.read_text())["method"]
        assert method["sparsifier"]["_target_"].endswith(".Random")
        assert method["scale"] == 1
        assert method["sparsifier"]["density"] in (0.3, 0.6)


WITHOUT_OPTUNA = """
import sys
sys.modules["hydra_plugins.hydra_optuna_sweeper"] = None  # as Python has what is not installed
sys.argv = ["soupkitchen", *{words!r}]
from soupkitchen.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "words", [["experiment=optuna"], ["-m", "experiment=optuna"], ["hydra/sweeper=optuna"]]
)
def test_without_optuna_it_is_said_what_to_install(tmp_path, words):
    code = WITHOUT_OPTUNA.format(words=words)
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=100
    )
    assert result.returncode == 1
    assert result.stderr == "error: hydra/sweeper=optuna needs an extra: pip install 'soupkitchen[optuna]'\n"
    assert list(tmp_path.iterdir()) == []
