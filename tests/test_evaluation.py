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
from PIL import Image
from scipy.stats import norm
from transformers import (
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessorPil,
)

from soupkitchen import metrics
from soupkitchen.checkpoints import Checkpoint
from soupkitchen.errors import ConfigError, DataError
from soupkitchen.evaluation import Evaluation, Evaluator, LiveModel, Part, Runtime, confidence_interval
from soupkitchen.tasks import Data, ImageClassification, Several, Task, TextClassification
from soupkitchen.tasks.files import count_overlap


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
    model = AutoModelForSequenceClassification.from_pretrained(run)
    tokenizer = AutoTokenizer.from_pretrained(run)
    with torch.inference_mode():
        return torch.cat([model(**tokenizer(text, return_tensors="pt")).logits for text in texts])


@pytest.mark.parametrize("split", ["heldout", "test"])
def test_predictions_are_those_of_a_plain_loop_in_the_datas_order(text_runs, texts, split):
    frame = pd.read_csv(texts / {"heldout": "validation.csv", "test": "test.csv"}[split])
    expected = one_by_one(text_runs / "a", frame["text"].tolist())
    evaluation = evaluator_of(text_task(texts), text_runs / "a").score(split)
    model = AutoModelForSequenceClassification.from_pretrained(text_runs / "a")
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
    tokenizer = AutoTokenizer.from_pretrained(text_runs / "a")
    model = AutoModelForSequenceClassification.from_pretrained(text_runs / "a")
    prepared = task.prepare(task.data.load("validation"), tokenizer, model)
    assert prepared["input_ids"][0] == tokenizer(frame["text"][0], "w1 w2")["input_ids"]


def test_max_length_cuts_texts(text_runs, texts):
    task = text_task(texts, max_length=3)
    tokenizer = AutoTokenizer.from_pretrained(text_runs / "a")
    model = AutoModelForSequenceClassification.from_pretrained(text_runs / "a")
    assert max(task.prepare(task.data.load("test"), tokenizer, model)["length"][:]) == 3


# Labels and columns


def _text_data(folder: Path, **columns: list) -> Data:
    pd.DataFrame(columns).to_csv(folder / "validation.csv", index=False)
    return Data(str(folder), test=None)


@pytest.mark.parametrize(
    ("labels", "complaint"),
    [(["apples", "pears"], "no label 'pears'"), ([0, 3], "3 is no label"), ([0, -1], "-1 is no label"),
     ([0.5, 1.0], "0.5 is no label")],
)  # fmt: skip
def test_labels_that_the_model_lacks_are_named(text_runs, tmp_path, labels, complaint):
    data = _text_data(tmp_path, text=["w1", "w2"], label=labels)
    with pytest.raises(DataError, match=complaint):
        evaluator_of(TextClassification(data, metrics.load("accuracy")), text_runs / "a")


def test_class_labels_are_matched_by_name_not_by_number(text_runs, tmp_path):
    feature = datasets.ClassLabel(names=["clouds", "apples", "boats"])
    split = datasets.Dataset.from_dict({"text": ["w1", "w2"], "label": [0, 2]}).cast_column("label", feature)
    datasets.DatasetDict({"validation": split}).save_to_disk(tmp_path / "saved")
    task = TextClassification(Data(str(tmp_path / "saved"), test=None), metrics.load("accuracy"))
    evaluator = evaluator_of(task, text_runs / "a")
    assert evaluator.examples.references("heldout")[""].tolist() == [2, 1]


def test_a_missing_column_is_named_with_its_option(text_runs, texts):
    with pytest.raises(DataError, match=r"task\.text=body.*text, label"):
        evaluator_of(text_task(texts, text="body"), text_runs / "a")


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


def test_a_split_that_is_not_there_says_which_options_to_set(texts):
    with pytest.raises(DataError, match=r"no split 'dev'.*task\.data\.heldout"):
        Data(str(texts), heldout="dev").load_splits()


def test_data_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        Data(str(tmp_path / "nowhere")).load_splits()


