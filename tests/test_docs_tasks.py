"""Each command of docs/tasks.md takes its data in each of the formats that the page names."""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import conversations
import datasets
import numpy as np
import pandas as pd
import pytest
import speech
import torch
import transformers
from conftest import ROOT
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from pages import commands
from PIL import Image
from speech import spoken
from tiny import bert_tokenizer, llama, text_classifier, tokenizer

from soupkitchen import metrics
from soupkitchen.cli.config import CONF
from soupkitchen.evaluation import find_columns, load_splits
from soupkitchen.metrics import Asked
from soupkitchen.options.building import build
from soupkitchen.tasks import Several

PAGE = ROOT / "docs" / "tasks.md"
COMMANDS = {
    str(command): command.words
    for command in commands(PAGE)
    if any(word.startswith("task.data.path=") for word in command.words)
}
TASK = re.compile(r"\btask=(\w+)")
SIZE: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
}  # fmt: skip
pytestmark = pytest.mark.filterwarnings("ignore:At least one mel filter")


def encoder(**options: Any) -> transformers.BertConfig:
    return transformers.BertConfig(vocab_size=99, max_position_embeddings=32, **SIZE, **options)


def photos(folder: Path) -> list[dict[str, Any]]:
    (folder / "images").mkdir(exist_ok=True)
    for number in range(10):
        pixels = np.full((8, 8, 3), 20 * number, np.uint8)
        Image.fromarray(pixels).save(folder / f"images/{number}.png")
    return [{"image": f"images/{number}.png", "label": number % 2} for number in range(10)]


def calls(folder: Path) -> list[dict[str, Any]]:
    for number in range(10):
        speech.write(folder / f"{number}.wav", spoken("ab", seed=number))
    return [{"audio": f"{number}.wav", "text": "ab"} for number in range(10)]


def questions(folder: Path) -> list[dict[str, Any]]:
    corpus = [{"id": f"p{number}", "title": "w1", "text": f"w{number}"} for number in range(5)]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, corpus)))
    return [{"query": f"w{number}", "relevant": f"p{number % 5}"} for number in range(10)]


def bert(kind: Any, **options: Any) -> Callable[[Path], tuple[Any, Any]]:
    return lambda folder: (bert_tokenizer(), kind(encoder(**options)).eval())


def vit(folder: Path) -> tuple[Any, Any]:
    config = transformers.ViTConfig(image_size=8, patch_size=4, num_labels=2, **SIZE)
    return transformers.ViTImageProcessor(
        size={"height": 8, "width": 8}
    ), transformers.ViTForImageClassification(config).eval()


def talk(number: int, answer: str = "It's 2") -> list[dict[str, str]]:
    return [{"role": "user", "content": f"1 + {number}?"}, {"role": "assistant", "content": answer}]


def chat(folder: Path) -> tuple[Any, Any]:
    encode = conversations.tokenizer(conversations.CHATML)
    return encode, llama(len(encode))


TASKS: dict[str, tuple[Callable[[Path], list[dict[str, Any]]], Callable[[Path], tuple[Any, Any]]]] = {
    "image_classification": (photos, vit),
    "multiple_choice": (
        lambda folder: [{"question": "w1", "choices": ["w2", "w3"], "answer": n % 2} for n in range(10)],
        lambda folder: (tokenizer(), llama(99)),
    ),
    "language_modeling": (lambda folder: [{"messages": talk(n)} for n in range(10)], chat),
    "preference": (
        lambda folder: [{"chosen": talk(n), "rejected": talk(n, "no")} for n in range(10)],
        chat,
    ),
    "text_generation": (
        lambda folder: [{"messages": talk(n), "prompt": f"w{n}", "city": "w2"} for n in range(10)],
        chat,
    ),
    "speech_recognition": (calls, lambda folder: speech.whisper()[::-1]),
    "speech_recognition ctc": (calls, lambda folder: speech.ctc(folder)[::-1]),
    "retrieval": (questions, bert(transformers.BertModel)),
    "reranking": (
        lambda folder: [{"query": f"w{n}", "positive": "w2", "negative": "w3"} for n in range(10)],
        bert(transformers.BertForSequenceClassification, num_labels=1),
    ),
    "text_classification": (
        lambda folder: [{"body": f"w{n}", "stars": ("apples", "boats", "clouds")[n % 3]} for n in range(10)],
        lambda folder: (tokenizer(), text_classifier()),
    ),
    "text_classification mapped": (
        lambda folder: [{"text": f"w{n}", "label": ("neg", "pos")[n % 2]} for n in range(10)],
        lambda folder: (tokenizer(), text_classifier(("NEGATIVE", "POSITIVE"))),
    ),
    "multilabel_classification": (
        lambda folder: [{"text": f"w{n}", "toxic": n % 2, "obscene": 1, "threat": 0} for n in range(10)],
        lambda folder: (tokenizer(), text_classifier(("toxic", "obscene", "threat"))),
    ),
}


