"""Each task on a tiny model of its architecture, against a plain loop over single examples."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import seqeval.metrics
import sklearn.metrics
import torch
from causal import ENCODER, best_is_soup, cook, phrase, save, tiny_llama, tokenizer
from scipy.stats import spearmanr
from scoring import rows, score
from tiny import VOCABULARY, WORDS
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from soupkitchen import metrics
from soupkitchen.errors import CheckpointError, ConfigError, DataError
from soupkitchen.tasks import (
    Data,
    EmbeddingSimilarity,
    Function,
    LanguageModeling,
    MultilabelClassification,
    MultipleChoice,
    Several,
    TextGeneration,
    TextRegression,
    TokenClassification,
)
from soupkitchen.tasks.columns import filled

# Causal models


def nats(run: Path, before: list[int], after: list[int]) -> float:
    """-log p of `after` given `before`, without batch or padding."""
    model = load_causal(run)
    tokens = torch.tensor([before + after])
    with torch.inference_mode():
        log_p = model(input_ids=tokens).logits.double().log_softmax(-1)
    positions = range(len(before) - 1, len(before) + len(after) - 1)
    return -sum(float(log_p[0, at, tokens[0, at + 1]]) for at in positions)


def load_causal(run: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(run).eval()


@pytest.mark.parametrize("metric", ["perplexity", "bits_per_byte"])
def test_language_modeling_is_a_naive_loop_over_texts(causal, tmp_path, metric):
    random = np.random.default_rng(0)
    texts = [phrase(random) for _ in range(10)]
    encode, end = tokenizer(), len(VOCABULARY)
    total = sum(nats(causal, [end], encode(text)["input_ids"]) for text in texts)
    tokens = sum(len(encode(text)["input_ids"]) for text in texts)
    expected = np.exp(total / tokens) if metric == "perplexity" else total / np.log(2) / len("".join(texts))
    task = LanguageModeling(rows(tmp_path, [{"text": t} for t in texts]), metrics.load(metric))
    part = score(task, causal)
    assert task.metric.shown(part.score) == pytest.approx(expected, rel=1e-5)


def test_a_long_text_is_cut_into_windows_that_score_every_token_once(causal, tmp_path):
    text = phrase(np.random.default_rng(1), 20, 21)
    tokens = [len(VOCABULARY), *tokenizer()(text)["input_ids"]]
    windows = [tokens[0:6], tokens[5:11], tokens[10:16], tokens[15:21]]
    total = sum(nats(causal, window[:1], window[1:]) for window in windows)
    task = LanguageModeling(rows(tmp_path, [{"text": text}]), metrics.load("perplexity"), max_length=6)
    part = score(task, causal)
    assert task.metric.shown(part.score) == pytest.approx(np.exp(total / 20), rel=1e-5)


@pytest.mark.parametrize("normalize", [None, "tokens", "bytes"])
def test_multiple_choice_is_a_naive_loop_over_choices(causal, tmp_path, normalize):
    random = np.random.default_rng(2)
    examples = [
        {"question": phrase(random), "choices": [phrase(random, 1, 6) for _ in range(random.integers(2, 5))]}
        for _ in range(12)
    ]
    encode, expected = tokenizer(), []
    for example in examples:
        before = encode(f"Q {example['question']} A")["input_ids"]
        scores = []
        for choice in example["choices"]:
            after = encode(choice)["input_ids"]
            length = {"tokens": len(after), "bytes": len(choice), None: 1}[normalize]
            scores.append(-nats(causal, before, after) / length)
        expected.append(int(np.argmax(scores)))
    answers = [0, "A", *(0 for _ in examples[2:])]
    for example, answer in zip(examples, answers, strict=True):
        example["answer"] = str(answer)
    data = rows(tmp_path, examples)
    part = score(
        MultipleChoice(data, metrics.load("accuracy"), prompt="Q {question} A", normalize=normalize), causal
    )
    assert part.predictions.tolist() == expected
    assert part.examples_total == 12
    assert len(set(expected)) > 1


@pytest.mark.parametrize(
    ("answer", "right"),
    [("w3", 1), ("b", 1), ("B", 1), ("1", 1), (1, 1), ("D", None), (2, None), (True, None)],
)
def test_answers_may_be_numbers_letters_or_texts(tmp_path, answer, right):
    task = MultipleChoice(Data("-"), metrics.load("accuracy"))
    reading = "names" if answer == "w3" else "indices"
    if right is None:
        with pytest.raises(DataError, match=r"task\.answer"):
            task._right(answer, ["w1", "w3"], reading)
    else:
        assert task._right(answer, ["w1", "w3"], reading) == right


def generated(model: PreTrainedModel, tokens: list[int], number: int) -> str:
    """The likeliest token, one at a time, without a cache."""
    tokens, begin = list(tokens), len(tokens)
    with torch.inference_mode():
        for _ in range(number):
            tokens.append(int(model(input_ids=torch.tensor([tokens])).logits[0, -1].argmax()))
            if tokens[-1] == len(VOCABULARY):
                break
    return tokenizer().decode(tokens[begin:], skip_special_tokens=True).strip()


def test_generation_is_greedy_decoding_one_prompt_at_a_time(causal, tmp_path):
    random, model = np.random.default_rng(3), load_causal(causal)
    prompts = [phrase(random) for _ in range(8)]
    expected = [generated(model, tokenizer()(prompt)["input_ids"], 5) for prompt in prompts]
    answers = [*expected[:5], "something else", "w1", ""]
    data = rows(tmp_path, [{"prompt": p, "answer": a} for p, a in zip(prompts, answers, strict=True)])
    part = score(TextGeneration(data, metrics.load("exact_match"), max_new_tokens=5), causal)
    assert list(part.predictions) == expected
    right = [a.strip() == b for a, b in zip(answers, expected, strict=True)]
    assert part.score == pytest.approx(np.mean(right))
    assert len(set(expected)) > 1 or "gpt2" in str(causal)  # whose tied embeddings repeat one word


def test_a_prompt_from_the_command_line_may_have_new_lines():
    assert filled(r"Q: {a}\nA:", {"a": r"x\y"}) == "Q: x\\y\nA:"


def test_what_is_compared_can_be_extracted_and_cut():
    task = TextGeneration(Data("-"), metrics.load("exact_match"), extract=r"(-?\d+)", stop=["Q:"])
    assert task._compared("1 and 2 make 3. Q: what is 4") == "3"
    assert task._compared("none") == ""
    assert TextGeneration(Data("-"), metrics.load("exact_match"), extract=r"\d+")._compared("7 8") == "8"


def test_sequence_to_sequence_models_answer_prompts(tmp_path):
    config = T5Config(
        vocab_size=len(VOCABULARY) + 1, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
        decoder_start_token_id=0, eos_token_id=len(VOCABULARY), pad_token_id=0,
    )  # fmt: skip
    run = save(T5ForConditionalGeneration(config), tmp_path / "run")
    random, model = np.random.default_rng(4), T5ForConditionalGeneration.from_pretrained(run).eval()
    prompts = [phrase(random) for _ in range(7)]
    expected = []
    for prompt in prompts:
        tokens, written = torch.tensor([tokenizer()(prompt)["input_ids"]]), [0]
        with torch.inference_mode():
            while len(written) < 5 and written[-1] != len(VOCABULARY):
                logits = model(input_ids=tokens, decoder_input_ids=torch.tensor([written])).logits
                written.append(int(logits[0, -1].argmax()))
        expected.append(tokenizer().decode(written, skip_special_tokens=True).strip())
    data = rows(tmp_path, [{"prompt": p, "answer": e} for p, e in zip(prompts, expected, strict=True)])
    task = TextGeneration(data, metrics.load("rouge_l"), architecture="seq2seq", max_new_tokens=4)
    part = score(task, run)
    assert list(part.predictions) == expected
    assert part.values is not None  # a mean of examples, so candidates can be stopped early


# Encoders


def test_multi_label_classification(tmp_path):
    names = ["a", "b", "c"]
    config = BertConfig(
        id2label=dict(enumerate(names)), label2id={n: i for i, n in enumerate(names)},
        problem_type="multi_label_classification", **ENCODER,
    )  # fmt: skip
    run = save(BertForSequenceClassification(config), tmp_path / "run")
    random, model = np.random.default_rng(5), BertForSequenceClassification.from_pretrained(run).eval()
    texts = [phrase(random) for _ in range(9)]
    labels = [[n for n in names if random.random() < 0.5] for _ in texts]
    with torch.inference_mode():
        logits = torch.cat([model(**tokenizer()(t, return_tensors="pt")).logits for t in texts])
    expected = (logits > 0).int().numpy()
    wanted = np.array([[int(n in row) for n in names] for row in labels])
    data = rows(tmp_path, [{"text": t, "labels": row} for t, row in zip(texts, labels, strict=True)])
    part = score(MultilabelClassification(data, metrics.load("f1_micro"), label="labels"), run)
    np.testing.assert_array_equal(part.predictions, expected)
    assert part.score == pytest.approx(sklearn.metrics.f1_score(wanted, expected, average="micro"))


def test_token_classification_counts_entities(tmp_path):
    tags = ["O", "B-X", "I-X"]
    config = BertConfig(
        id2label=dict(enumerate(tags)), label2id={n: i for i, n in enumerate(tags)}, **ENCODER
    )
    run = save(BertForTokenClassification(config), tmp_path / "run")
    random, model = np.random.default_rng(6), BertForTokenClassification.from_pretrained(run).eval()
    sentences = [list(random.choice(WORDS, random.integers(2, 9))) for _ in range(9)]
    wanted = [list(random.choice(tags, len(words))) for words in sentences]
    with torch.inference_mode():
        expected = [
            [tags[i] for i in model(**tokenizer()(" ".join(words), return_tensors="pt")).logits[0].argmax(-1)]
            for words in sentences
        ]
    data = rows(tmp_path, [{"tokens": w, "tags": t} for w, t in zip(sentences, wanted, strict=True)])
    part = score(TokenClassification(data, metrics.load("entity_f1")), run)
    assert list(part.predictions) == expected
    assert part.score == pytest.approx(seqeval.metrics.f1_score(wanted, expected))


def test_the_first_token_of_a_word_decides_its_tag(tmp_path):
    class Pieces:
        """A tokenizer that cuts words in two."""

        model_max_length = 32

        def __call__(self, texts: list[list[str]], **options: Any) -> Any:
            class Encoded(dict):
                def word_ids(self, number: int) -> list[int | None]:
                    return [None, *(i for i in range(len(texts[number])) for _ in range(2))]

            lengths = [1 + 2 * len(words) for words in texts]
            return Encoded(input_ids=[[1] * n for n in lengths], attention_mask=[[1] * n for n in lengths])

    config = BertConfig(id2label={0: "O", 1: "B"}, label2id={"O": 0, "B": 1}, **ENCODER)
    task = TokenClassification(
        rows(tmp_path, [{"tokens": ["x", "y"], "tags": ["B", "O"]}]), metrics.load("token_accuracy")
    )
    split = task.data.load_splits()["heldout"]
    prepared = task.prepare(split, Pieces(), BertForTokenClassification(config))
    assert prepared["labels"][0] == [-100, 1, -100, 0, -100]
    assert task.references(prepared) == [["B", "O"]]


def test_regression(tmp_path):
    run = save(BertForSequenceClassification(BertConfig(num_labels=1, **ENCODER)), tmp_path / "run")
    random, model = np.random.default_rng(7), BertForSequenceClassification.from_pretrained(run).eval()
    texts, numbers = [phrase(random) for _ in range(9)], random.normal(size=9)
    with torch.inference_mode():
        expected = [float(model(**tokenizer()(t, return_tensors="pt")).logits) for t in texts]
    data = rows(tmp_path, [{"text": t, "label": n} for t, n in zip(texts, numbers, strict=True)])
    part = score(TextRegression(data, metrics.load("mse")), run)
    np.testing.assert_allclose(part.predictions, expected, rtol=1e-4, atol=1e-5)
    assert -part.score == pytest.approx(sklearn.metrics.mean_squared_error(numbers, expected), rel=1e-4)


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_embedding_similarity(tmp_path, pooling):
    run = save(BertModel(BertConfig(**ENCODER)), tmp_path / "run")
    random, model = np.random.default_rng(8), AutoModel.from_pretrained(run).eval()
    pairs = [(phrase(random), phrase(random)) for _ in range(9)]

    def embedded(text: str) -> torch.Tensor:
        with torch.inference_mode():
            hidden = model(**tokenizer()(text, return_tensors="pt")).last_hidden_state[0]
        return hidden.mean(0) if pooling == "mean" else hidden[0]

    expected = [float(torch.cosine_similarity(embedded(a), embedded(b), dim=0)) for a, b in pairs]
    alike = random.normal(size=9)
    data = rows(
        tmp_path, [{"text": a, "text_pair": b, "label": s} for (a, b), s in zip(pairs, alike, strict=True)]
    )
    part = score(EmbeddingSimilarity(data, metrics.load("spearman"), pooling=pooling), run)
    np.testing.assert_allclose(part.predictions, expected, rtol=1e-4, atol=1e-5)
    assert part.score == pytest.approx(spearmanr(expected, alike).statistic)


# Bad input


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda d: Function(d, "no.such"), "task.function=no.such"),
        (lambda d: Function(d, "json.dumps", model="NoModel"), "task.model=NoModel"),
        (lambda d: TextGeneration(d, metrics.load("bleu"), extract="("), "task.extract"),
        (lambda d: TextGeneration(d, metrics.load("bleu"), prompt="{a"), "task.prompt"),
        (lambda d: TextGeneration(d, metrics.load("bleu"), prompt="{0}"), "task.prompt"),
        (lambda d: EmbeddingSimilarity(d, metrics.load("mse"), pooling="x"), "task.pooling"),
        (lambda d: Several({}), "task.tasks"),
        (lambda d: Several({"a": LanguageModeling(d, metrics.load("mse"))}, "x"), "task.aggregate"),
        (
            lambda d: Several({"a": LanguageModeling(d, metrics.load("mse"))}, "mean", {"b": 1}),
            "task.weights",
        ),
        (
            lambda d: Several(
                {"a": LanguageModeling(d, metrics.load("mse")), "b": TextRegression(d, metrics.load("mse"))}
            ),
            "different kinds",
        ),
    ],
)
def test_options_that_cannot_be_are_refused(make, complaint):
    with pytest.raises(ConfigError, match=complaint):
        make(Data("-"))


@pytest.mark.parametrize(
    ("make", "row", "complaint"),
    [
        (
            lambda d: MultipleChoice(d, metrics.load("accuracy")),
            {"question": "w1", "choices": ["w2", ""], "answer": 0},
            "0 tokens",
        ),
        (
            lambda d: MultipleChoice(d, metrics.load("accuracy"), prompt="{query}"),
            {"question": "w1", "choices": ["w2"], "answer": 0},
            "query",
        ),
        (
            lambda d: TextGeneration(d, metrics.load("exact_match"), max_new_tokens=32),
            {"prompt": "w1", "answer": "w2"},
            "no room",
        ),
    ],
)
def test_data_that_cannot_be_scored_is_named(causal, tmp_path, make, row, complaint):
    with pytest.raises((DataError, ConfigError), match=complaint):
        score(make(rows(tmp_path, [row])), causal)


def test_a_model_without_the_head_is_refused(causal, tmp_path):
    task = TokenClassification(
        rows(tmp_path, [{"tokens": ["w1"], "tags": [0]}]), metrics.load("token_accuracy")
    )
    with pytest.raises(CheckpointError, match="another task"):
        score(task, causal)


# Each from the command line
CAUSAL: dict[str, tuple[list[str], dict[str, Any]]] = {
    "language_modeling": ([], {"text": "w1 w2 w3"}),
    "multiple_choice": (
        ["task.normalize=bytes"],
        {"question": "w1", "choices": ["w2", "w3 w4"], "answer": "B"},
    ),
    "text_generation": (
        [
            "task.max_new_tokens=3",
            "task.stop=[w9]",
            "'task.prompt=\"say {word}\"'",
            "task.metric.name=rouge_l",
        ],
        {"word": "w1", "answer": "w2 w3"},
    ),
    "function": (["task.function=mine.score", "task.best=1"], {"text": "w1"}),
}
ENCODERS: dict[str, tuple[list[str], dict[str, Any], Any]] = {
    "token_classification": ([], {"tokens": ["w1", "w2"], "tags": [0, 1]}, BertForTokenClassification),
    "multilabel_classification": (
        ["task.labels=indices"],  # or a 0 and a 1
        {"text": "w1", "labels": [0, 1]},
        BertForSequenceClassification,
    ),
    "text_regression": (
        ["task.metric.name=mse"],
        {"text": "w1", "label": 0.5},
        BertForSequenceClassification,
    ),
    "embedding_similarity": ([], {"text": "w1", "text_pair": "w2", "label": 0.5}, BertModel),
}


@pytest.mark.slow
@pytest.mark.parametrize("task", CAUSAL)
def test_each_task_on_causal_models_runs_the_whole_job(task, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "def score(model, tokenizer, examples):\n    return [0.5 for _ in examples]\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    words, row = CAUSAL[task]
    best_is_soup(cook(task, words, row, tiny_llama, tmp_path), task == "language_modeling")


@pytest.mark.slow
@pytest.mark.parametrize("task", ENCODERS)
def test_each_task_on_encoders_runs_the_whole_job(task, tmp_path):
    words, row, model = ENCODERS[task]
    labels = {"num_labels": 1} if task == "text_regression" else {"num_labels": 2}
    make = functools.partial(lambda: model(BertConfig(**ENCODER, **labels)))
    best_is_soup(cook(task, words, row, make, tmp_path), task == "text_regression")