def test_an_empty_split_is_refused(tmp_path):
    (tmp_path / "validation.csv").write_text("text,label\n")
    with pytest.raises(DataError, match=r"empty|no split"):
        Data(str(tmp_path), test=None).load_splits()


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
    config = ViTConfig(
        image_size=8, patch_size=4, id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)}, **size,
    )  # fmt: skip
    processor = ViTImageProcessorPil(size={"height": 8, "width": 8})
    ViTForImageClassification(config).save_pretrained(tmp_path / "run")
    processor.save_pretrained(tmp_path / "run")

    task = ImageClassification(Data(str(tmp_path / "images"), test=None), metrics.load("cross_entropy"))
    evaluation = evaluator_of(task, tmp_path / "run", batch_size=5).score("heldout")

    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run").eval()
    losses = []
    for _, (pixels, label) in sorted(pictures.items()):
        scaled = (torch.tensor(pixels).permute(2, 0, 1) / 255 - 0.5) / 0.5
        with torch.inference_mode():
            logits = model(pixel_values=scaled[None].float()).logits
        losses.append(torch.nn.functional.cross_entropy(logits, torch.tensor([label])).item())
    assert evaluation.examples_scored == 12
    np.testing.assert_allclose(np.sort(-part(evaluation).values), np.sort(losses), rtol=1e-4)


def test_a_column_without_images_is_named(texts, tmp_path):
    split = datasets.Dataset.from_dict({"image": [1.5], "label": [0]})
    task = ImageClassification(Data("-"), metrics.load("accuracy"))
    model = ViTForImageClassification(
        ViTConfig(num_hidden_layers=1, hidden_size=12, image_size=8, patch_size=4)
    )
    with pytest.raises(DataError, match=r"task\.image=image"):
        task.prepare(split, None, model)


# Intervals


def test_the_interval_of_accuracy_is_the_binomials(text_runs):
    right = np.repeat([1.0, 0.0], [140, 60])
    tasks = Several.of(TextClassification(Data("-"), metrics.load("accuracy")))
    only = Part(0.7, right, right, 200, 200)
    evaluation = Evaluation("heldout", 0.7, {"": only})
    low, high = confidence_interval(evaluation, tasks, {"": right})
    half = norm.ppf(0.975) * np.sqrt(0.7 * 0.3 / 200)
    assert low == pytest.approx(0.7 - half, abs=0.012)
    assert high == pytest.approx(0.7 + half, abs=0.012)
    assert confidence_interval(evaluation, tasks, {"": right}) == (low, high)


def test_the_interval_of_macro_f1_resamples_examples():
    random = np.random.default_rng(0)
    references = random.integers(0, 3, 150)
    predictions = np.where(random.random(150) < 0.7, references, random.integers(0, 3, 150))
    metric = metrics.load("f1_macro")
    score = metric.score(predictions, references)
    only = Part(score, None, predictions, 150, 150)
    tasks = Several.of(TextClassification(Data("-"), metric))
    evaluation = Evaluation("heldout", score, {"": only})
    low, high = confidence_interval(evaluation, tasks, {"": references})
    draws = [random.integers(0, 150, 150) for _ in range(2000)]
    expected = np.quantile([metric.quick(predictions[d], references[d]) for d in draws], [0.025, 0.975])
    np.testing.assert_allclose([low, high], expected, atol=0.02)


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


def test_a_device_that_is_not_there_is_refused():
    if torch.cuda.is_available():
        pytest.skip("this machine has the device")
    with pytest.raises(ConfigError, match=r"runtime\.device=cuda cannot be used here"):
        Runtime(device="cuda").accelerator()


@pytest.mark.parametrize("before", [None, "meta"])
def test_a_device_that_is_chosen_is_not_left_to_other_users_of_accelerate(before, monkeypatch):
    monkeypatch.delenv("ACCELERATE_TORCH_DEVICE", raising=False)
    if before:
        monkeypatch.setenv("ACCELERATE_TORCH_DEVICE", before)
    assert Runtime(device="cpu").accelerator().device.type == "cpu"
    assert os.environ.get("ACCELERATE_TORCH_DEVICE") == before


@pytest.mark.parametrize(
    "options", [{"dtype": "float8"}, {"batch_size": 0}, {"batch_size": 1.5}, {"workers": -1}]
)
def test_options_out_of_range_are_named(options):
    with pytest.raises(ConfigError, match=f"runtime.{next(iter(options))}"):
        Runtime(**options)


def test_overlap_of_held_out_and_test_is_counted_by_content(texts):
    splits = Data(str(texts)).load_splits()
    assert count_overlap(splits["heldout"], splits["test"], ("text",)) == 0
    mixed = datasets.concatenate_datasets([splits["test"], splits["heldout"].select(range(3))])
    assert count_overlap(splits["heldout"], mixed, ("text",)) == 3
