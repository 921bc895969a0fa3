"""Scores of whole runs: what is not finite, files and code that change meanwhile, faults of machines."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from command import own, soupkitchen
from made_up import Names
from safetensors.torch import load_file, save_file
from tiny import make_texts

from soupkitchen.evaluation.scoring import Examples, Listed, Piece
from soupkitchen.executors import Request
from soupkitchen.experiment.scores import cache_key, journal_key
from soupkitchen.soup import Recipe

CPU = torch.device("cpu")


def trajectory(folder: Path) -> pd.DataFrame:
    return pd.read_csv(folder / "trajectory.csv", keep_default_na=True)


# What is not finite


def test_a_soup_that_puts_out_nothing_but_nan_is_an_error_and_not_the_first_label(
    copy_runs, text_runs, tmp_path
):
    frame = make_texts(200, seed=3)
    mostly_first = pd.concat([frame[frame.label == "apples"], frame[frame.label != "apples"][:20]])
    (tmp_path / "texts").mkdir()
    mostly_first.to_csv(tmp_path / "texts" / "validation.csv", index=False)
    runs = copy_runs("b", "c")
    words = (*own(runs, tmp_path / "texts"), f"pool.base={text_runs / 'a'}", "method=task_arithmetic")
    result = soupkitchen(*words, "method.scale=1e38", "name=x", cwd=tmp_path)
    table = trajectory(tmp_path / "results/x")
    merged = table[table.stage == "merge"].iloc[1]
    assert (merged.decision, merged.reason) == ("error", "its score is NaN")
    assert "No run improved" in result.stderr
    leaderboard = pd.read_csv(tmp_path / "results/x/leaderboard.csv")
    assert leaderboard.set_index("model").loc["soup", "delta_vs_best_single"] == 0


def test_a_uniform_soup_of_several_scales_is_never_that_which_is_nan(copy_runs, text_runs, texts, tmp_path):
    words = (*own(copy_runs("b", "c"), texts), f"pool.base={text_runs / 'a'}", "method=task_arithmetic")
    soupkitchen(*words, "search=uniform", "method.scale=[1e38,0.5]", "name=x", cwd=tmp_path)
    leaderboard = pd.read_csv(tmp_path / "results/x/leaderboard.csv").set_index("model")
    assert not np.isnan(leaderboard.loc["soup", "heldout_accuracy"])


# One order


@pytest.mark.parametrize(("accept", "decision"), [("better", "discard"), ("not_worse", "keep")])
def test_a_twin_neither_gains_nor_loses(copy_runs, texts, tmp_path, accept, decision):
    runs = copy_runs("a", "b")
    for name in ("a", "b"):
        weights = load_file(runs / "a" / "model.safetensors")
        weights["bert.embeddings.position_embeddings.weight"][31] += name == "b"  # no text is so long
        save_file(weights, runs / name / "model.safetensors", {"format": "pt"})
    words = (*own(runs, texts), "task.metric.name=cross_entropy", f"search.accept={accept}", "name=x")
    soupkitchen(*words, "runtime.batch_size=7", cwd=tmp_path)
    table = trajectory(tmp_path / "results/x")
    twin = table[(table.stage == "merge") & (table.candidate == "b")].iloc[0]
    assert (twin.decision, twin.gain) == (decision, 0.0)
    leaderboard = pd.read_csv(tmp_path / "results/x/leaderboard.csv").set_index("model")
    assert leaderboard.loc["soup", "delta_vs_best_single"] == 0


# What changes meanwhile


def test_a_weight_file_that_is_replaced_while_it_is_scored_is_named_and_not_kept(copy_runs, texts, tmp_path):
    runs = copy_runs("a", "b", "c")
    file = runs / "b" / "model.safetensors"
    other = tmp_path / "other.safetensors"
    other.write_bytes((runs / "c" / "model.safetensors").read_bytes())
    words = (*own(runs, texts), f"evaluation.cache={tmp_path / 'cache'}", "name=x")
    code = (
        "import os, soupkitchen.evaluation.evaluator as e\n"
        "score, count = e.Evaluator.score, [0]\n"
        "def replaced(self, split, *more):\n"
        "    count[0] += 1\n"
        f"    if count[0] == 2: os.replace({str(other)!r}, {str(file)!r})\n"
        "    return score(self, split, *more)\n"
        "e.Evaluator.score = replaced"
    )
    before = file.read_bytes()
    result = soupkitchen(*words, cwd=tmp_path, before=code, fails=True)
    assert f"{file} changed while this run read it" in result.stderr
    events = [json.loads(line) for line in (tmp_path / "results/x/journal.jsonl").read_text().splitlines()]
    assert [e["what"] for e in events if e["event"] == "score"] == ["ranking a (1 of 3)"]
    file.write_bytes(before)
    soupkitchen(*own(runs, texts), "name=y", f"evaluation.cache={tmp_path / 'cache'}", cwd=tmp_path)
    soupkitchen(*own(runs, texts), "name=z", cwd=tmp_path)  # no cache
    tables = [trajectory(tmp_path / f"results/{name}")[["candidate", "score"]] for name in "yz"]
    pd.testing.assert_frame_equal(*tables)


@pytest.fixture
def of_ones_own(tmp_path: Path) -> Callable[[str], None]:
    """Writes a module `mine` with a function of one's own that imports another."""
    tmp_path.joinpath("mine.py").write_text(
        "from beside import number\n"
        "def function(model, tokenizer, examples):\n"
        "    return [number(model) for _ in examples]\n"
    )

    def write(body: str) -> None:
        tmp_path.joinpath("beside.py").write_text(f"def number(model):\n    return {body}\n")

    return write


