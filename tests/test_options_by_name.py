"""Methods and tasks by name: defaults and objects of their YAMLs, and the same answers to wrong values."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from typing import Any

import pytest
from conftest import ROOT
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import OmegaConf

from soupkitchen import methods, metrics, tasks
from soupkitchen.cli import config
from soupkitchen.errors import ConfigError
from soupkitchen.merging import Magnitude, TaskVectors
from soupkitchen.options import files
from soupkitchen.options.building import build, describe
from soupkitchen.options.files import compose
from soupkitchen.tasks import Data, Function, Several, TextClassification

GROUPS = ("method", "task", "search", "pool", "runtime", "evaluation", "output")
ALL = [(group, name) for group in GROUPS for name in files.names(group)]
GIVEN: dict[str, dict[str, Any]] = {
    "demo": {},
    "function": {"path": "-", "function": "math.fsum"},
    "several": {"tasks": {"a": Function(Data("-"), "math.fsum")}},
}
"""What a task's YAML leaves open; `lm_eval` is the business of the harness's own tests."""


@pytest.mark.parametrize(("group", "name"), ALL)
def test_a_yaml_is_composed_as_hydra_composes_it(group, name):
    config.register_resolvers()
    with initialize_config_dir(str(config.CONF), version_base="1.3"):
        theirs = hydra_compose("config", [f"{group}={name}"])
    assert compose(group, name) == OmegaConf.to_container(theirs[group], resolve=True)


# Methods


@pytest.mark.parametrize("name", files.names("method"))
def test_a_method_by_name_is_what_its_yaml_describes(name):
    made = getattr(methods, name)()
    assert describe(made) == compose("method", name)
    assert build(compose("method", name)) == made


def test_a_method_takes_options_by_name():
    expected = TaskVectors(Magnitude(0.3, "model"), consensus="mass", normalize=True, scale=0.5)
    assert methods.ties(density=0.3, trim="model", scale=0.5) == expected
    assert methods.linear(weights={"a": 2}).weights == {"a": 2}


# Tasks


@pytest.mark.parametrize("name", [name for name in files.names("task") if name != "lm_eval"])
def test_a_task_is_described_by_its_yaml_and_built_of_it(name):
    given = GIVEN.get(name, {"path": "-"})
    made = getattr(tasks, name)(**given)
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


def test_a_task_takes_its_data_first_and_options_of_data_and_metric_by_name(tmp_path):
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
    other = tasks.text_classification("x", metric={"_target_": "soupkitchen.metrics.load", "name": "mse"})
    assert other.metric.name == "mse"
    assert tasks.masked_language_modeling("x", seed=3).data.seed == 0
    files = tasks.text_classification({"train": tmp_path / "a.csv"}).data.path
    assert files == {"train": str(tmp_path / "a.csv")}


def test_an_options_own_place_comes_before_that_in_a_part():
    made = tasks.function("-", "math.fsum", name="length", seed=2)
    assert (made.name, made.data) == ("length", Data("-", seed=2))
    assert tasks.function("x", "math.fsum", data={"name": "en"}).data == Data("x", name="en")
    assert list(tasks.text_generation("-", stop=("w1",)).stop) == ["w1"]


def test_several_tasks_are_tasks_by_name():
    parts = {name: tasks.function(name, "math.fsum", best=1) for name in "ab"}
    assert tasks.several(parts, aggregate="min") == Several(parts, "min")


def test_the_demos_data_lies_in_the_cache(monkeypatch):
    monkeypatch.setenv("SOUPKITCHEN_CACHE", "/kept")
    made = tasks.demo()
    assert (made.data.path, made.max_length) == ("/kept/demo/seed-0/data", 16)


# Wrong words


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: methods.ties(density=3), "method.sparsifier.density=3 should be"),
        (lambda: methods.ties(normalize="no"), "method.normalize=no should be true or false"),
        (lambda: methods.task_arithmetic(sparsifier=0.3), "method.sparsifier=0.3 should be options of"),
        (lambda: tasks.text_classification(), "missing 1 required positional argument: 'path'"),
        (lambda: tasks.function("-"), "missing 1 required positional argument: 'function'"),
        (lambda: tasks.text_classification("x", "y"), "too many positional arguments"),
        (lambda: tasks.text_classification("x", path="y"), "multiple values for argument 'path'"),
        (lambda: tasks.text_classification("x", metric=1), "task.metric=1 should be options of its own"),
        (lambda: tasks.text_classification("x", max_length=0), "task.max_length=0 should be a whole number"),
        (lambda: tasks.text_classification("x", seed=-1), "task.data.seed=-1 should be a whole number"),
        (lambda: tasks.text_classification("x", labell="y"), "no option 'labell'; did you mean label?"),
        (lambda: tasks.text_classification(data=Data("x"), seed=1), "seed has no place beside an object"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_answered_as_on_the_command_line(call, told):
    with pytest.raises(ConfigError, match=told):
        call()


def test_an_option_that_a_method_has_not_is_pythons_own_error():
    for made, options in ((methods.ties, {"densty": 0.3}), (methods.linear, {"density": 0.3})):
        with pytest.raises(TypeError, match="unexpected keyword argument"):
            made(**options)


# What is imported when, and what tools see


def test_a_task_by_name_tells_its_options_and_defaults():
    parameters = inspect.signature(tasks.text_classification).parameters
    assert next(iter(parameters)) == "path"
    assert parameters["metric"].default == "accuracy"
    assert parameters["seed"].kind is inspect.Parameter.KEYWORD_ONLY
    assert tasks.text_classification.__doc__ == TextClassification.__doc__


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
tasks.text_classification("reviews", heldout=3)  # wrong
tasks.nope()  # wrong
"""


MODULES = ("", ".methods", ".tasks", ".merging.sparsifiers", ".options.kinds")


def test_a_type_checker_knows_methods_and_tasks_by_name(tmp_path):
    (tmp_path / "checked.py").write_text(CHECKED)
    modules = [word for name in MODULES for word in ("-m", f"soupkitchen{name}")]
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
