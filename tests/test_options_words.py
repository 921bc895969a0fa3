"""Names of runs on a command line: what a message says to write is what works when it is pasted."""

from __future__ import annotations

import logging
import re
import shlex
import shutil
import subprocess
from typing import Any

import pytest
from command import own, soupkitchen
from hydra.core.override_parser.overrides_parser import OverridesParser

from soupkitchen.checkpoints.sources import find
from soupkitchen.cli.config import check_words
from soupkitchen.errors import ConfigError
from soupkitchen.merging.weights import check_names
from soupkitchen.options import kinds
from soupkitchen.records import read_csv

NAME = "lr=0.001,seed=1"
NAMES = [
    NAME,
    "a b",
    "it's",
    'say "a"',
    "é-ü",
    "a:b",
    "[a](b){c}",
    "a\\b",
    "x,y=1: 2",
    "plain",
    "\"'both'\"",
    "a\\\"'b",
]


def pasted(line: str) -> Any:
    """What Hydra makes of a word that stands in a message, after a real shell."""
    told = subprocess.run(["sh", "-c", f"printf '%s' {line}"], capture_output=True, text=True, check=True)
    return OverridesParser.create().parse_override(told.stdout).value()


@pytest.mark.parametrize("name", NAMES)
def test_a_word_made_of_names_is_read_as_these_names(name):
    assert pasted(kinds.listing("pool.exclude", [name, "b"])) == [name, "b"]
    word = kinds.mapping("method.weights", {name: "2", "b": "1"})
    if word is None:  # Hydra has no place for it
        assert re.search(r"[^\x00-\x7f]|['\"]", name)
    else:
        assert pasted(word) == {name: 2, "b": 1}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        (f"pool.exclude={NAME}", NAME),
        (f"pool.exclude=[{NAME}]", [NAME]),
        (f"pool.path=runs/{NAME}", f"runs/{NAME}"),
        (f"method.weights={{{NAME}: 2}}", {NAME: 2}),
        (f"method.weights={{{NAME}: 2, lr=0.1,seed=2: 0.5}}", {NAME: 2, "lr=0.1,seed=2": 0.5}),
        (f'method.weights={{"{NAME}": 2}}', {NAME: 2}),
    ],
)
def test_a_word_without_quotes_is_refused_with_the_one_that_works(word, value):
    with pytest.raises(ConfigError, match="needs quotes of its own") as error:
        check_words([word])
    assert pasted(str(error.value).rpartition("write ")[2]) == value


def test_a_run_that_is_not_there_is_refused_with_how_the_nearest_is_written(text_runs, tmp_path, caplog):
    with pytest.raises(ConfigError, match="Did you mean lr") as error:
        check_names({"lr=0.001": 1}, [NAME, "b"])
    assert pasted(str(error.value).rpartition("write ")[2]) == {NAME: 1}
    for run, name in zip(("a", "b", "c"), (NAME, "lr=0.1,seed=2", "x"), strict=True):
        shutil.copytree(text_runs / run, tmp_path / "runs" / name)
    with caplog.at_level(logging.WARNING):
        find(str(tmp_path / "runs" / "*"), ["lr=0.001"])
    assert pasted(caplog.messages[-1].rpartition("write ")[2]) == [NAME]


def test_runs_with_such_names_are_weighed_and_left_out(text_runs, texts, tmp_path):
    for run, name in zip(("a", "b", "c"), (NAME, "lr=0.1,seed=2", "x"), strict=True):
        shutil.copytree(text_runs / run, tmp_path / "runs" / name)
    said = (f"method.weights={{{NAME}: 3, x: 1}}", "pool.exclude=lr=0.1,seed=2")
    command = (*own(tmp_path / "runs", texts), "name=x", "search=uniform", "task.data.test=null")
    right = []
    for word in said:
        told = soupkitchen(*command, word, cwd=tmp_path, fails=True).stderr
        right += shlex.split(told.rpartition("write ")[2])
    soupkitchen(*command, *right, cwd=tmp_path)
    table = read_csv(tmp_path / "results" / "x" / "leaderboard.csv")
    assert set(table["model"]) >= {NAME, "x"}
    assert "lr=0.1,seed=2" not in set(table["model"])
