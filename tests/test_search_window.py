"""Windows of one run: all that there are, in order, the best kept; with real checkpoints of a Trainer."""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command import same, soupkitchen
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from tiny import LABELS, text_classifier, tokenizer, train_text_classifier
from transformers import DataCollatorWithPadding, PrinterCallback, Trainer, TrainingArguments

from soupkitchen.cli.config import in_our_words
from soupkitchen.errors import ConfigError
from soupkitchen.merging.weights import coefficients
from soupkitchen.search import Mixture, Ranked, Trial, Window

Windows = list[tuple[str, tuple[str, ...]]]
DURATIONS: list[Any] = ["all", "geometric", [1, 2, 3], [3, 2], [4]]

# Over made-up scores


def naive_windows(pool: list[Ranked], durations: Any, end: str) -> Windows:
    """Every window of two and more, by its name: oldest to newest, then turned round."""
    oldest_first = sorted(pool, key=lambda run: run.step)
    n = len(oldest_first)
    found = []
    for last in reversed(range(n)) if end == "any" else [n - 1]:
        for duration in range(2, last + 2):
            wanted = {"all": True, "geometric": duration == last + 1 or bin(duration).count("1") == 1}.get(
                durations if isinstance(durations, str) else "", False
            )
            if not wanted and (isinstance(durations, str) or duration not in durations):
                continue
            names = [run.name for run in oldest_first[last - duration + 1 : last + 1]]
            step = oldest_first[last].step
            name = f"last {duration}" if last == n - 1 else f"{duration} up to step {step}"
            found.append((name, tuple(reversed(names))))
    return found


@st.composite
def runs_of_one_training(draw: st.DrawFn) -> list[Ranked]:
    steps = draw(st.lists(st.integers(0, 10_000), min_size=1, max_size=9, unique=True))
    coarse = st.integers(0, 6).map(lambda n: n / 6)  # so that ties are common
    return [Ranked(f"run{i}", draw(coarse), step) for i, step in enumerate(steps)]


def driven(search: Window, pool: list[Ranked], score_of: Callable[[tuple[str, ...]], float]) -> list[Trial]:
    """Drives a search as the experiment does, and keeps what its rule accepts."""
    soup = search.start(pool)
    (best,) = [run.score for run in pool if (run.name,) == soup.ingredients]
    trials: list[Trial] = []
    while proposals := search.propose(pool, soup, trials):
        for proposal in proposals:
            score = score_of(proposal.mixture.ingredients)
            kept = search.rule.accepts(score - best, lambda: None)
            trials.append(Trial(proposal, score, kept))
            if kept:
                soup, best = proposal.mixture, score
                break
    return trials


@pytest.mark.parametrize("accept", ["better", "not_worse", {"margin": 0.2}], ids=str)
@given(
    runs_of_one_training(),
    st.sampled_from(DURATIONS),
    st.sampled_from(["last", "any"]),
    st.integers(0, 2**32),
)
def test_every_window_is_tried_once_and_the_best_is_kept(accept, pool, durations, end, seed):
    def score_of(ingredients: tuple[str, ...]) -> float:
        return random.Random(f"{seed}{ingredients}").randint(0, 8) / 8

    best = max(run.score for run in pool)
    soup: tuple[str, ...] = (next(run.name for run in pool if run.score == best),)
    expected = []
    for name, ingredients in naive_windows(pool, durations, end):
        gain = score_of(ingredients) - best
        kept = {"better": gain > 0, "not_worse": gain >= 0}.get(str(accept), gain > 0.2)
        if kept:
            soup, best = ingredients, score_of(ingredients)
        expected.append((name, ingredients, kept))

    search = Window(accept, durations=durations, end=end)
    trials = driven(search, pool, score_of)
    told = [(one.proposal.candidate, one.proposal.mixture.ingredients, one.kept) for one in trials]
    assert told == expected
    assert all(one.proposal.mixture.coefficients is None for one in trials)
    kept_last = [one for one in trials if one.kept][-1:]
    assert (kept_last[0].proposal.mixture if kept_last else search.start(pool)) == Mixture(soup)
    assert best >= max(run.score for run in pool)