@cache
def composed(words: tuple[str, ...]) -> Any:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [word for word in words if word.lstrip("+").startswith("task")])
    return OmegaConf.to_container(config.task)


@cache
def made(kind: str) -> tuple[Any, transformers.PreTrainedModel]:
    torch.manual_seed(0)
    return TASKS[kind][1](Path(tempfile.mkdtemp()))


def write(folder: Path, rows: list[dict[str, Any]], form: str) -> Path:
    """The rows in a file or folder of that format."""
    frame, file = pd.DataFrame(rows), folder / f"data.{form}"
    if form == "saved":
        datasets.Dataset.from_list(rows).save_to_disk(folder)
        return folder
    if form == "large.parquet":
        table = datasets.Dataset.from_list(rows)
        strings = {
            n: datasets.Value("large_string")
            for n, f in table.features.items()
            if getattr(f, "dtype", "") == "string"
        }
        table.cast(datasets.Features({**table.features, **strings})).to_parquet(file)
    elif form == "parquet":
        frame.to_parquet(file)
    elif form == "jsonl":
        frame.to_json(file, orient="records", lines=True)
    else:
        frame.to_csv(file, index=False, sep="\t" if form == "tsv" else ",")
    return file


@pytest.fixture
def grade(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """The page's grader, in the module that its commands name."""
    (code,) = re.findall(r"```python\n# my_module.py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    module = ModuleType("my_module")
    exec(code, vars(module))
    monkeypatch.setitem(sys.modules, "my_module", module)
    return module.grade


def test_the_pages_grader_is_one(grade):
    metric = metrics.load("my_module.grade", options={"most": 3})
    asked = [Asked("Where?", {"city": "Rome"}, number) for number in range(3)]
    answers = ["In Rome", "In Paris", "It is in Rome"]
    values = metric.per_example(answers, asked)
    assert values is not None
    assert values.tolist() == [1.0, 0.0, 0.0]
    assert grade("Where?", answers[2], {"city": "Rome"})


@pytest.mark.usefixtures("grade")
@pytest.mark.parametrize("form", ["csv", "tsv", "jsonl", "parquet", "large.parquet", "saved", "folder"])
@pytest.mark.parametrize("shown", COMMANDS)
def test_the_command_takes_its_data_in_every_format(tmp_path, shown, form):
    words = COMMANDS[shown]
    kind = TASK.findall(shown)[0]
    if kind in ("function", "several"):
        pytest.skip("a function of the user's, or tasks that are tested by themselves")
    kind += " ctc" if "task.architecture=ctc" in words else ""
    kind += " mapped" if any(word.startswith("task.labels={") for word in words) else ""
    rows = TASKS[kind][0](tmp_path)
    if form == "folder":
        write(tmp_path, rows, "jsonl").rename(tmp_path / "validation.jsonl")
        path = tmp_path
    else:
        path = write(tmp_path, rows, form)
    tree = composed(words)
    is_file = form not in ("folder", "saved")  # slices are of files
    options = {"path": str(path)} | ({} if is_file else {"heldout": "auto", "test": "auto"})
    if kind == "image_classification":
        tree = {**tree, "metric": {**tree["metric"], "name": "accuracy"}}
    task = find_columns(Several.of(build({**tree, "data": {**tree["data"], **options}}))).tasks[""]
    split = load_splits(Several.of(task))["heldout"][""]
    processor, model = made(kind)
    prepared = task.prepare(split, processor, model)
    assert len(task.references(prepared)) == len(split)
    task.collate([prepared[number] for number in range(2)], processor)


def test_relative_paths_are_those_beside_the_table_before_those_in_the_working_directory(
    tmp_path, monkeypatch
):
    data = tmp_path / "data"
    data.mkdir()
    rows = photos(data)
    (tmp_path / "images").mkdir()
    for number in range(10):
        Image.new("RGB", (8, 8)).save(tmp_path / f"images/{number}.png")
    write(data, rows, "csv")
    write(tmp_path, [{**row, "image": str(data / str(row["image"]))} for row in rows], "csv")
    monkeypatch.chdir(tmp_path)
    tree = composed(("task=image_classification",))
    pixels = []
    for path in ("data/data.csv", "data.csv"):
        task = build({**tree, "data": {**tree["data"], "path": path, "heldout": "train", "test": None}})
        prepared = task.prepare(task.data.load("train"), *made("image_classification"))
        pixels.append(np.asarray(prepared["pixel_values"]))
    np.testing.assert_array_equal(*pixels)
    assert len(np.unique(pixels[0])) == 10
