"""Extractive question answering, held against the plainest way of doing it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from command import soupkitchen
from tiny import VOCABULARY, tokenizer
from transformers import BertConfig, BertForQuestionAnswering

from soupkitchen import metrics
from soupkitchen.records import read_csv

SIZE = {"vocab_size": len(VOCABULARY), "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 32, "max_position_embeddings": 32}  # fmt: skip


def model(seed: int) -> BertForQuestionAnswering:
    torch.manual_seed(seed)
    made = BertForQuestionAnswering(BertConfig(**SIZE))
    for parameter in made.parameters():
        parameter.data.mul_(3)
    return made.eval()


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qa")
    for name, seed in {"a": 1, "b": 2, "c": 3}.items():
        model(seed).save_pretrained(folder / name)
        tokenizer().save_pretrained(folder / name)
    return folder


def rows(number: int = 24) -> list[dict[str, Any]]:
    random, told = np.random.default_rng(0), []
    for index in range(number):
        words = [f"w{n}" for n in random.integers(0, 60, random.integers(6, 70))]
        start = int(random.integers(0, len(words) - 3))
        answers = {"text": [" ".join(words[start : start + 2]), words[start]], "answer_start": [0, 0]}
        if index % 4 == 0:
            answers = {"text": [], "answer_start": []}
        told.append({"question": f"w{index} w{index + 1}", "context": " ".join(words), "answers": answers})
    return told


def naive(net: Any, row: dict[str, Any], unanswerable: bool, stride: int, most: int) -> str:
    """Every window, every pair of words, one at a time."""
    words, encode = row["context"].split(), tokenizer()
    question = encode(row["question"])["input_ids"]
    room = 32 - len(question)
    stride = min(stride, room // 2)
    best, answer, nothing, begin = -np.inf, "", np.inf, 0
    while True:
        window = words[begin : begin + room]
        tokens = question + encode(" ".join(window))["input_ids"]
        with torch.no_grad():
            told = net(input_ids=torch.tensor([tokens]))
        starts, ends = told.start_logits[0].tolist(), told.end_logits[0].tolist()
        nothing = min(nothing, starts[0] + ends[0])
        for i in range(len(question), len(tokens)):
            for j in range(i, min(i + most, len(tokens))):
                if starts[i] + ends[j] > best:
                    best = starts[i] + ends[j]
                    answer = " ".join(window[i - len(question) : j - len(question) + 1])
        if begin + room >= len(words):
            break
        begin += room - stride
    return "" if unanswerable and nothing >= best else answer


def f1(answer: str, right: list[str]) -> float:
    scores = []
    for one in right or [""]:
        given, wanted = answer.split(), one.split()
        common = sum(min(given.count(word), wanted.count(word)) for word in set(given))
        alike = 2 * common / (len(given) + len(wanted)) if given and wanted else float(given == wanted)
        scores.append(alike)
    return max(scores)


@pytest.mark.parametrize("unanswerable", [False, True])
def test_scores_are_those_of_the_plainest_way(unanswerable, pool, tmp_path):
    some = rows() if unanswerable else [row for row in rows() if row["answers"]["text"]]
    pd.DataFrame(some).to_json(tmp_path / "squad.jsonl", orient="records", lines=True)
    words = [f"pool.path={pool}/*", "task=question_answering", f"task.data.path={tmp_path / 'squad.jsonl'}",
             "task.data.heldout=train", f"task.unanswerable={str(unanswerable).lower()}", "task.stride=6",
             "task.longest_answer=4", "evaluation.cache=null", "runtime.batch_size=5"]  # fmt: skip
    soupkitchen(*words, "name=x", "search=uniform", cwd=tmp_path)
    scores = read_csv(tmp_path / "results" / "x" / "leaderboard.csv").set_index("model")["heldout_answer_f1"]
    for name in ("a", "b", "c", "soup"):
        folder = tmp_path / "results" / "x" / "soup" if name == "soup" else pool / name
        net = BertForQuestionAnswering.from_pretrained(folder).eval()
        answers = [naive(net, row, unanswerable, 6, 4) for row in some]
        expected = np.mean([f1(a, row["answers"]["text"]) for a, row in zip(answers, some, strict=True)])
        assert scores[name] == pytest.approx(expected, abs=1e-6)
    assert len(set(scores)) > 1
    if not unanswerable:
        pd.DataFrame(rows()).to_json(tmp_path / "squad.jsonl", orient="records", lines=True)
        told = soupkitchen(*words, "name=y", cwd=tmp_path, fails=True).stderr
        assert "row 1 has no answer; task.unanswerable=true lets questions have none" in told


def test_answers_are_compared_as_squad_does():
    """The rules of the official script, on answers made to need each of them."""
    context = "The  Eiffel-Tower, in Paris"
    right = {"context": context, "answers": ["eiffeltower", "a Paris"]}
    spans = [(0, 18), (22, 27), (4, 27), (-1, -1)]
    exact = metrics.load("answer_exact").per_example(np.array(spans), [right] * 4)
    assert exact is not None
    assert exact.tolist() == [1, 1, 0, 0]
    words = metrics.load("answer_f1").per_example(np.array(spans), [right] * 4)
    assert words is not None
    assert words.tolist() == pytest.approx([1, 1, 0.5, 0])
    nothing = {"context": context, "answers": []}
    for name in ("answer_exact", "answer_f1"):
        values = metrics.load(name).per_example(np.array([(-1, -1), (0, 3), (4, 9)]), [nothing] * 3)
        assert values is not None
        assert values.tolist() == [1, 1, 0]  # "The" has no words
