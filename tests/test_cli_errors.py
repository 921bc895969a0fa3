"""The table of bad inputs, through the real command: plain words, in time, nothing of the user's touched."""

from __future__ import annotations

import json
import re
from pathlib import Path

import bad_checkpoints
import bad_data
import bad_options
import pytest
from bad import Bad, contents, lay
from command import as_module, forked, soupkitchen

from soupkitchen.errors import ConfigError
from soupkitchen.evaluation import Runtime
from soupkitchen.output import Output

ROWS: list[Bad] = [*bad_options.ROWS, *bad_checkpoints.ROWS, *bad_data.ROWS]


def test_the_table_has_no_row_twice():
    assert len({row.what for row in ROWS}) == len(ROWS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_bad_input_is_told_in_plain_words(row, text_runs, texts, tmp_path):
    lay(tmp_path, text_runs, texts)
    row.spoil(tmp_path)
    before = contents(tmp_path)

    error = soupkitchen(*row.command, cwd=tmp_path, fails=row.code).stderr

    assert "error: " in error
    assert "Error executing job" not in error
    for told in row.says:
        assert told in error, error
    after = {name: told for name, told in contents(tmp_path).items() if "__pycache__" not in name}
    assert {name: after.get(name) for name in before} == before, "a file of the user's was touched"
    if not row.scored:
        assert not scores(tmp_path), "models were scored first"
        assert after.keys() == before.keys(), "something was left behind"


def scores(folder: Path) -> list[str]:
    """What journals below `folder` say was scored."""
    journals = [path for path in folder.rglob("journal.jsonl") if path.is_file()]
    lines = [line for file in journals for line in file.read_text().splitlines()]
    return [event["what"] for event in map(json.loads, lines) if event["event"] == "score"]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Runtime(device="cuda:7").accelerator(), "runtime.device=cuda:7 cannot be used here"),
        (lambda: Runtime(max_memory={"cpu": "much"}), "runtime.max_memory"),
        (lambda: Runtime(offload_folder="nowhere"), "runtime.offload_folder=nowhere is no folder"),
        (lambda: Output(max_shard_size="big"), "output.max_shard_size=big"),
    ],
)
def test_options_that_cannot_be_are_named(make, complaint):
    with pytest.raises(ConfigError, match=re.escape(complaint)):
        make()


def test_a_traceback_is_there_for_those_who_ask(tmp_path):
    full = {"HYDRA_FULL_ERROR": "1"}
    result = forked(as_module("soupkitchen"), "pool.path=nowhere", cwd=tmp_path, env=full)
    assert "Traceback" in result.stderr
    assert result.returncode == 1
