"""Which runs fit together: labels in another order, other labels, heads, settings that compute otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers
from command import own, soupkitchen
from families import inputs, small_config
from safetensors.torch import load_file, save_file
from tiny import LABELS, average, shake, text_classifier

from soupkitchen.checkpoints import Checkpoint, Pool, find_pool
from soupkitchen.checkpoints.compatibility import fitted
from soupkitchen.checkpoints.names import rows_of_labels
from soupkitchen.errors import ConfigError, IncompatibleError


def names(pool: Pool) -> list[str]:
    return [run.name for run in pool]


# Labels


def relabel(run: Path, order: list[int]) -> None:
    """The same model with its labels in another order: rows of the head and names alike."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(run)
    with torch.no_grad():
        for parameter in model.classifier.parameters():
            parameter.copy_(parameter[order])
    labels = [LABELS[index] for index in order]
    model.config.id2label = dict(enumerate(labels))
    model.config.label2id = {label: number for number, label in enumerate(labels)}
    model.save_pretrained(run)


def test_heads_with_labels_in_another_order_score_and_merge_as_if_in_the_same(
    text_runs, copy_runs, texts, tmp_path
):
    runs = copy_runs("a", "b", "c", "d")
    relabel(runs / "b", [2, 0, 1])
    words = ("search=uniform", "task.data.test=null")
    soupkitchen(*own(runs, texts), *words, "name=mixed", cwd=tmp_path)
    soupkitchen(*own(text_runs, texts), *words, "name=same", "pool.exclude=[wild]", cwd=tmp_path)
    mixed, same = (
        pd.read_csv(tmp_path / f"results/{name}/leaderboard.csv").set_index("model").sort_index()
        for name in ("mixed", "same")
    )
    assert mixed["heldout_accuracy"].to_dict() == same["heldout_accuracy"].to_dict()
    one, other = (load_file(tmp_path / f"results/{n}/soup/model.safetensors") for n in ("mixed", "same"))
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_labels_in_another_order_of_a_head_of_unknown_name_are_refused(copy_runs):
    runs = copy_runs("a", "b", "c")
    for run in runs.iterdir():
        tensors = load_file(run / "model.safetensors")
        renamed = {name.replace("classifier", "my_head"): tensor for name, tensor in tensors.items()}
        save_file(renamed, run / "model.safetensors", {"format": "pt"})
    config = json.loads((runs / "b" / "config.json").read_text())
    config["id2label"] = {"0": "clouds", "1": "apples", "2": "boats"}
    (runs / "b" / "config.json").write_text(json.dumps(config))
    with pytest.raises(IncompatibleError, match="which tensors are its head is not known"):
        find_pool(str(runs))


def test_an_odd_first_run_is_the_odd_one_out(copy_runs):
    runs = copy_runs("b", "c", "d")
    text_classifier(("x", "y")).save_pretrained(runs / "a")
    with pytest.raises(IncompatibleError) as error:
        find_pool(str(runs))
    assert "1 of the runs cannot be merged" in str(error.value)
    assert names(find_pool(str(runs), on_incompatible="skip")) == ["b", "c", "d"]
    with pytest.raises(ConfigError, match="choose error or skip"):
        find_pool(str(runs), on_incompatible="warn")


def test_a_reference_that_drops_out_does_not_turn_the_others_labels(copy_runs, texts, tmp_path):
    runs = copy_runs("a", "b", "c")
    tensors = load_file(runs / "a" / "model.safetensors")
    tensors["classifier.bias"][0] = float("nan")
    save_file(tensors, runs / "a" / "model.safetensors", {"format": "pt"})
    for name in ("b", "c"):
        relabel(runs / name, [2, 1, 0])
    words = (*own(runs, texts), "search=uniform", "pool.on_incompatible=skip", "name=x")
    soupkitchen(*words, cwd=tmp_path)
    soup = tmp_path / "results/x/soup"
    labels = json.loads((soup / "config.json").read_text())["id2label"]
    assert list(labels.values()) == [LABELS[2], LABELS[1], LABELS[0]]
    for name, tensor in average(runs, ["b", "c"]).items():
        torch.testing.assert_close(load_file(soup / "model.safetensors")[name], tensor)


