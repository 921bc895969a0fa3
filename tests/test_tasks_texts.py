"""What a task needs of a model and its tokenizer: mended where that is safe, else named before scoring."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from causal import ENCODER, SIZE, phrase, tokenizer
from scoring import rows, score
from tiny import VOCABULARY, WORDS, make_pictures, shake
from transformers.utils import is_torchvision_available

from soupkitchen import metrics
from soupkitchen.checkpoints import Checkpoint
from soupkitchen.errors import CheckpointError, DataError
from soupkitchen.evaluation import Evaluator, LiveModel, Runtime
from soupkitchen.tasks import (
    Data,
    Function,
    ImageClassification,
    LanguageModeling,
    MultipleChoice,
    Several,
    Task,
    TextClassification,
)
from soupkitchen.tasks.texts import longest

TOKENS = {"vocab_size": len(VOCABULARY) + 1, "eos_token_id": len(VOCABULARY), "bos_token_id": None}


def save(model: transformers.PreTrainedModel, folder: Path, **tokens: Any) -> Path:
    torch.manual_seed(0)
    shake(model, 0.3)
    model.save_pretrained(folder)
    encode = tokenizer()
    for name, value in tokens.items():
        setattr(encode, name, value)
    encode.save_pretrained(folder)
    return folder


def evaluator(task: Task, run: Path, batch_size: int) -> Evaluator:
    accelerator = Runtime(device="cpu").accelerator()
    live = LiveModel(Checkpoint.open(run), task.model_class, accelerator.device)
    splits = {role: {"": split} for role, split in task.data.load_splits().items()}
    return Evaluator(Several.of(task), live, task.load_processor(str(run)), splits, accelerator, batch_size)


def classifier(name: str) -> transformers.PreTrainedModel:
    if name == "gpt2":
        return transformers.GPT2ForSequenceClassification(
            transformers.GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, num_labels=3, **TOKENS)
        )
    if name == "llama":
        config = transformers.LlamaConfig(
            num_key_value_heads=1, max_position_embeddings=32, num_labels=3, **SIZE, **TOKENS
        )
        return transformers.LlamaForSequenceClassification(config)
    config = transformers.XLNetConfig(
        d_model=16, n_layer=2, n_head=2, d_inner=32, num_labels=3, vocab_size=len(VOCABULARY) + 1
    )
    return transformers.XLNetForSequenceClassification(config)


@pytest.mark.parametrize("name", ["gpt2", "llama", "xlnet"])
@pytest.mark.parametrize("pad", [None, "[PAD]", "w7"])
def test_a_padded_batch_is_scored_as_single_unpadded_texts_are(name, pad, tmp_path):
    run = save(classifier(name), tmp_path / "run", pad_token=pad)
    if name == "xlnet":  # which takes what comes last, so that its tokenizers pad on the left
        left = transformers.AutoTokenizer.from_pretrained(run, padding_side="left")
        left.save_pretrained(run)
    random, texts = np.random.default_rng(0), []
    while len(texts) < 9:
        if not (text := phrase(random)).endswith("w7"):
            texts.append(text)
    model = type(classifier(name)).from_pretrained(run).eval()
    with torch.inference_mode():
        expected = [model(**tokenizer()(text, return_tensors="pt")).logits[0].numpy() for text in texts]
    data = rows(tmp_path, [{"text": text, "label": n % 3} for n, text in enumerate(texts)])
    part = score(TextClassification(data, metrics.load("cross_entropy")), run, batch_size=4)
    np.testing.assert_allclose(part.predictions, expected, rtol=1e-4, atol=1e-5)


def test_padding_of_the_tokenizers_choice_is_that_of_the_model(tmp_path):
    """The classifier looks for the last token that is no padding, by its own number for that."""
    model = classifier("llama")
    model.config.pad_token_id = 5
    run = save(model, tmp_path / "run", pad_token="[PAD]")
    texts = ["w10 w11 w12", "w13"]
    loaded = transformers.LlamaForSequenceClassification.from_pretrained(run).eval()
    with torch.inference_mode():
        expected = [loaded(**tokenizer()(text, return_tensors="pt")).logits[0].numpy() for text in texts]
    data = rows(tmp_path, [{"text": text, "label": 0} for text in texts])
    part = score(TextClassification(data, metrics.load("cross_entropy")), run, batch_size=2)
    np.testing.assert_allclose(part.predictions, expected, rtol=1e-4, atol=1e-5)


def test_padding_that_a_model_lacked_is_told_once_and_is_in_what_is_saved(tmp_path, caplog):
    run = save(classifier("gpt2"), tmp_path / "run", pad_token=None)
    (tmp_path / "data").mkdir()
    data = rows(tmp_path / "data", [{"text": "w1 w2", "label": 0}, {"text": "w3", "label": 1}])
    (tmp_path / "data/test.jsonl").write_text((tmp_path / "data/validation.jsonl").read_text())
    data = Data(str(tmp_path / "data"))
    with caplog.at_level(logging.WARNING):
        made = evaluator(TextClassification(data, metrics.load("accuracy")), run, 2)
    told = [record.getMessage() for record in caplog.records if "pad_token_id" in record.getMessage()]
    assert len(told) == 1
    assert "'</s>'" in told[0]
    made.live.save(tmp_path / "soup", Checkpoint.open(run))
    saved = transformers.GPT2ForSequenceClassification.from_pretrained(tmp_path / "soup").eval()
    assert saved.config.pad_token_id == len(VOCABULARY)


def test_a_limit_below_zero_is_none(tmp_path):
    model = classifier("xlnet")
    assert model.config.max_position_embeddings == -1
    assert longest(tokenizer(), model, None) == 32
    assert longest(tokenizer(), model, 5) == 5


@pytest.mark.parametrize("task", ["text_classification", "language_modeling", "multiple_choice"])
def test_tokens_beyond_the_embedding_are_named_before_scoring(task, tmp_path):
    if task == "text_classification":
        config = {**ENCODER, "vocab_size": 40}
        run = save(
            transformers.BertForSequenceClassification(transformers.BertConfig(**config)), tmp_path / "run"
        )
        example: dict[str, Any] = {"text": "w1 w59", "label": 0}
        made: Task = TextClassification(rows(tmp_path, [example]), metrics.load("accuracy"))
    else:
        config = {**SIZE, "vocab_size": 40, "max_position_embeddings": 32, "num_key_value_heads": 1}
        run = save(transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)), tmp_path / "run")
        example = {"text": "w1 w59", "question": "w1", "choices": ["w2", "w59"], "answer": 0}
        data = rows(tmp_path, [example])
        made = (
            LanguageModeling(data, metrics.load("perplexity"))
            if task == "language_modeling"
            else MultipleChoice(data, metrics.load("accuracy"))
        )
    with pytest.raises(DataError, match="row 1 has the token 63, and the model's embedding only 40 rows"):
        evaluator(made, run, 2)


@pytest.mark.parametrize("task", [LanguageModeling, MultipleChoice])
def test_a_masked_language_model_is_refused_and_a_decoder_of_the_same_kind_is_not(task, tmp_path):
    data = rows(tmp_path, [{"text": "w1 w2", "question": "w1", "choices": ["w2", "w3"], "answer": 0}])
    metric = metrics.load("perplexity" if task is LanguageModeling else "accuracy")
    masked = save(transformers.BertForMaskedLM(transformers.BertConfig(**ENCODER)), tmp_path / "masked")
    with pytest.raises(CheckpointError, match="masked language model"):
        score(task(data, metric), masked)
    decoder = save(
        transformers.BertLMHeadModel(
            transformers.BertConfig(is_decoder=True, **{**ENCODER, "vocab_size": len(VOCABULARY) + 1})
        ),
        tmp_path / "decoder",
    )
    assert np.isfinite(score(task(data, metric), decoder).score)


# Forward passes are bounded


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_forward_pass_takes_more_windows_than_a_batch_has_examples(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr("soupkitchen.tasks.texts._LOGITS", 3 * (len(VOCABULARY) + 1))
    config = transformers.LlamaConfig(num_key_value_heads=1, max_position_embeddings=32, **SIZE, **TOKENS)
    run = save(transformers.LlamaForCausalLM(config).to(dtype), tmp_path / "run")
    random = np.random.default_rng(0)
    texts = [phrase(random, low, low + 1) for low in (3, 40, 1, 17, 8)]
    task = LanguageModeling(
        rows(tmp_path, [{"text": text} for text in texts]), metrics.load("perplexity"), max_length=6
    )
    made, seen = evaluator(task, run, 2), []
    made.live.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    part = made.score("heldout").parts[""]
    assert max(passages for passages, _ in seen) == 2
    assert max(width for _, width in seen) == 6
    model = transformers.AutoModelForCausalLM.from_pretrained(run).eval()
    expected = []
    for text in texts:
        tokens = [len(VOCABULARY), *tokenizer()(text)["input_ids"]]
        total = 0.0
        for start in range(0, len(tokens) - 1, 5):
            window = torch.tensor([tokens[start : start + 6]])
            with torch.inference_mode():
                log_p = model(input_ids=window).logits.double().log_softmax(-1)[0]
            total -= sum(float(log_p[i, window[0, i + 1]]) for i in range(window.shape[1] - 1))
        expected.append(total)
    np.testing.assert_allclose(part.predictions, expected, rtol=1e-5 if dtype == torch.float32 else 0.02)


def test_the_choices_of_a_question_are_bounded_too(tmp_path):
    config = transformers.LlamaConfig(num_key_value_heads=1, max_position_embeddings=32, **SIZE, **TOKENS)
    run = save(transformers.LlamaForCausalLM(config), tmp_path / "run")
    example = {"question": "w1", "choices": WORDS[:9], "answer": 0}
    made = evaluator(MultipleChoice(rows(tmp_path, [example] * 3), metrics.load("accuracy")), run, 1)
    seen: list[int] = []
    made.live.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    made.score("heldout")
    assert set(seen) == {1}


def test_a_function_gets_a_column_called_length(tmp_path, monkeypatch):
    (tmp_path / "lengths.py").write_text(
        "def score(model, tokenizer, examples):\n    return [e['length'] for e in examples]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    config = transformers.LlamaConfig(num_key_value_heads=1, max_position_embeddings=32, **SIZE, **TOKENS)
    run = save(transformers.LlamaForCausalLM(config), tmp_path / "run")
    (tmp_path / "data").mkdir()
    data = rows(tmp_path / "data", [{"text": "w1", "length": 3}, {"text": "w2", "length": 5}])
    assert score(Function(data, "lengths.score"), run).score == 4


# Images


def image_model(name: str, folder: Path) -> transformers.PreTrainedModel:
    import transformers

    labels = {"id2label": {0: "dark", 1: "light"}, "label2id": {"dark": 0, "light": 1}}
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    if name == "siglip2":
        vision = {**small, "num_patches": 4, "patch_size": 4}
        config = transformers.Siglip2Config(vision_config=vision, text_config=small, **labels)
        model = transformers.Siglip2ForImageClassification(config)
        transformers.Siglip2ImageProcessor(patch_size=4, max_num_patches=4).save_pretrained(folder)
    else:
        config = transformers.ImageGPTConfig(
            vocab_size=9, n_positions=16, n_embd=16, n_layer=1, n_head=2, **labels
        )
        model = transformers.ImageGPTForImageClassification(config)
        clusters = np.random.default_rng(0).uniform(-1, 1, (8, 3)).tolist()
        transformers.ImageGPTImageProcessor(
            clusters=clusters, size={"height": 4, "width": 4}
        ).save_pretrained(folder)
    model.save_pretrained(folder)
    return model.eval()


@pytest.mark.parametrize("name", ["siglip2", "imagegpt"])
def test_image_models_get_what_their_processor_gives(name, tmp_path):
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    image_model(name, tmp_path / "run")
    make_pictures(tmp_path / "pictures", 4)
    task = ImageClassification(Data(str(tmp_path / "pictures"), test=None), metrics.load("cross_entropy"))
    part = score(task, tmp_path / "run")  # type: ignore[arg-type]
    processor = AutoImageProcessor.from_pretrained(tmp_path / "run")
    model = AutoModelForImageClassification.from_pretrained(tmp_path / "run").eval()
    expected = []
    for label in ("dark", "light"):
        for number in range(4):
            image = Image.open(tmp_path / f"pictures/validation/{label}/{number}.png").convert("RGB")
            with torch.inference_mode():
                expected.append(model(**processor(image, return_tensors="pt")).logits[0].numpy())
    np.testing.assert_allclose(part.predictions, expected, rtol=1e-3, atol=1e-4)


def test_an_image_processor_that_needs_another_package_names_it(tmp_path):
    if is_torchvision_available():
        pytest.skip("it is there")
    image_model("siglip2", tmp_path / "run")
    file = tmp_path / "run/preprocessor_config.json"
    file.write_text(json.dumps({"image_processor_type": "PPLCNetImageProcessor"}))
    task = ImageClassification(Data("-"), metrics.load("accuracy"))
    with pytest.raises(CheckpointError, match=r"torchvision.*install what it lacks"):
        task.load_processor(str(tmp_path / "run"))


@pytest.mark.parametrize("kind", ["classifier", "language model"])
def test_what_is_seen_once_leaves_no_keys_and_values(kind, tmp_path):
    data = rows(tmp_path, [{"text": "w10 w11 w12", "label": 0}, {"text": "w13", "label": 1}])
    if kind == "classifier":
        run = save(classifier("llama"), tmp_path / "run", pad_token="[PAD]")
        task: Task = TextClassification(data, metrics.load("accuracy"))
    else:
        config = transformers.LlamaConfig(max_position_embeddings=32, **SIZE, **TOKENS)
        run = save(
            transformers.LlamaForCausalLM(config), tmp_path / "run", pad_token="[PAD]", eos_token="[SEP]"
        )
        task = LanguageModeling(data, metrics.load("perplexity"), max_length=8)
    scorer, kept = evaluator(task, run, batch_size=2), []
    watched = scorer.live.model.model.register_forward_hook(
        lambda *told: kept.append(told[2].past_key_values)
    )
    scorer.score("heldout")
    watched.remove()
    assert kept == [None]