@given(runs_of_one_training())
def test_each_window_is_the_one_before_and_an_older_run(pool):
    search = Window()
    windows = [one.mixture.ingredients for one in search.propose(pool, search.start(pool), [])]
    assert len(windows) == len(pool) - 1
    for before, after in itertools.pairwise(windows):
        assert after[:-1] == before


def test_where_a_run_could_not_be_scored_windows_go_on_without_it():
    pool = [Ranked(f"checkpoint-{step}", 0.5, step) for step in (10, 30, 40)]
    search = Window(durations=[3, 4])
    search.check([*pool, Ranked("checkpoint-20", 0.5, 20)])
    (proposal,) = search.propose(pool, search.start(pool), [])
    assert proposal.mixture.ingredients == ("checkpoint-40", "checkpoint-30", "checkpoint-10")


# What is refused


@pytest.mark.parametrize(
    "options",
    [{"durations": "some"}, {"durations": []}, {"durations": [2, 2]}, {"durations": [0]},
     {"durations": [2.5]}, {"durations": [True]}, {"durations": 3}, {"durations": None}, {"end": "first"},
     {"on_error": "ask"}, {"accept": "best"}],
    ids=str,
)  # fmt: skip
def test_other_options_are_refused(options):
    (option,) = options
    with pytest.raises(ConfigError, match=rf"search\.{option}="):
        Window(**options)


@pytest.mark.parametrize(
    ("steps", "durations", "says"),
    [
        ((1, None, 3), "all", "that of run1 is not known"),
        ((1, 2, 1), "all", "run0 and run2 are both of step 1"),
        ((1, 2, 3), [2, 4], "3 runs, so no window can be of 4"),
    ],
)
def test_pools_without_such_windows_are_refused(steps, durations, says):
    runs = [Ranked(f"run{number}", float("nan"), step) for number, step in enumerate(steps)]
    with pytest.raises(ConfigError, match=re.escape(says)):
        Window(durations=durations).check(runs)


def test_method_coefficients_is_another_word_for_its_weights():
    words = ["method.coefficients={by: step}", "+method.coefficients.a=2", "x=method.coefficients=1", "-m"]
    assert in_our_words(words) == ["method.weights={by: step}", "+method.weights.a=2", *words[2:]]


# One run of a real Trainer


