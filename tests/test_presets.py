"""YAMLs as functions of Python: the same defaults, the same objects, the same answers to a wrong word."""

from __future__ import annotations

import importlib.util
import inspect
import os
import pkgutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from conftest import ROOT
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

import soupkitchen
from soupkitchen import methods, metrics, tasks
from soupkitchen.cli import config
from soupkitchen.errors import ConfigError
from soupkitchen.merging import Linear, Magnitude, Random, TaskVectors
from soupkitchen.metrics import TaskMetric
from soupkitchen.options import presets
from soupkitchen.options.building import TARGET, build, describe
from soupkitchen.options.presets import compose, preset
from soupkitchen.tasks import Data, Function, Several, TextClassification

GROUPS = ("method", "task", "search", "pool", "runtime", "evaluation", "output")
ALL = [(group, name) for group in GROUPS for name in presets.names(group)]
GIVEN: dict[str, dict[str, Any]] = {
    "demo": {},
    "function": {"path": "-", "function": "math.fsum"},
    "several": {"tasks": {"a": Function(Data("-"), "math.fsum")}},
}
"""What a task's YAML leaves open; `lm_eval` is the business of the harness's own tests."""


@pytest.mark.parametrize(("group", "name"), ALL)
def test_a_yaml_is_composed_as_hydra_composes_it(group: str, name: str) -> None:
    config.register_resolvers()
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        theirs = hydra_compose("config", [f"{group}={name}"])
    assert compose(group, name) == OmegaConf.to_container(theirs[group], resolve=True)


# Methods


@pytest.mark.parametrize("name", presets.names("method"))
def test_a_method_is_described_by_its_yaml_and_built_of_it(name: str) -> None:
    made = getattr(methods, name)()
    assert describe(made) == compose("method", name)
    assert build(compose("method", name)) == made


def test_an_option_inside_a_part_is_found_by_its_own_name() -> None:
    expected = TaskVectors(Magnitude(0.3, "model"), consensus="mass", normalize=True, scale=0.5)
    assert methods.ties(density=0.3, trim="model", scale=0.5) == expected


def test_a_part_may_be_some_of_its_options_another_kind_or_an_object() -> None:
    assert methods.ties(sparsifier={"density": 0.3}) == methods.ties(density=0.3)
    random: dict[str, Any] = {TARGET: "soupkitchen.merging.Random", "density": 0.4}
    assert methods.ties(sparsifier=random).sparsifier == Random(0.4)
    assert methods.ties(sparsifier=Random(0.4)) == methods.ties(sparsifier=random)
    assert methods.ties(sparsifier=None).sparsifier is None
    assert methods.ties(sparsifier={TARGET: "soupkitchen.merging.Magnitude"}, density=0.1).sparsifier == (
        Magnitude(0.1)
    )


def test_two_calls_share_nothing() -> None:
    first = methods.linear(weights={"a": 2})
    assert methods.linear().weights is None
    assert first.weights == {"a": 2}
    assert methods.ties is methods.ties


# Tasks


@pytest.mark.parametrize("name", [name for name in presets.names("task") if name != "lm_eval"])
def test_a_task_is_described_by_its_yaml_and_built_of_it(name: str) -> None:
    given = GIVEN.get(name, {"path": "-"})
    made = getattr(tasks, name)(**given)
    if name not in ("function", "several") and not hasattr(TaskMetric, "describe"):
        pytest.skip("TaskMetric has no method describe yet")
    tree, told = compose("task", name), describe(made)
    for option, value in given.items():
        above = tree["data"] if option == "path" else tree
        above[option] = describe(value)
    if "metric" in tree:  # what the YAML leaves to the metric, the metric may tell
        known = told["metric"]
        assert known.keys() == tree["metric"].keys()
        tree["metric"] = {
            key: known[key] if value is None else value for key, value in tree["metric"].items()
        }
    assert told == tree
    assert describe(build(told)) == told


