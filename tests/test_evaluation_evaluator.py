"""Scores against a plain loop over single examples, and what must not change them."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from PIL import Image

from soupkitchen import metrics
from soupkitchen.checkpoints import Checkpoint
from soupkitchen.errors import ConfigError
from soupkitchen.evaluation import Evaluation, Evaluator, LiveModel, Part, Runtime
from soupkitchen.tasks import Data, ImageClassification, Several, Task, TextClassification


def evaluator_of(task: Task, run: Path, dtype: str = "auto", **options: int) -> Evaluator:
    runtime = Runtime(device="cpu", dtype=dtype)
    accelerator = runtime.accelerator()
    live = LiveModel(Checkpoint.open(run), task.model_class, accelerator.device)
    options = {"batch_size": 7, **options}
    processor = task.load_processor(str(run))
    splits = {role: {"": split} for role, split in task.data.load_splits().items()}
    return Evaluator(Several.of(task), live, processor, splits, accelerator, **options)


def part(evaluation: Evaluation) -> Part:
    """What the only task says."""
    (only,) = evaluation.parts.values()
    return only


def text_task(texts: Path, metric: str = "accuracy", **options: object) -> TextClassification:
    return TextClassification(Data(str(texts)), metrics.load(metric), **options)


def one_by_one(run: Path, texts: list[str]) -> torch.Tensor:
    """Logits from plain transformers, one text at a time, so without padding."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(run)
    tokenizer = transformers.AutoTokenizer.from_pretrained(run)
    with torch.inference_mode():
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])


@pytest.mark.parametrize("split", ["heldout", "test"])
def test_predictions_are_those_of_a_plain_loop_in_the_datas_order(text_runs, texts, split):
    frame = pd.read_csv(texts / {"heldout": "validation.csv", "test": "test.csv"}[split])
    expected = one_by_one(text_runs / "a", frame["text"].tolist())
    evaluation = evaluator_of(text_task(texts), text_runs / "a").score(split)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(text_runs / "a")
    references = frame["label"].map(model.config.label2id).to_numpy()
    np.testing.assert_array_equal(part(evaluation).predictions, expected.argmax(1))
    assert evaluation.score == (expected.argmax(1).numpy() == references).mean()
    assert evaluation.examples_scored == len(frame)
    assert 0.4 < evaluation.score < 1  # the tiny model has learnt something, and not all


def test_cross_entropy_is_that_of_a_plain_loop(text_runs, texts):
    frame = pd.read_csv(texts / "validation.csv")
    logits = one_by_one(text_runs / "b", frame["text"].tolist()).double()
    labels = torch.tensor([("apples", "boats", "clouds").index(label) for label in frame["label"]])
    evaluation = evaluator_of(text_task(texts, "cross_entropy"), text_runs / "b").score("heldout")
    expected = torch.nn.functional.cross_entropy(logits, labels)
    assert evaluation.score == pytest.approx(-expected.item(), rel=1e-5)
    assert part(evaluation).values.shape == (len(frame),)


@pytest.mark.parametrize("options", [{"batch_size": 1}, {"batch_size": 1000}, {"workers": 2}])
def test_batches_and_workers_do_not_change_scores(text_runs, texts, options):
    one = evaluator_of(text_task(texts), text_runs / "a").score("heldout")
    other = evaluator_of(text_task(texts), text_runs / "a", **options).score("heldout")
    np.testing.assert_array_equal(part(one).predictions, part(other).predictions)


def test_the_same_weights_score_the_same_to_the_last_bit(text_runs, texts):
    evaluator = evaluator_of(text_task(texts, "cross_entropy"), text_runs / "a")
    first = part(evaluator.score("heldout")).values
    evaluator.live.fill(Checkpoint.open(text_runs / "wild").tensors())
    assert not np.array_equal(part(evaluator.score("heldout")).values, first)
    evaluator.live.fill(Checkpoint.open(text_runs / "a").tensors())
    np.testing.assert_array_equal(part(evaluator.score("heldout")).values, first)


def test_progress_is_told_after_each_batch(text_runs, texts):
    told: list[tuple[int, int]] = []
    evaluator_of(text_task(texts), text_runs / "a", batch_size=30).score(
        "heldout", progress=lambda done, total: told.append((done, total))
    )
    assert told == [(30, 80), (60, 80), (80, 80)]


