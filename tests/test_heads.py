"""Runs whose labels are in another order, of families that call their head by names of their own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from families import inputs, small_config
from safetensors.torch import save_file
from tiny import shake

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.compatibility import fitted
from soupkitchen.checkpoints.names import rows_of_labels

LABELS = ["apples", "boats", "clouds"]
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
    made = model(task, name, model_type, LABELS)
    made.save_pretrained(tmp_path / "a")
    others = [LABELS[2], LABELS[0], LABELS[1]]
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
    for label in LABELS:
        torch.testing.assert_close(
            after[..., LABELS.index(label)], before[..., others.index(label)], rtol=1e-5, atol=1e-6
        )
    assert not torch.allclose(before, after)


def test_as_many_labels_as_hidden_units_are_not_mixed_up_with_them(tmp_path):
    labels = [f"label {number}" for number in range(16)]
    made = model(TEXTS, "BertForSequenceClassification", "bert", labels)
    assert made.bert.pooler.dense.bias.shape == made.classifier.bias.shape
    made.save_pretrained(tmp_path)
    assert rows_of_labels(tmp_path, 16) == {"classifier.weight", "classifier.bias"}


def test_a_model_without_a_head_has_no_rows_of_labels(tmp_path):
    made = transformers.BertModel(small_config("bert", TEXTS, **named(LABELS)))
    made.save_pretrained(tmp_path)
    assert rows_of_labels(tmp_path, 3) == frozenset()