def test_a_task_takes_its_data_first_and_options_of_data_and_metric_by_name(tmp_path: Path) -> None:
    made = tasks.text_classification(
        tmp_path, label="stars", metric="f1_macro", heldout="dev", test=None, heldout_share=0.1, seed=3
    )
    assert isinstance(made, TextClassification)
    assert made.data == Data(str(tmp_path), "dev", None, heldout_share=0.1, seed=3)
    assert (made.metric.name, made.label, made.text, made.max_length) == ("f1_macro", "stars", "text", None)
    by_part = tasks.text_classification(
        data={"path": str(tmp_path), "heldout": "dev"}, metric={"name": "mse"}
    )
    assert (by_part.data, by_part.metric.name) == (Data(str(tmp_path), "dev"), "mse")
    by_object = tasks.text_classification(data=made.data, metric=metrics.load("cross_entropy"))
    assert (by_object.data, by_object.metric.name) == (made.data, "cross_entropy")
    files = tasks.text_classification({"train": tmp_path / "a.csv"}).data.path
    assert files == {"train": str(tmp_path / "a.csv")}


def test_an_options_own_place_comes_before_that_in_a_part() -> None:
    made = tasks.function("-", "math.fsum", name="length", seed=2)
    assert (made.name, made.data) == ("length", Data("-", seed=2))
    assert tasks.function("x", "math.fsum", data={"name": "en"}).data == Data("x", name="en")
    assert list(tasks.text_generation("-", stop=("w1",)).stop) == ["w1"]


def test_several_tasks_are_tasks_by_name() -> None:
    parts = {name: tasks.function(name, "math.fsum", best=1) for name in "ab"}
    assert tasks.several(parts, aggregate="min") == Several(parts, "min")


def test_the_demos_data_lies_in_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOUPKITCHEN_CACHE", "/kept")
    made = tasks.demo()
    assert (made.data.path, made.max_length) == ("/kept/demo/seed-0/data", 16)


def test_no_module_hides_a_preset_whatever_is_imported() -> None:
    for module in pkgutil.walk_packages(tasks.__path__, "soupkitchen.tasks."):
        import_module(module.name)
    for name in presets.names("task"):
        assert callable(getattr(tasks, name)), name
    parts = {"a": Function(Data("-"), "math.fsum")}
    assert tasks.several(parts) == preset("task", "several", parts)