def test_pairs_of_texts_are_encoded_as_pairs(text_runs, texts, tmp_path):
    frame = pd.read_csv(texts / "validation.csv").assign(second="w1 w2")
    frame.to_csv(tmp_path / "validation.csv", index=False)
    task = TextClassification(Data(str(tmp_path), test=None), metrics.load("accuracy"), text_pair="second")
    tokenizer = transformers.AutoTokenizer.from_pretrained(text_runs / "a")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(text_runs / "a")
    prepared = task.prepare(task.data.load("validation"), tokenizer, model)
    assert prepared["input_ids"][0] == tokenizer(frame["text"][0], "w1 w2")["input_ids"]


def test_max_length_cuts_texts(text_runs, texts):
    task = text_task(texts, max_length=3)
    tokenizer = transformers.AutoTokenizer.from_pretrained(text_runs / "a")
    model = transformers.AutoModelForSequenceClassification.from_pretrained(text_runs / "a")
    assert max(task.prepare(task.data.load("test"), tokenizer, model)["length"][:]) == 3


# Sources


@pytest.mark.parametrize("kind", ["csv", "json", "parquet", "mapping", "file", "saved", "slice"])
def test_any_source_gives_the_same_examples(texts, tmp_path, kind):
    frame = pd.read_csv(texts / "validation.csv")
    data = Data(str(tmp_path), test=None)
    if kind == "csv":
        frame.to_csv(tmp_path / "validation.csv", index=False)
    elif kind == "json":
        frame.to_json(tmp_path / "validation.jsonl", orient="records", lines=True)
    elif kind == "parquet":
        frame.to_parquet(tmp_path / "validation.parquet", index=False)
    elif kind == "mapping":
        data = replace(data, path={"validation": str(texts / "validation.csv")})
    elif kind == "file":
        data = replace(data, path=str(texts / "validation.csv"), heldout="train")
    elif kind == "saved":
        split = datasets.Dataset.from_pandas(frame)
        datasets.DatasetDict({"validation": split}).save_to_disk(tmp_path / "saved")
        data = replace(data, path=str(tmp_path / "saved"))
    else:
        data = replace(data, path=str(texts), heldout="validation[:50%]+validation[50%:]")
    splits = data.load_splits()
    assert splits.keys() == {"heldout"}
    assert splits["heldout"].to_pandas()[["text", "label"]].equals(frame)


# Images


def test_images_score_as_in_a_plain_loop(tmp_path):
    names = ("dark", "light")
    random = np.random.default_rng(0)
    pictures = {}
    for label, name in enumerate(names):
        for number in range(6):
            pixels = np.clip(random.normal(80 + 90 * label, 60, (8, 8, 3)), 0, 255).astype("uint8")
            file = tmp_path / "images" / "validation" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file)
            pictures[str(file)] = (pixels, label)
    torch.manual_seed(0)
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.ViTConfig(
        image_size=8, patch_size=4, id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)}, **size,
    )  # fmt: skip
    processor = transformers.ViTImageProcessorPil(size={"height": 8, "width": 8})
    transformers.ViTForImageClassification(config).save_pretrained(tmp_path / "run")
    processor.save_pretrained(tmp_path / "run")

    task = ImageClassification(Data(str(tmp_path / "images"), test=None), metrics.load("cross_entropy"))
    evaluation = evaluator_of(task, tmp_path / "run", batch_size=5).score("heldout")

    model = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "run").eval()
    losses = []
    for _, (pixels, label) in sorted(pictures.items()):
        scaled = (torch.tensor(pixels).permute(2, 0, 1) / 255 - 0.5) / 0.5
        with torch.inference_mode():
            logits = model(pixel_values=scaled[None].float()).logits
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor([label])).item())
    assert evaluation.examples_scored == 12
    np.testing.assert_allclose(np.sort(-part(evaluation).values), np.sort(losses), rtol=1e-4)


# Runtime


def test_float16_on_a_cpu_is_refused():
    with pytest.raises(ConfigError, match="needs a GPU"):
        Runtime(device="cpu", dtype="float16").accelerator()


def test_mixed_precision_computes_in_it_and_leaves_the_weights(text_runs, texts):
    full = evaluator_of(text_task(texts, "cross_entropy"), text_runs / "a").score("heldout")
    mixed = evaluator_of(text_task(texts, "cross_entropy"), text_runs / "a", dtype="bfloat16")
    score = mixed.score("heldout").score
    assert score != full.score
    assert score == pytest.approx(full.score, rel=0.05)
    assert {parameter.dtype for parameter in mixed.live.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("before", [None, "meta"])
def test_a_device_that_is_chosen_is_not_left_to_other_users_of_accelerate(before, monkeypatch):
    monkeypatch.delenv("ACCELERATE_TORCH_DEVICE", raising=False)
    if before:
        monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", before)
    assert Runtime(device="cpu").accelerator().device.type == "cpu"
    assert os.environ.get("ACCELERATE_TORCH_DEVICE") == before
