"""Evaluations that are kept: found again, damaged, shared, listed, pruned and cleared."""

from __future__ import annotations

import os
import shutil
import time

import numpy as np
import pandas as pd
import pytest
from command import Fork, own, soupkitchen
from hypothesis import given
from hypothesis import strategies as st

from soupkitchen.cache import main
from soupkitchen.store.evaluations import EvaluationCache

OUTPUTS = {"": np.arange(6).reshape(3, 2), "texts": ["a", "b ü", ""], "rows": [[1, 2], [3]]}

KEY = "0123456789abcdef" * 2


def test_what_is_put_into_the_cache_comes_out_again(tmp_path):
    cache = EvaluationCache(tmp_path / "new")
    assert cache.get(KEY) is None
    cache.put(KEY, OUTPUTS, "soup on heldout")
    found = cache.get(KEY)
    np.testing.assert_array_equal(found[""], OUTPUTS[""])
    assert found["texts"] == OUTPUTS["texts"]
    assert found["rows"] == OUTPUTS["rows"]
    assert [entry.label for entry in cache.entries()] == ["soup on heldout"]


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_a_damaged_entry_is_as_good_as_none(tmp_path_factory, at, flip):
    cache = EvaluationCache(tmp_path_factory.mktemp("cache"))
    cache.put("key", OUTPUTS, "x" * 10)
    file = cache.folder / "key.safetensors"
    content = bytearray(file.read_bytes())
    at %= len(content)
    content[at] ^= flip
    file.write_bytes(content)
    found = cache.get("key")
    if found is not None:  # a flip in the label or in padding harms nothing
        assert np.array_equal(found[""], OUTPUTS[""])
        assert found["texts"] == OUTPUTS["texts"]
    file.write_bytes(bytes(content[: len(content) // 2]))
    assert cache.get("key") is None


def test_several_processes_may_share_a_cache(tmp_path):
    script = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from soupkitchen.store.evaluations import EvaluationCache\n"
        "cache = EvaluationCache(Path(sys.argv[1]))\n"
        "for i in range(200):\n"
        "    cache.put(f'key{i % 5}', {'': np.full(500, i % 5)}, 'x')\n"
        "    found = cache.get(f'key{(i * 3) % 5}')\n"
        "    assert found is None or (found[''] == (i * 3) % 5).all()\n"
    )
    processes = [Fork(script, str(tmp_path), cwd=tmp_path) for _ in range(4)]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, said
    assert not any("damaged" in text for text in said)
    assert len(list(tmp_path.iterdir())) == 5


def test_the_cache_is_listed_and_cleared_from_the_command_line(tmp_path, capsys):
    EvaluationCache(tmp_path).put("0" * 32, OUTPUTS, "soup on \x1b[31mheldout")
    (tmp_path / f"{'1' * 32}.safetensors").write_text("x")
    main(["list", "--folder", str(tmp_path)])
    listed = capsys.readouterr().out
    assert "soup on \\x1b[31mheldout" in listed
    assert "(damaged)" in listed
    assert "2 evaluations" in listed
    main(["clear", "--yes", "--folder", str(tmp_path)])
    said = capsys.readouterr().out
    assert "1 evaluations deleted" in said
    assert "1 cannot be read, and may not be ours" in said
    assert [file.name for file in tmp_path.iterdir()] == [f"{'1' * 32}.safetensors"]


def test_pruning_takes_what_was_not_used_for_long_and_the_longest_unused_beyond_a_size(tmp_path, capsys):
    cache, now = EvaluationCache(tmp_path), time.time()
    keys = [str(number) * 32 for number in range(5)]
    for days, key in enumerate(reversed(keys)):  # 4 is of today, 0 four days old
        cache.put(key, {"": np.full(1000, days)}, "soup")
        os.utime(tmp_path / f"{key}.safetensors", (now, now - 86400 * days))
    half, damaged = tmp_path / f".{keys[0]}.safetensors.abcdefgh", tmp_path / f"{'f' * 32}.safetensors"
    for file in (half, damaged):
        file.write_text("x")
        os.utime(file, (now, now - 86400 * 9))
    assert cache.get(keys[0]) is not None  # which is a use

    def left() -> list[str]:
        return [entry.key[0] for entry in cache.entries() if entry.label is not None]

    main(["prune", "--older", "2.5d", "--folder", str(tmp_path)])
    assert left() == ["2", "3", "4", "0"]
    assert "1 of 6 evaluations" in capsys.readouterr().out
    assert (half.exists(), damaged.exists()) == (False, True)
    size = (tmp_path / f"{keys[2]}.safetensors").stat().st_size
    main(["prune", "--size", f"{2 * size / 1000 + 0.01:.3f}KB", "--older", "8w", "--folder", str(tmp_path)])
    assert left() == ["4", "0"]
    for wrong in (
        ["prune"],
        ["list", "--size", "1GB"],
        ["prune", "--older", "30"],
        ["prune", "--size", "ten"],
    ):
        with pytest.raises(SystemExit) as ended:
            main([*wrong, "--folder", str(tmp_path)])
        assert ended.value.code == 2
    assert left() == ["4", "0"]


def test_clearing_touches_nothing_but_evaluations_and_asks_first(text_runs, tmp_path, capsys, monkeypatch):
    run = tmp_path / "run"
    shutil.copytree(text_runs / "a", run)
    shutil.copy(run / "model.safetensors", run / f"{'a' * 32}.safetensors")  # a name like ours
    (run / f"{'b' * 32}.safetensors").symlink_to(run / "model.safetensors")
    before = sorted(file.name for file in run.iterdir())
    main(["clear", "--yes", "--folder", str(run)])
    assert sorted(file.name for file in run.iterdir()) == before

    EvaluationCache(run).put("0" * 32, OUTPUTS, "soup")
    with pytest.raises(SystemExit) as left:  # nobody is there to ask
        main(["clear", "--folder", str(run)])
    assert left.value.code == 1
    assert "--yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer in ("n", "", "what"):
        monkeypatch.setattr("builtins.input", lambda question, answer=answer: answer)
        main(["clear", "--folder", str(run)])
        assert "nothing was deleted" in capsys.readouterr().out
        assert (run / f"{'0' * 32}.safetensors").exists()
    monkeypatch.setattr("builtins.input", lambda question: "y")
    main(["clear", "--folder", str(run)])
    assert "1 evaluations, 0.0 MiB, in" in capsys.readouterr().out
    assert sorted(file.name for file in run.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_said_and_harms_nothing(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    EvaluationCache(tmp_path / "file" / "cache").put("key", OUTPUTS, "x")
    assert "cannot be written" in caplog.text


@pytest.mark.slow
def test_single_runs_are_scored_once_for_all_methods(text_runs, texts, tmp_path):
    words = [w for w in own(text_runs, texts) if "cache" not in w]
    words += [f"evaluation.cache={tmp_path}/cache", "search=uniform", f"pool.base={text_runs}/d"]
    trajectories = []
    for name, more in {
        "one": [],
        "two": ["method=ties"],
        "again": [],
        "loss": ["task.metric.name=cross_entropy"],
    }.items():
        soupkitchen(*words, f"name={name}", *more, cwd=tmp_path)
        trajectories.append(pd.read_csv(tmp_path / "results" / name / "trajectory.csv"))
    singles = [t[(t["stage"] == "rank")] for t in trajectories]
    assert [s["cached"].all() for s in singles] == [False, True, True, False]  # a loss needs the logits
    assert singles[0]["score"].tolist() == singles[1]["score"].tolist()
    soups = [t[t["candidate"] == "soup"]["score"].tolist() for t in trajectories]
    assert soups[0] == soups[2]
    assert trajectories[2]["examples_scored"].sum() == 0
    frame = pd.read_csv(texts / "validation.csv")
    frame.loc[0, "text"] = "w1 w2 w3"
    (tmp_path / "changed").mkdir()
    frame.to_csv(tmp_path / "changed" / "validation.csv", index=False)
    soupkitchen(*words, "name=changed", f"task.data.path={tmp_path}/changed", cwd=tmp_path)
    changed = pd.read_csv(tmp_path / "results/changed/trajectory.csv")
    assert not changed[changed["stage"] == "rank"]["cached"].any()