@pytest.fixture(scope="module")
def trained(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a tiny run at constant learning rate: checkpoints of steps 15, 30, …, 90."""
    folder = tmp_path_factory.mktemp("trained") / "run"
    frame = pd.read_csv(texts / "train.csv")
    encoded = tokenizer()(frame["text"].tolist())
    labels = [LABELS.index(label) for label in frame["label"]]
    data = Dataset.from_dict({"input_ids": encoded["input_ids"], "labels": labels})
    options = {
        "max_steps": 90, "save_steps": 15, "save_only_model": True, "per_device_train_batch_size": 16,
        "learning_rate": 1e-2, "lr_scheduler_type": "constant", "use_cpu": True, "report_to": [],
        "disable_tqdm": True, "logging_strategy": "no", "dataloader_pin_memory": False,
    }  # fmt: skip
    init = train_text_classifier(text_classifier(), frame, rate=4e-3, epochs=14, seed=9)
    trainer = Trainer(
        init,
        TrainingArguments(str(folder), **options),
        train_dataset=data,
        processing_class=tokenizer(),
        data_collator=DataCollatorWithPadding(tokenizer()),
    )
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    assert len(list(folder.glob("checkpoint-*"))) == 6
    return folder


def own(run: Path, texts: Path, *more: str) -> tuple[str, ...]:
    return (
        f"pool.path={run}", "pool.checkpoints=all", "task=text_classification", f"task.data.path={texts}",
        "task.metric.name=cross_entropy", "search=window", "evaluation.cache=null", "runtime.batch_size=16",
        "name=x", *more,
    )  # fmt: skip


def check_average(soup: Path, run: Path, steps: list[int], counts: np.ndarray) -> None:
    """Holds a soup to the checkpoints of these steps, weighted, in float64."""
    files = [load_file(run / f"checkpoint-{step}" / "model.safetensors") for step in steps]
    for name, tensor in load_file(soup / "model.safetensors").items():
        expected = sum(count * file[name].double() for count, file in zip(counts, files, strict=True))
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-5, atol=1e-6)


def last_kept(folder: Path) -> dict[str, Any]:
    table = pd.read_csv(folder / "trajectory.csv", keep_default_na=False)
    chosen = table[(table["stage"] == "merge") & table["decision"].isin(["start", "keep"])].iloc[-1]
    return {**chosen, "score": float(chosen["score"])}


def steps_of(ingredients: str) -> list[int]:
    return [int(name.rsplit("-", 1)[1]) for name in ingredients.split(";")]


@pytest.mark.slow
@pytest.mark.parametrize("decay", ["none", "linear", "cosine", "ema"])
def test_the_soup_is_the_average_that_the_decay_stands_for(decay, trained, texts, tmp_path):
    weights = () if decay == "none" else (f"method.coefficients={{by: step, decay: {decay}}}",)
    soupkitchen(*own(trained, texts, *weights), cwd=tmp_path)
    trajectory = pd.read_csv(tmp_path / "results/x/trajectory.csv")
    merges = trajectory[(trajectory["stage"] == "merge") & (trajectory["decision"] != "start")]
    assert merges["candidate"].tolist() == [f"last {duration}" for duration in range(2, 7)]
    for ingredients in merges["ingredients"]:
        steps = steps_of(ingredients)
        assert steps == list(range(90, 90 - 15 * len(steps), -15))
    chosen = last_kept(tmp_path / "results/x")
    best_single = trajectory.query("stage == 'rank'")["score"].min()  # a loss
    assert chosen["score"] < best_single, "these checkpoints are such that a window helps"
    newest_first = steps_of(chosen["ingredients"])
    oldest_first = newest_first[::-1]
    count = len(oldest_first)
    plain = np.full(count, 1 / count)
    counts = plain if decay in ("none", "linear") else np.array(coefficients(decay, count))
    check_average(tmp_path / "results/x/soup", trained, oldest_first, counts)


@pytest.mark.slow
def test_a_glob_and_a_trainers_folder_are_the_same_pool_in_the_order_of_training(trained, texts, tmp_path):
    for name, path, which in (("all", trained, "all"), ("glob", f"{trained}/checkpoint-*", "null")):
        words = [
            word for word in own(trained, texts, "search.end=any") if not word.startswith(("pool", "name"))
        ]
        words += [f"pool.path={path}", f"pool.checkpoints={which}", f"name={name}"]
        soupkitchen(*words, cwd=tmp_path)
    tables = [pd.read_csv(tmp_path / f"results/{name}/trajectory.csv") for name in ("all", "glob")]
    merges = [table[(table["stage"] == "merge") & (table["decision"] != "start")] for table in tables]
    assert len(merges[0]) == 5 + 4 + 3 + 2 + 1
    assert merges[0]["candidate"].tolist()[5:7] == ["2 up to step 75", "3 up to step 75"]
    columns = ["candidate", "decision", "score", "score_at_most"]
    first, second = (table[columns].reset_index(drop=True) for table in merges)
    pd.testing.assert_frame_equal(first, second)
    soups = [(tmp_path / f"results/{name}/soup/model.safetensors").read_bytes() for name in ("all", "glob")]
    assert soups[0] == soups[1]


@pytest.mark.slow
def test_of_several_decays_the_best_is_taken_for_each_window(trained, texts, tmp_path):
    decays = ["linear", "one_minus_sqrt", "inverse_sqrt"]
    weights = f"method.weights={{by: step, decay: [{','.join(decays)}]}}"
    soupkitchen(*own(trained, texts, weights, "evaluation.early_stopping=false"), cwd=tmp_path)
    trajectory = pd.read_csv(tmp_path / "results/x/trajectory.csv")
    merges = trajectory[(trajectory["stage"] == "merge") & (trajectory["decision"] != "start")]
    for _, tried in merges.groupby("candidate", sort=False):
        assert tried["variant"].tolist() == [f"decay={decay}" for decay in decays]
        kept = tried[tried["decision"] == "keep"]
        assert len(kept) == (tried["score"].min() < tried["best_before"].iloc[0])
        if len(kept):
            assert kept["score"].iloc[0] == tried["score"].min()
    chosen = last_kept(tmp_path / "results/x")
    steps = steps_of(chosen["ingredients"])[::-1]
    counts = np.array(coefficients(chosen["variant"].removeprefix("decay="), len(steps)))
    check_average(tmp_path / "results/x/soup", trained, steps, counts)


@pytest.mark.slow
def test_weights_by_step_serve_every_search(trained, texts, tmp_path):
    words = own(trained, texts, "search=greedy", "method.weights={by: step, decay: inverse_sqrt}")
    soupkitchen(*[word for word in words if word != "search=window"], cwd=tmp_path)
    chosen = last_kept(tmp_path / "results/x")
    steps = sorted(steps_of(chosen["ingredients"]))
    assert len(steps) > 1
    counts = np.array(coefficients("inverse_sqrt", len(steps)))
    check_average(tmp_path / "results/x/soup", trained, steps, counts)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("search.durations=[2,7]",), "the pool has 6 runs"),
        (("method.weights={by: step, decay: quick}",), "NAME one of linear"),
        (("search.durations=3",), "search.durations=3 should be all, geometric"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_scored(words, says, trained, texts, tmp_path):
    error = soupkitchen(*own(trained, texts, *words), cwd=tmp_path, fails=True).stderr
    assert says in error
    assert not (tmp_path / "results/x/trajectory.csv").exists()


@pytest.mark.slow
def test_runs_that_are_no_checkpoints_have_no_windows(text_runs, texts, tmp_path):
    words = ("task=text_classification", f"task.data.path={texts}", f"pool.path={text_runs}/*", "name=x")
    error = soupkitchen(*words, "search=window", cwd=tmp_path, fails=True).stderr
    assert "search=window needs the training step of each run, and that of a, b, c, d, wild" in error
    by_step = "method.weights={by: step, decay: linear}"
    error = soupkitchen(*words, by_step, cwd=tmp_path, fails=True).stderr
    assert "method.weights={by: step, …} needs the training step" in error


# Continued


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.3, 0.55, 0.8])
def test_a_search_that_was_cut_off_goes_on_to_the_same_bytes(share, trained, texts, tmp_path):
    words = own(trained, texts, "method.weights={by: step, decay: [ema, linear]}", "search.end=any")
    soupkitchen(*words, cwd=tmp_path)
    folder, alone = tmp_path / "results/x", tmp_path / "alone"
    shutil.copytree(folder, alone)
    lines = (folder / "journal.jsonl").read_text().splitlines(keepends=True)
    cut = int(len(lines) * share)
    assert any(json.loads(line).get("stage") == "merge" for line in lines[:cut]) or share < 0.5
    (folder / "journal.jsonl").write_text("".join(lines[:cut]) + lines[cut][:20])
    (folder / "leaderboard.csv").unlink()
    shutil.rmtree(folder / "soup")
    assert f"continuing: {cut} events are in" in soupkitchen(*words, cwd=tmp_path).stderr
    same(folder, alone)
