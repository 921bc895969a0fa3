"""Commands that README.md and docs/ show: each is composed, or its arguments are parsed; none is run."""

from __future__ import annotations

import argparse
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from command import as_script, forked
from conftest import ROOT
from pages import PAGES, blocks, commands

SCRIPTS = ROOT / "scripts"
ALL = [command for page in PAGES for command in commands(page)]
NAMED = sorted(
    {word for command in ALL for word in command.words[:2] if re.fullmatch(r"scripts/\w+\.py", word)}
)


def those(*start: str) -> list[Any]:
    """The commands that begin with these words, each once."""
    found = {command.words: command for command in ALL if command.words[: len(start)] == start}
    return [pytest.param(command, id=str(command)) for command in found.values()]


class Parsed(BaseException):
    """Raised in place of what a command would do with its arguments."""


@pytest.fixture
def parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every argparse command end once its arguments are parsed."""
    parser = argparse.ArgumentParser
    parse, intermixed = parser.parse_known_args, parser.parse_known_intermixed_args

    def ends(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        raise Parsed(parse(self, args, namespace)[1])

    def ends_intermixed(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        with monkeypatch.context() as inside:
            inside.setattr(parser, "parse_known_args", parse)
            left = intermixed(self, args, namespace)[1]
        raise Parsed(left)

    monkeypatch.setattr(parser, "parse_known_args", ends)
    monkeypatch.setattr(parser, "parse_known_intermixed_args", ends_intermixed)


def reads_arguments(script: Path) -> bool:
    """Tells whether a script parses its arguments first, by itself or as the scripts of gains do."""
    return re.search(r"^import argparse$|gains\.arguments\(", script.read_text(), re.MULTILINE) is not None


def left_over(script: Path, words: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs a script as far as its arguments; those that it does not know."""
    assert reads_arguments(script), "it would run"
    monkeypatch.setattr(sys, "argv", [str(script), *words])
    monkeypatch.syspath_prepend(str(SCRIPTS))
    with pytest.raises(Parsed) as ended:
        runpy.run_path(str(script), run_name="__main__")
    return list(ended.value.args[0])


@pytest.mark.parametrize("command", those("python"))
@pytest.mark.usefixtures("parsing")
def test_arguments_of_scripts_and_of_small_commands_are_right(command, monkeypatch):
    script, *words = command.words[1:]
    if script == "-m" and words[0] != "soupkitchen":
        with pytest.raises(Parsed) as ended:
            import_module(words[0]).main(words[1:])
        assert not ended.value.args[0]
    elif script != "-m":
        unknown = left_over(ROOT / script, words, monkeypatch)
        assert all("=" in word for word in unknown), unknown  # kill_runs.py takes the command's own words


@pytest.mark.parametrize("command", those("torchrun"))
@pytest.mark.usefixtures("parsing")
def test_torchrun_takes_its_words(command):
    with pytest.raises(Parsed) as ended:
        import_module("torch.distributed.run").parse_args(list(command.words[1:]))
    assert not ended.value.args[0]


@pytest.mark.parametrize("script", NAMED)
def test_scripts_that_are_named_answer_help(script, monkeypatch, capsys):
    if script.endswith("finetune_pool.py"):  # Hydra's, with options of its own
        told = forked(as_script(ROOT / script), "--help", cwd=ROOT)
        assert "runs: ???" in told.stdout, told.stderr
        return
    assert reads_arguments(ROOT / script), "it would run"
    monkeypatch.setattr(sys, "argv", [script, "--help"])
    monkeypatch.syspath_prepend(str(SCRIPTS))
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / script), run_name="__main__")
    assert not ended.value.code
    assert "usage:" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["demo", "test", "check", "install"])
def test_scripts_of_the_shell_can_be_run(name):
    assert any(command.words[0] == f"scripts/{name}" for command in ALL)
    assert os.access(SCRIPTS / name, os.X_OK)
    subprocess.run(["sh", "-n", str(SCRIPTS / name)], check=True)


@pytest.mark.parametrize("command", those("pip"))
def test_extras_that_pip_is_told_of_exist(command):
    extras = re.findall(r"\[([\w-]+)\]", " ".join(command.words))
    project = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in extras)
    assert "-c" not in command.words or (ROOT / command.words[command.words.index("-c") + 1]).is_file()


def test_every_command_is_of_a_kind_that_is_tested():
    for command in ALL:
        first = command.words[0].removeprefix(".venv/bin/")
        known = ("python", "torchrun", "pip", "mkdocs", "pre-commit", "tensorboard")
        assert first in known or (ROOT / first).is_file(), str(command)


COMPOSING = """
from soupkitchen import __main__ as entry
from soupkitchen.cli import command
command._session = lambda: lambda plain, *rest: print(f"job {plain['name']}", flush=True)
command._is_there = lambda *rest: False
command._report = lambda folder: 0.0
entry.main()
"""
"""Composes command lines as the command does, sweeps job by job, and runs none of them."""


def composed(words: Sequence[str], folder: Path) -> list[str]:
    """The names of the jobs that a command line would run."""
    told = forked(COMPOSING, *words, cwd=folder)
    assert told.returncode == 0, told.stderr
    return re.findall(r"^job (.+)$", told.stdout, re.MULTILINE)


@pytest.mark.parametrize("command", [*those("python", "-m", "soupkitchen"), *those("torchrun")])
def test_commands_compose(command, tmp_path):
    words = list(command.words[command.words.index("soupkitchen") + 1 :])
    if "--config-dir" in words:
        (tmp_path / "my_conf" / "method").mkdir(parents=True)
        boldest = blocks(ROOT / "docs" / "extending.md", "yaml")[0]
        (tmp_path / "my_conf" / "method" / "boldest.yaml").write_text(boldest)
    launcher = [word for word in words if word.startswith(("hydra/launcher=", "hydra.launcher."))]
    if launcher:  # it is composed, and not started
        composed(["--cfg", "hydra", *launcher], tmp_path)
    words = [word for word in words if word not in launcher]
    if "experiment=optuna" in words:
        words.append("hydra.sweeper.n_trials=2")
    jobs = composed(words, tmp_path)
    sweeps = "-m" in words or any(word.startswith("experiment=") for word in words)
    if "--help" not in words:
        assert len(jobs) == 1 if not sweeps else len(jobs) >= 1


def test_a_command_with_a_misspelt_option_does_not_compose(tmp_path):
    with pytest.raises(AssertionError, match="Did you mean"):
        composed(["method=ties", "method.scal=0.5"], tmp_path)
