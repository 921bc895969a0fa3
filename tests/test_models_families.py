"""A sample of the pools of `scripts/coverage.py`: families that are tied, fused, renamed or odd otherwise."""

from __future__ import annotations

import family_pools
import pytest
from family_pools import check

from soupkitchen.errors import CheckpointError

CLASSIFY, TAG, LIKELY = "text_classification", "token_classification", "language_modeling"
WRITE, ANSWER, SEE, EMBED = (
    "text_generation",
    "question_answering",
    "image_classification",
    "embedding_similarity",
)
MERGED = {
    CLASSIFY: ["bart", "esm", "funnel", "jamba", "perceiver", "qwen3_next", "xlnet", "xmod"],
    TAG: ["albert", "gpt_neo", "mobilebert"],
    LIKELY: ["bloom", "deepseek_v3", "gemma3_text", "gpt2", "mamba", "mixtral", "opt", "qwen3_moe", "rwkv"],
    WRITE: ["led", "mbart", "t5"],
    ANSWER: ["lilt", "longformer"],
    SEE: ["dinov2", "efficientnet", "levit", "mobilenet_v2", "resnet", "swin", "vit"],
    EMBED: ["mpnet"],
}
"""By task."""
HALF = [(CLASSIFY, "axk1"), (LIKELY, "gpt2"), (SEE, "resnet"), (WRITE, "t5")]
COOKED = [(SEE, "pp_lcnet"), (LIKELY, "mixtral"), (WRITE, "t5"), (TAG, "distilbert")]


@pytest.mark.parametrize(
    ("task", "model_type"), [(task, of) for task, types in MERGED.items() for of in types], ids=str
)
def test_merged_tensors_and_what_the_saved_soup_puts_out_are_right(task, model_type, tmp_path):
    check(model_type, task, "float32", tmp_path)


@pytest.mark.parametrize(("task", "model_type"), HALF, ids=str)
def test_they_are_so_in_half_precision(task, model_type, tmp_path):
    check(model_type, task, "bfloat16", tmp_path)


@pytest.mark.parametrize(("task", "model_type"), COOKED, ids=str)
def test_a_greedy_soup_is_the_mean_of_its_ingredients(task, model_type, tmp_path):
    check(model_type, task, "cooked", tmp_path)


def test_a_model_that_needs_more_than_texts_is_told_before_it_is_scored(tmp_path, monkeypatch):
    monkeypatch.setattr(family_pools, "answers", lambda *told: None)  # which is how pools are tried
    with pytest.raises(CheckpointError, match=r"BrosForTokenClassification cannot be run .*specify bbox"):
        check("bros", TAG, "cooked", tmp_path)