def test_a_function_that_was_rewritten_gets_no_old_scores(copy_runs, texts, tmp_path, of_ones_own):
    words = (
        *(f"pool.path={copy_runs('a', 'b')}/*", "task=function", "task.function=mine.function"),
        *("task.model=AutoModelForSequenceClassification", f"task.data.path={texts}", "task.data.test=null"),
        f"evaluation.cache={tmp_path / 'cache'}",
    )
    weights = "float(model.classifier.weight.sum())"
    of_ones_own(weights)
    soupkitchen(*words, "name=before", cwd=tmp_path)
    of_ones_own(f"2 + {weights}")
    soupkitchen(*words, "name=after", cwd=tmp_path)
    soupkitchen(*words, "name=again", cwd=tmp_path)
    before, after, again = (
        trajectory(tmp_path / f"results/{n}").query("stage == 'rank'") for n in ("before", "after", "again")
    )
    np.testing.assert_allclose(after.score, before.score + 2, rtol=1e-6)
    assert not after.cached.any()
    assert again.cached.all()


def test_a_method_of_ones_own_that_was_rewritten_gets_no_old_scores(copy_runs, texts, tmp_path):
    def write(factor: str) -> None:
        tmp_path.joinpath("mine.py").write_text(
            "from dataclasses import dataclass\n"
            "from soupkitchen.merging import Linear\n"
            "@dataclass(frozen=True, kw_only=True)\n"
            "class Mine(Linear):\n"
            f"    def result(self, state): return super().result(state) * {factor}\n"
        )

    words = (*own(copy_runs("a", "b"), texts)[:-2], "task.metric.name=cross_entropy")
    words = (*words, "+method._target_=mine.Mine", f"evaluation.cache={tmp_path / 'cache'}")
    words = tuple(w.replace("+method", "method") for w in words)
    for factor in ("1", "0.5"):
        write(factor)
        soupkitchen(*words, f"name=times-{factor}", "search=uniform", cwd=tmp_path)
    soups = [
        pd.read_csv(tmp_path / f"results/times-{f}/leaderboard.csv").set_index("model") for f in ("1", "0.5")
    ]
    assert soups[0].loc["soup", "heldout_cross_entropy"] != soups[1].loc["soup", "heldout_cross_entropy"]


def test_whatever_a_forward_pass_raises_is_a_row_of_a_run_or_a_control_and_not_the_end(
    copy_runs, texts, tmp_path, of_ones_own
):
    runs = copy_runs("a", "b", "c", "d")
    a, b, c, d = (float(load_file(runs / n / "model.safetensors")["classifier.bias"][0]) for n in "abcd")
    bias = "float(model.classifier.bias[0])"
    of_ones_own(f"1 / (min(abs({bias} - {b!r}), abs({bias} - {(a + c + d) / 3!r})) > 1e-6)")
    words = (
        *(f"pool.path={runs}/*", "task=function", "task.function=mine.function", "evaluation.cache=null"),
        *("task.model=AutoModelForSequenceClassification", f"task.data.path={texts}", "name=x"),
    )
    soupkitchen(*words, cwd=tmp_path)
    errors = trajectory(tmp_path / "results/x").query("decision == 'error'")
    rows = errors[["stage", "candidate"]].to_numpy().tolist()
    assert [row for row in rows if row[0] != "merge"] == [["rank", "b"], ["final", "uniform"]]
    assert set(errors.reason) == {"ZeroDivisionError: division by zero"}
    assert not {"b", "uniform"} & set(pd.read_csv(tmp_path / "results/x/leaderboard.csv")["model"])


def test_predictions_of_a_piece_are_known_by_its_batches_and_its_bounds():
    """Losses differ by a hair with the batch, so those of other batches are other predictions."""
    recipe = Recipe.single("a")

    def key(batch_size: int, piece: Piece | None) -> str:
        request = Request("", recipe, piece=piece)
        return cache_key(request, Names(), Examples({"heldout": {"": Listed(np.zeros(20))}}, batch_size))

    pieces = [Piece(limit={"": 8}), Piece(limit={"": 12}), Piece({"": np.zeros(8)}, {"": 12})]
    keys = {key(size, piece) for size in (4, 9) for piece in pieces}
    assert len(keys) == 6
    assert key(4, None) == key(9, None)  # of a whole split, the batches are in the digest of predictions
    requests = [Request("", recipe, piece=piece) for piece in (None, *pieces)]
    assert len({journal_key(request, Names()) for request in requests}) == 3  # by what was known before