NAMED = ["apples", "boats", "clouds"]
TEXTS, TOKENS, IMAGES = "text_classification", "token_classification", "image_classification"
FAMILIES = [
    (TEXTS, "BertForSequenceClassification", "bert"),
    (TEXTS, "BartForSequenceClassification", "bart"),
    (TEXTS, "FunnelForSequenceClassification", "funnel"),
    (TEXTS, "GPT2ForSequenceClassification", "gpt2"),
    (TEXTS, "PerceiverForSequenceClassification", "perceiver"),
    (TEXTS, "XLMForSequenceClassification", "xlm"),
    (TEXTS, "XLNetForSequenceClassification", "xlnet"),
    (TOKENS, "GPT2ForTokenClassification", "gpt2"),
    (TOKENS, "LlamaForTokenClassification", "llama"),
    (TOKENS, "XLNetForTokenClassification", "xlnet"),
    (IMAGES, "BitForImageClassification", "bit"),
    (IMAGES, "DeiTForImageClassification", "deit"),
    (IMAGES, "DeiTForImageClassificationWithTeacher", "deit"),
    (IMAGES, "LevitForImageClassification", "levit"),
    (IMAGES, "LevitForImageClassificationWithTeacher", "levit"),
    (IMAGES, "PvtForImageClassification", "pvt"),
    (IMAGES, "ResNetForImageClassification", "resnet"),
    (IMAGES, "SwiftFormerForImageClassification", "swiftformer"),
]


def named(labels: list[str]) -> dict[str, Any]:
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: number for number, label in enumerate(labels)},
    }


def model(task: str, name: str, model_type: str, labels: list[str]) -> Any:
    torch.manual_seed(0)
    made = getattr(transformers, name)(small_config(model_type, task, **named(labels))).eval()
    shake(made, 0.1)
    return made


def logits(made: Any, task: str) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = made(**inputs(task, made.config)).logits
    return found


@pytest.mark.parametrize(("task", "name", "model_type"), FAMILIES, ids=lambda told: str(told))
def test_a_head_put_in_another_order_gives_each_label_the_logits_that_it_had(
    task, name, model_type, tmp_path
):
    made = model(task, name, model_type, NAMED)
    made.save_pretrained(tmp_path / "a")
    others = [NAMED[2], NAMED[0], NAMED[1]]
    for key, value in named(others).items():
        setattr(made.config, key, value)
    made.save_pretrained(tmp_path / "b")
    run, problems = fitted(Checkpoint.open(tmp_path / "b"), Checkpoint.open(tmp_path / "a"))
    assert problems == []
    mended = tmp_path / "mended"
    mended.mkdir()
    (mended / "config.json").write_text((tmp_path / "a" / "config.json").read_text())
    save_file(
        {name: x.contiguous() for name, x in run.tensors()}, mended / "model.safetensors", {"format": "pt"}
    )
    before = logits(made, task)
    after = logits(type(made).from_pretrained(mended).eval(), task)
    for label in NAMED:
        torch.testing.assert_close(
            after[..., NAMED.index(label)], before[..., others.index(label)], rtol=1e-5, atol=1e-6
        )
    assert not torch.allclose(before, after)


def test_as_many_labels_as_hidden_units_are_not_mixed_up_with_them(tmp_path):
    labels = [f"label {number}" for number in range(16)]
    made = model(TEXTS, "BertForSequenceClassification", "bert", labels)
    assert made.bert.pooler.dense.bias.shape == made.classifier.bias.shape
    made.save_pretrained(tmp_path)
    assert rows_of_labels(tmp_path, 16) == {"classifier.weight", "classifier.bias"}


def test_a_model_without_a_head_has_no_rows_of_labels(tmp_path):
    made = transformers.BertModel(small_config("bert", TEXTS, **named(NAMED)))
    made.save_pretrained(tmp_path)
    assert rows_of_labels(tmp_path, 3) == frozenset()
