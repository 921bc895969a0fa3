"""Masked language modelling, held against plain transformers and its collator of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scoring import rows, score
from tiny import TOKENS, bert_tokenizer
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling

from soupkitchen import metrics
from soupkitchen.errors import CheckpointError, ConfigError, DataError
from soupkitchen.tasks import Data, MaskedLanguageModeling

CLS, SEP, MASK = (TOKENS.index(token) for token in ("[CLS]", "[SEP]", "[MASK]"))


def texts(number: int, seed: int, least: int = 4, most: int = 29) -> list[str]:
    """Texts that each turn round and round in three words, so that a hidden one can be told."""
    random, made = np.random.default_rng(seed), []
    for _ in range(number):
        start, length = int(random.integers(0, 20)), int(random.integers(least, most))
        made.append(
            " ".join(f"w{3 * start + (random.random() < 0.2) + place % 3}" for place in range(length))
        )
    return made


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained model, and the same trained a little by transformers' collator."""
    folder = tmp_path_factory.mktemp("masked")
    torch.manual_seed(0)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=len(TOKENS), hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
            intermediate_size=48, max_position_embeddings=32,
        )
    )  # fmt: skip
    encode = bert_tokenizer()
    collate = DataCollatorForLanguageModeling(encode, seed=0)
    optimizer = torch.optim.AdamW(model.eval().parameters(), lr=5e-3)
    for name in ("untrained", "trained"):
        model.save_pretrained(folder / name)
        encode.save_pretrained(folder / name)
        if name == "untrained":
            for step in range(120):
                batch = collate([dict(encode(text)) for text in texts(16, seed=step + 1)])
                loss = model(**batch).loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
    return folder


def task(data: Data, **options: Any) -> MaskedLanguageModeling:
    return MaskedLanguageModeling(data, metrics.load("perplexity"), **options)


def prepared(made: MaskedLanguageModeling, run: Path) -> list[dict[str, Any]]:
    model = AutoModelForMaskedLM.from_pretrained(run)
    return list(made.prepare(made.data.load_splits()["heldout"], made.load_processor(str(run)), model))


def shown(made: MaskedLanguageModeling, run: Path, batch_size: int = 7) -> float:
    return made.metric.shown(score(made, run, batch_size).score)


@pytest.mark.parametrize("max_length", [None, 9])
def test_perplexity_is_that_of_the_hidden_tokens_one_window_at_a_time(max_length, runs, tmp_path):
    some = texts(20, seed=1000)
    made = task(rows(tmp_path, [{"text": text} for text in some]), max_length=max_length)
    model = AutoModelForMaskedLM.from_pretrained(runs / "trained").eval()
    nats, number = 0.0, 0
    for text, example in zip(some, prepared(made, runs / "trained"), strict=True):
        whole = []
        for window, labels in zip(example["windows"], example["labels"], strict=True):
            assert len(window) <= (max_length or 32)
            assert (window[0], window[-1], labels[0], labels[-1]) == (CLS, SEP, -100, -100)
            with torch.inference_mode():
                log_p = model(input_ids=torch.tensor([window])).logits[0].double().log_softmax(-1)
            for place in np.flatnonzero(np.array(labels) != -100):
                nats -= float(log_p[place, labels[place]])
                number += 1
            pairs = list(zip(window, labels, strict=True))[1:-1]
            whole += [seen if label == -100 else label for seen, label in pairs]
        assert whole == bert_tokenizer()(text, add_special_tokens=False)["input_ids"]
    assert shown(made, runs / "trained") == pytest.approx(np.exp(nats / number), rel=1e-5)


def test_perplexity_is_about_that_of_transformers_own_masks_and_training_lowers_it(runs, tmp_path):
    some = texts(300, seed=2000)
    made = task(rows(tmp_path, [{"text": text} for text in some]))
    encode = bert_tokenizer()
    collate = DataCollatorForLanguageModeling(encode, seed=1)
    model = AutoModelForMaskedLM.from_pretrained(runs / "trained").eval()
    losses = []
    for _ in range(6):
        batch = collate([dict(encode(text)) for text in some])
        with torch.inference_mode():
            losses.append(float(model(**batch).loss))
    ours = shown(made, runs / "trained", 64)
    assert np.log(ours) == pytest.approx(np.mean(losses), abs=5 * np.std(losses))
    assert ours < 0.7 * shown(made, runs / "untrained", 64)


def test_tokens_are_chosen_as_often_and_replaced_as_in_training(runs, tmp_path):
    some = [f"{text} [UNK]" for text in [*texts(1000, seed=3000, least=20), "w1", "w2 w3"]]
    examples = prepared(task(rows(tmp_path, [{"text": text} for text in some])), runs / "trained")
    seen, labels = (
        np.concatenate([np.concatenate(example[name]) for example in examples])
        for name in ("windows", "labels")
    )
    chosen = labels != -100
    assert not np.isin(labels, [TOKENS.index("[UNK]"), CLS, SEP]).any()
    words = sum(len(text.split()) - 1 for text in some)
    assert chosen.sum() / words == pytest.approx(0.15, abs=0.01)
    shares = [(seen[chosen] == MASK).mean(), (seen[chosen] == labels[chosen]).mean()]
    assert shares == pytest.approx([0.8, 0.1], abs=0.03)
    assert all(example["number"] == sum(np.concatenate(example["labels"]) != -100) for example in examples)
    assert min(example["number"] for example in examples) == 1


def test_what_is_hidden_depends_on_the_seed_and_the_text_alone(runs, tmp_path):
    some = texts(12, seed=4000, least=20)
    folders = [tmp_path / str(number) for number in range(3)]
    for folder in folders:
        folder.mkdir()
    whole = prepared(task(rows(folders[0], [{"text": text} for text in some])), runs / "trained")
    fewer = prepared(task(rows(folders[1], [{"text": text} for text in some[:4:-1]])), runs / "untrained")
    assert fewer == whole[:4:-1]
    other = prepared(task(rows(folders[2], [{"text": text} for text in some]), seed=1), runs / "trained")
    assert other != whole
    narrow = prepared(
        task(rows(folders[2], [{"text": text} for text in some]), max_length=9), runs / "trained"
    )
    assert [example["number"] for example in narrow] == [example["number"] for example in whole]


def test_what_cannot_be_scored_is_named(runs, tmp_path):
    unknown = rows(tmp_path, [{"text": "w1 w2"}, {"text": "what is this"}])
    with pytest.raises(DataError, match="row 2 has no tokens but special and unknown ones"):
        score(task(unknown), runs / "trained")
    with pytest.raises(ConfigError, match=r"task.max_length=2 should be 3 or more"):
        score(task(unknown, max_length=2), runs / "trained")
    with pytest.raises(ConfigError, match="choose perplexity"):
        MaskedLanguageModeling(Data("-"), metrics.load("bits_per_byte"))
    plain = bert_tokenizer()
    plain.mask_token = None
    plain.save_pretrained(tmp_path / "plain")
    AutoModelForMaskedLM.from_pretrained(runs / "trained").save_pretrained(tmp_path / "plain")
    with pytest.raises(CheckpointError, match="no mask_token"):
        score(task(unknown), tmp_path / "plain")
