"""The command line's words: names of runs, typos, and answers that do not wait for torch."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import hydra
import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from soupkitchen import config as conf

CHOICES = {"pool": "demo", "method": "linear", "search": "greedy", "task": "demo"}
LIGHT = """
import sys
sys.argv = ["soupkitchen", *{arguments!r}]
from soupkitchen.__main__ import main
try:
    main()
finally:
    heavy = [m for m in ("torch", "transformers", "datasets", "evaluate", "pandas") if m in sys.modules]
    assert not heavy, heavy
    print("LIGHT")
"""


def light(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    """Runs the command line and checks that nothing heavy was imported."""
    command = [sys.executable, "-c", LIGHT.format(arguments=list(arguments))]
    result = subprocess.run(command, capture_output=True, text=True, cwd=cwd, check=False)
    assert "LIGHT" in result.stdout, result.stderr
    return result


def test_help_explains_itself_without_torch(tmp_path: Path) -> None:
    out = light("--help", cwd=tmp_path).stdout
    for words in ("python -m soupkitchen", "search: greedy, uniform", "accept", "pool.path=", "-m"):
        assert words in out
    assert list(tmp_path.iterdir()) == []


def test_cfg_job_prints_the_composition_without_torch(tmp_path: Path) -> None:
    out = light("--cfg", "job", "search=uniform", cwd=tmp_path).stdout
    assert "soupkitchen.search.Uniform" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("word", "answer"),
    [
        ("method.normalise=false", "no option 'method.normalise'. Did you mean method.normalize?"),
        ("serach.accept=1", "Did you mean search.accept?"),
        ("task.data.pth=x", "Did you mean task.data.path?"),
        ("method=liner", "no method=liner. Did you mean method=linear?"),
        ("task=text_clasification", "Did you mean task=text_classification?"),
        ("+overwite=true", "Did you mean overwrite?"),
        ("task=text_classification", "task.data.path has to be given"),
        ("pool=folder", "pool.path has to be given"),
        ("method.normalize=[", "no viable alternative"),
        ("task.data.heldout=train[:80%]", "needs quotes of its own"),
        ("nonsense", "nonsense"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_answered_without_torch_or_traceback(word: str, answer: str, tmp_path: Path) -> None:
    result = light(word, cwd=tmp_path)
    assert answer in result.stderr
    assert "Traceback" not in result.stderr.replace("assert not heavy", "")


def test_a_wrong_word_exits_with_1_and_full_errors_can_be_had(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "soupkitchen", "method.normalise=1"]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    environment = {"HYDRA_FULL_ERROR": "1", "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
    result = subprocess.run(
        command, capture_output=True, text=True, cwd=tmp_path, check=False, env=environment
    )
    assert result.returncode == 1
    assert "Traceback" in result.stderr


@pytest.mark.parametrize(
    ("overrides", "name"),
    [
        ([], "demo-linear-greedy"),
        (["search=uniform"], "demo-linear-uniform"),
        (["runtime.device=cpu", "overwrite=true", "name=x"], "demo-linear-greedy"),
        (["runtime.dtype=bfloat16"], "demo-linear-greedy+runtime.dtype=bfloat16"),
        (["top_k=3", "demo_seed=1"], "demo-linear-greedy+demo_seed=1+top_k=3"),
        (["demo_seed=1", "top_k=3"], "demo-linear-greedy+demo_seed=1+top_k=3"),
        (["pool.path='runs/*'"], "runs-linear-greedy"),
        (["pool.path=../../etc"], "etc-linear-greedy"),
        (["pool.path='/data/sweeps/glue/runs/*'"], "glue_runs-linear-greedy"),
        (["method.weights={a: 2}"], "demo-linear-greedy+method.weights=_a_2"),
    ],
)
def test_a_run_is_named_by_what_is_run(overrides: list[str], name: str) -> None:
    search = "uniform" if "search=uniform" in overrides else "greedy"
    assert conf.run_name({**CHOICES, "search": search}, overrides) == name


def test_only_options_of_swept_groups_become_sweeps() -> None:
    words = [
        "-m",
        "method=ties,dare_ties",
        "method.sparsifier.density=0.3",
        "top_k=3",
        "search.accept=better,significant",
    ]
    expected = [*words[:2], "method.sparsifier.density=choice(0.3)", *words[3:]]
    assert conf.sweepable(words) == expected
    assert conf.sweepable(words[1:]) == words[1:]
    nested = [
        "-m",
        "method=ties,linear",
        "method.weights={a: 1, b: [2]}",
        "+method.x='a,b'",
        "~method.y",
        "method.t=1,2",
    ]
    assert conf.sweepable(nested)[2:] == [
        "method.weights=choice({a: 1, b: [2]})", "+method.x=choice('a,b')", "~method.y", "method.t=1,2"
    ]  # fmt: skip
    assert conf.sweepable(["-m", "method=ties,linear", "top_k=["]) == ["-m", "method=ties,linear", "top_k=["]


def test_long_names_are_cut_and_stay_different() -> None:
    names = {conf.run_name(CHOICES, [f"task.text={'x' * 200}{i}"]) for i in range(3)}
    assert len(names) == 3
    assert max(map(len, names)) <= 120


def composed(*overrides: str) -> DictConfig:
    conf.register_resolvers()
    with initialize_config_dir(str(conf.CONF), version_base="1.3"):
        return compose("config", list(overrides), return_hydra_config=True)


def nodes(tree: object):
    if isinstance(tree, dict):
        if "_target_" in tree:
            yield tree
        for value in tree.values():
            yield from nodes(value)


@pytest.mark.parametrize(
    "choice",
    [
        f"{group.name}={file.stem}"
        for group in sorted(conf.CONF.iterdir())
        if group.is_dir() and group.name in CHOICES | {"runtime": ""}
        for file in sorted(group.glob("*.yaml"))
    ],
)
def test_each_yaml_has_exactly_the_options_of_what_it_names(choice: str) -> None:
    group = choice.split("=")[0]
    tree = OmegaConf.to_container(composed(choice)[group], resolve=False)
    found = list(nodes(tree))
    assert found
    for node in found:
        parameters = inspect.signature(hydra.utils.get_object(node["_target_"])).parameters
        assert node.keys() - {"_target_"} == parameters.keys()


def test_every_yaml_begins_with_what_it_is_for() -> None:
    for file in conf.CONF.rglob("*.yaml"):
        assert file.read_text().startswith("# "), file


def test_differences_between_configurations_are_lines_of_options() -> None:
    before = conf.what_is_run(
        OmegaConf.create({"search": {"accept": "better"}, "name": "x", "overwrite": False})
    )
    now = conf.what_is_run(
        OmegaConf.create({"search": {"accept": "not_worse"}, "name": "y", "overwrite": True})
    )
    assert conf.difference(before, before) == []
    assert conf.difference(before, now) == ["search.accept: better before, not_worse now"]