# Wrong words


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: preset("method", "tis"), "no method 'tis'; did you mean ties?"),
        (lambda: methods.ties(densty=0.3), "no option 'densty'; did you mean density?"),
        (lambda: methods.linear(density=0.3), "methods.linear has no option 'density'"),
        (lambda: methods.ties(0.3), "takes no options without a name"),
        (lambda: methods.ties(density=3), "method.sparsifier.density=3 should be"),
        (lambda: methods.ties(normalize="no"), "method.normalize=no should be true or false"),
        (lambda: methods.ties(sparsifier={"densty": 1}), "method.sparsifier.densty; did you mean density?"),
        (lambda: methods.ties(sparsifier=0.3), "method.sparsifier=0.3 should be options of its own"),
        (lambda: methods.task_arithmetic(sparsifier={"density": 1}), "options of its own with a _target_"),
        (lambda: methods.ties(sparsifier=Random(0.5), density=1), "density has no place beside sparsifier="),
        (lambda: tasks.text_classification(), "needs path \\(task.data.path\\)"),
        (lambda: tasks.function("-"), "needs function \\(task.function\\)"),
        (lambda: tasks.text_classification("x", "y"), "takes path without a name"),
        (lambda: tasks.text_classification("x", path="y"), "path is given twice"),
        (lambda: tasks.text_classification("x", name="y"), "write data={'name': …} or metric={'name': …}"),
        (lambda: tasks.text_classification("x", metric=1), "task.metric=1 should be options of its own"),
        (lambda: preset("experiment", "two_tasks"), "are for the command line"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_answered_as_on_the_command_line(call: Callable[[], Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        call()


@pytest.mark.parametrize(("module", "near"), [(methods, "ties"), (tasks, "demo")])
def test_a_preset_that_there_is_not_is_no_attribute(module: ModuleType, near: str) -> None:
    with pytest.raises(AttributeError, match=f"did you mean {near}"):
        getattr(module, f"{near}x")
    assert not hasattr(module, "__wrapped__")
    assert near in dir(module)


def test_a_folder_of_ones_own_is_looked_into_first(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "plain.yaml").write_text("# Sums.\ndefaults: [linear, _self_]\nnormalize: false\n")
    assert preset("method", "plain", conf=tmp_path) == Linear(normalize=False)
    assert preset("method", "plain", conf=tmp_path, normalize=True) == preset("method", "linear")
    with pytest.raises(ConfigError, match="no method 'plain'"):
        preset("method", "plain")
    for text, told in [("- a\n", "should hold options"), ("a: [\n", "cannot be read")]:
        (tmp_path / "method" / "plain.yaml").write_text(text)
        with pytest.raises(ConfigError, match=f"plain.yaml {told}"):
            preset("method", "plain", conf=tmp_path)


# What is imported when, and what tools see


def run(code: str) -> None:
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=120)


def test_importing_soupkitchen_imports_neither_torch_nor_hydra() -> None:
    run(
        """
        import sys
        import soupkitchen
        heavy = {"torch", "hydra", "omegaconf", "transformers", "datasets", "numpy"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        assert {"methods", "tasks", "__version__"} <= set(dir(soupkitchen))
        assert soupkitchen.tasks.text_classification.__name__ == "text_classification"
        from soupkitchen import methods
        for name in dir(methods):
            getattr(methods, name)
        try:
            methods.ties(density=2)
        except soupkitchen.errors.ConfigError:
            pass
        heavy.remove("omegaconf")
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        """
    )
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        soupkitchen.nothing  # noqa: B018


def test_a_preset_tells_its_options_defaults_and_meaning() -> None:
    parameters = inspect.signature(methods.ties).parameters
    assert parameters["density"].default == 0.2
    assert parameters["density"].kind is inspect.Parameter.KEYWORD_ONLY
    assert next(iter(inspect.signature(tasks.text_classification).parameters)) == "path"
    text = methods.ties.__doc__ or ""
    assert text.startswith("TIES: trim small changes")
    assert "density: the share of entries that stays" in text


def stubs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("write_stubs", ROOT / "scripts" / "write_stubs.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("group", ["method", "task"])
def test_the_stubs_are_what_the_yamls_say(group: str) -> None:
    script = stubs()
    assert script.STUBS[group].read_text() == script.stub(group), "run scripts/write_stubs.py"


CHECKED = """
import soupkitchen
from soupkitchen import methods, tasks

methods.ties(density=0.3, scale=[0.5, 1.0])
soupkitchen.methods.linear(weights={"a": 2})
tasks.text_classification("reviews", metric="f1_macro", heldout="dev", test=None)
tasks.text_classification(data=tasks.Data("reviews"))
tasks.several({"a": tasks.function("x", "module.function")})
methods.ties(densty=0.3)  # wrong
methods.ties(density="0.3")  # wrong
methods.ties(0.3)  # wrong
methods.ties(consensus="most")  # wrong
methods.nope()  # wrong
tasks.text_classification("reviews", labell="x")  # wrong
tasks.lm_eval()  # wrong
tasks.nope()  # wrong
"""


def test_a_type_checker_knows_the_presets(tmp_path: Path) -> None:
    (tmp_path / "checked.py").write_text(CHECKED)
    modules = [word for name in ("", ".methods", ".tasks") for word in ("-m", f"soupkitchen{name}")]
    command = [
        *(sys.executable, "-m", "mypy", "--config-file=", f"--cache-dir={tmp_path / 'cache'}"),
        *("--follow-imports=skip", "--no-error-summary", "-m", "checked", *modules),
    ]
    environment = {**os.environ, "MYPYPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert not done.stderr
    lines = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert {line.split(":")[0] for line in lines} == {"checked.py"}, done.stdout
    found = {int(line.split(":")[1]) for line in lines}
    wrong = {n for n, line in enumerate(CHECKED.splitlines(), 1) if line.endswith("# wrong")}
    assert found == wrong, done.stdout


def test_the_wheel_carries_the_types(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {"py.typed", "methods.pyi", "tasks/__init__.pyi", "conf/method/ties.yaml"}
    assert {f"soupkitchen/{name}" for name in expected} <= names
