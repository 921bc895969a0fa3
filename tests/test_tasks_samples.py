"""Several answers drawn for each prompt: their mean score, and pass@k."""

from __future__ import annotations

import json
import logging
from itertools import combinations

import numpy as np
import pytest
import torch
from causal import cook, saved_causal, tiny_llama, tokenizer
from hypothesis import given
from hypothesis import strategies as st
from scoring import rows, score
from transformers import AutoModelForCausalLM

from soupkitchen import metrics
from soupkitchen.checkpoints import Checkpoint
from soupkitchen.errors import ConfigError
from soupkitchen.metrics.samples import Sampled
from soupkitchen.options.building import build, describe
from soupkitchen.tasks import TextGeneration
from soupkitchen.tasks.kinds import text_generation

EXACT = metrics.load("exact_match")
PROMPTS = ["w1 w2", "w3", "w4 w5 w6"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved_causal("llama", tmp_path_factory.mktemp("run"))


@given(st.lists(st.booleans(), min_size=1, max_size=7), st.data())
def test_pass_at_k_is_the_share_of_sets_of_k_answers_with_a_right_one(right, data):
    k = data.draw(st.integers(1, len(right)))
    sets = list(combinations(right, k))
    told = json.dumps(["yes" if one else "no" for one in right])
    found = Sampled(EXACT, k).per_example([told, told], ["yes", "yes"])
    np.testing.assert_allclose(found, sum(map(any, sets)) / len(sets))
    np.testing.assert_allclose(Sampled(EXACT).per_example([told], ["yes"]), np.mean(right))


def drawn(run, prompt: str, number: int, temperature: float, seed: int) -> list[str]:
    """Answers by transformers, without us; a batch of one."""
    encode, model = tokenizer(), AutoModelForCausalLM.from_pretrained(run).eval()
    inputs = encode(prompt, return_tensors="pt")
    torch.manual_seed(seed)
    with torch.inference_mode():
        made = model.generate(
            **inputs, do_sample=True, temperature=temperature, top_k=0, top_p=1.0, max_new_tokens=3,
            num_return_sequences=number, pad_token_id=encode.pad_token_id,
        )  # fmt: skip
    return encode.batch_decode(made[:, inputs["input_ids"].shape[1] :], skip_special_tokens=True)


def test_the_score_is_the_mean_over_answers_that_transformers_draws(run, tmp_path):
    answers = [drawn(run, prompt, 4, 0.7, 5) for prompt in PROMPTS]
    assert any(len(set(texts)) > 1 for texts in answers)
    data = rows(
        tmp_path, [{"prompt": p, "answer": texts[1]} for p, texts in zip(PROMPTS, answers, strict=True)]
    )
    task = TextGeneration(data, EXACT, samples=4, temperature=0.7, seed=5, max_new_tokens=3)
    part = score(task, run, batch_size=1)
    assert [json.loads(texts) for texts in part.predictions] == [
        [t.strip() for t in some] for some in answers
    ]
    expected = np.mean([np.mean([text == texts[1] for text in texts]) for texts in answers])
    assert part.score == pytest.approx(expected)
    pass_at = TextGeneration(data, EXACT, samples=4, temperature=0.7, seed=5, max_new_tokens=3, pass_at=2)
    assert pass_at.metric.name == "exact_match_pass_at_2"
    assert score(pass_at, run, batch_size=1).score > part.score
    again = build(describe(pass_at)).metric
    assert (again.name, again.identity()) == (pass_at.metric.name, pass_at.metric.identity())
    assert pass_at.metric.identity() != task.metric.identity() != EXACT.identity()


def test_drawing_leaves_other_random_numbers_as_they_were():
    torch.manual_seed(1)
    first = torch.rand(2)
    torch.manual_seed(1)
    others = [torch.rand(1)]
    with text_generation._seeded(7, torch.device("cpu")):
        torch.rand(5)
    assert torch.equal(torch.cat([*others, torch.rand(1)]), first)


def test_one_answer_may_be_drawn_and_a_warning_says_what_that_means(run, tmp_path, caplog):
    data = rows(tmp_path, [{"prompt": "w1 w2", "answer": "x"}])
    task = TextGeneration(data, EXACT, temperature=2.0, seed=3, max_new_tokens=3)
    part = score(task, run, batch_size=1)
    assert part.predictions == [drawn(run, "w1 w2", 1, 2.0, 3)[0].strip()]
    with caplog.at_level(logging.WARNING):
        task.fitted_to([Checkpoint.open(run)])
    assert "a small gain may be luck; search.accept={margin: auto}" in caplog.text


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"samples": 2, "num_beams": 2}, r"task\.num_beams is for the likeliest answer"),
        ({"samples": 2, "metric": "bleu"}, r"task\.samples=2 needs a metric that is a mean"),
        ({"pass_at": 2}, r"task\.pass_at=2 needs at least so many task\.samples"),
        ({"samples": 4, "pass_at": 2, "metric": "rouge1"}, r"task\.pass_at=2 needs .* right or wrong"),
    ],
)
def test_what_cannot_be_drawn_is_refused(options, says, tmp_path):
    metric = metrics.load(options.pop("metric", "exact_match"))
    with pytest.raises(ConfigError, match=says):
        TextGeneration(rows(tmp_path, [{"prompt": "x", "answer": "y"}]), metric, **options)


def test_a_soup_is_made_by_answers_that_are_drawn(tmp_path):
    words = ["task.samples=3", "task.pass_at=2", "task.max_new_tokens=2", "task.metric.name=contains"]
    row = {"prompt": "w1 w2", "answer": "w"}
    table = cook("text_generation", words, row, tiny_llama, tmp_path).set_index("model")
    scores = table["heldout_contains_pass_at_2"]
    assert scores["soup"] >= scores[[f"run{seed}" for seed in range(3)]].max()
