"""Each task on a tiny model of its architecture, against a plain loop over single examples."""

from __future__ import annotations

import functools
import json
import logging
import re
import sys
import textwrap
from pathlib import Path
from typing import Any

import jinja2
import lm_eval.tasks
import numpy as np
import pandas as pd
import pytest
import seqeval.metrics
import sklearn.metrics
import torch
from command import soupkitchen
from conftest import ROOT
from scipy.stats import spearmanr
from scoring import rows, score
from tiny import VOCABULARY, WORDS, shake
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    BertForTokenClassification,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from soupkitchen import metrics, tasks
from soupkitchen.errors import CheckpointError, ConfigError, DataError, MetricError
from soupkitchen.options.building import build, describe
from soupkitchen.options.files import compose
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
from soupkitchen.tasks.cells import filled
from soupkitchen.tasks.harness import harness_tasks
from soupkitchen.tasks.templates import Bounded

SIZE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
ENCODER = {"vocab_size": len(VOCABULARY), "max_position_embeddings": 32, **SIZE}


def tokenizer() -> PreTrainedTokenizerFast:
    """Words, and unknown words letter by letter; no word has a prefix for a space."""
    vocabulary = dict.fromkeys([*VOCABULARY, "</s>"])
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", eos_token="</s>", pad_token="[PAD]", model_max_length=32
    )


def save(model: PreTrainedModel, folder: Path) -> Path:
    torch.manual_seed(0)
    shake(model, 0.3)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def causal(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tokens = {"vocab_size": len(VOCABULARY) + 1, "eos_token_id": len(VOCABULARY), "bos_token_id": None}
    if request.param == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=32, **tokens))
    else:
        model = LlamaForCausalLM(
            LlamaConfig(num_key_value_heads=1, max_position_embeddings=32, **SIZE, **tokens)
        )
    return save(model, tmp_path_factory.mktemp(request.param))


def phrase(random: np.random.Generator, low: int = 2, high: int = 9) -> str:
    return " ".join(random.choice(WORDS, random.integers(low, high)))


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


# A function of one's own


def test_a_function_of_ones_own_scores_examples(causal, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "def short(model, tokenizer, examples):\n"
        "    assert not model.training\n"
        "    return [1 / len(tokenizer(e['text'])['input_ids']) for e in examples]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    texts = [phrase(np.random.default_rng(9)) for _ in range(7)]
    (tmp_path / "data").mkdir()
    data = rows(tmp_path / "data", [{"text": t} for t in texts])
    task = Function(data, "mine.short", best=1.0)
    part = score(task, causal)
    assert part.score == pytest.approx(np.mean([1 / len(text.split()) for text in texts]))
    assert task.metric.best == 1.0
    del sys.modules["mine"]


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


# The harness

TASK = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {file}
    train: {file}
output_type: {kind}
validation_split: validation
fewshot_split: train
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{{target}}}}}"
{more}
metric_list:
"""


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with task YAMLs of three kinds, and their data."""
    folder, random = tmp_path_factory.mktemp("harness"), np.random.default_rng(10)
    frame = pd.DataFrame(
        [
            {"question": phrase(random), "choices": [phrase(random, 1, 4) for _ in range(3)], "answer": i % 3,
             "text": phrase(random)}
            for i in range(14)
        ]
    )  # fmt: skip
    frame.to_json(folder / "data.jsonl", orient="records", lines=True)
    for name, kind, target, more, names in [
        ("choose", "multiple_choice", "answer", 'doc_to_choice: "{{choices}}"', ["acc", "acc_norm"]),
        (
            "write",
            "generate_until",
            "text",
            "generation_kwargs: {until: ['w1'], max_gen_toks: 4}",
            ["exact_match"],
        ),
        ("read", "loglikelihood_rolling", "text", "", ["word_perplexity", "bits_per_byte"]),
    ]:
        text = TASK.format(
            name=f"soup_{name}", file=folder / "data.jsonl", kind=kind, target=target, more=more
        )
        text += "".join(f"  - metric: {metric}\n" for metric in names)
        (folder / f"{name}.yaml").write_text(
            text.replace('doc_to_text: "{{question}}"', 'doc_to_text: ""', name == "read")
        )
    return folder


@pytest.fixture
def _no_other_harness_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The harness finds what it is shown, and does not look through the thousands that come with it."""
    manager = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)  # ten seconds sooner
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", manager)


@pytest.mark.usefixtures("_no_other_harness_tasks")
@pytest.mark.parametrize(
    ("name", "metric", "fewshot"),
    [("choose", "acc", 0), ("choose", "acc_norm", 2), ("write", "exact_match", 0),
     ("read", "bits_per_byte", 0), ("read", "word_perplexity", 0)],
)  # fmt: skip
def test_a_harness_task_scores_what_the_harness_itself_says(causal, harness, name, metric, fewshot):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    task = harness_tasks([str(harness / f"{name}.yaml")], num_fewshot=fewshot, limit=12, metric=metric)
    part, alone = score(task, causal, batch_size=5), Several.of(task).tasks[""]
    theirs = simple_evaluate(
        HFLM(pretrained=str(causal), batch_size=1, device="cpu"),
        tasks=[f"soup_{name}"],
        num_fewshot=fewshot,
        limit=12,
        task_manager=TaskManager(include_path=str(harness)),
        bootstrap_iters=0,
    )
    assert alone.metric.shown(part.score) == pytest.approx(
        theirs["results"][f"soup_{name}"][f"{metric},none"], rel=1e-4
    )
    assert part.examples_scored == 12
    assert alone.metric.binary == (metric in ("acc", "acc_norm", "exact_match"))


@pytest.mark.usefixtures("_no_other_harness_tasks")
def test_several_harness_tasks_are_aggregated_and_have_a_test(harness):
    paths = [str(harness / f"{name}.yaml") for name in ("choose", "write")]
    tasks = harness_tasks(paths, limit=10, test_limit=3)
    assert isinstance(tasks, Several)
    assert list(tasks.tasks) == ["soup_choose", "soup_write"]
    splits = tasks.tasks["soup_choose"].data.load_splits()
    assert splits["heldout"]["document"][:] == list(range(10))
    assert splits["test"]["document"][:] == [10, 11, 12]


@pytest.mark.usefixtures("_no_other_harness_tasks")
@pytest.mark.parametrize(
    ("options", "complaint"),
    [({"tasks": []}, "should be a list"), ({"tasks": ["no_such_task"]}, "no_such_task"),
     ({"tasks": ["nowhere.yaml"]}, "no file"),
     ({"tasks": ["choose.yaml"], "metric": "f1"}, "has acc, acc_norm"),
     ({"tasks": ["choose.yaml"], "test_limit": 2}, "task.limit")],
)  # fmt: skip
def test_harness_options_that_cannot_be_are_refused(harness, options, complaint):
    tasks = [str(harness / t) if (harness / t).exists() else t for t in options.pop("tasks")]
    with pytest.raises(ConfigError, match=complaint):
        harness_tasks(tasks, **options)


@pytest.mark.usefixtures("_no_other_harness_tasks")
@pytest.mark.parametrize("names", [["choose"], ["choose", "write"]])
def test_harness_tasks_are_described_by_the_options_that_they_were_made_of(harness, names):
    files = [str(harness / f"{name}.yaml") for name in names]
    task = tasks.lm_eval(files, limit=3, test_limit=2)
    tree = {**compose("task", "lm_eval"), "tasks": files, "limit": 3, "test_limit": 2}
    assert describe(task) == tree
    assert build(tree) == task
    if isinstance(task, Several):
        assert [describe(one)["tasks"] for one in task.tasks.values()] == [[file] for file in files]
        assert describe(task.ranked({"a": dict.fromkeys(task.tasks, 1.0)})) == tree


FILTERS = """filter_list:
  - {name: strict-match, filter: [{function: regex, regex_pattern: "#### (w)"}, {function: take_first}]}
  - {name: flexible-extract, filter: [{function: regex, regex_pattern: "(w)"}, {function: take_first}]}
"""


@pytest.fixture(scope="module")
def grouped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tasks of 4 and 9 documents, with two filters; groups of them; and a task with one filter."""
    folder = tmp_path_factory.mktemp("grouped")
    random = np.random.default_rng(11)
    for name, number in {"one": 4, "two": 9}.items():
        answers = [{"q": phrase(random), "a": "wx"[n % 3 == 0]} for n in range(number)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, answers)))
        (folder / f"{name}.yaml").write_text(
            f"include: shared.yml\ntask: soup_{name}\ntag: soup_tag\n"
            f"dataset_kwargs: {{data_files: {{test: {folder}/{name}.jsonl}}}}\n"
        )
    (folder / "shared.yml").write_text(
        "dataset_path: json\ntest_split: test\noutput_type: generate_until\n"
        'doc_to_text: "{{q}}"\ndoc_to_target: "{{a}}"\n'
        'generation_kwargs: {until: ["#"], max_gen_toks: 4}\n'
        f"metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]\n{FILTERS}"
    )
    aggregate = "aggregate_metric_list:\n  - {metric: exact_match, filter_list: flexible-extract"
    for name, more in {
        "plain": "",
        "by_size": f"{aggregate}}}\n",
        "alike": f"{aggregate}, weight_by_size: false}}\n",
    }.items():
        text = f"group: soup_{name}\ntask: [soup_one, soup_two]\n{more}"
        (folder / f"group_{name}.yaml").write_text(text)
    (folder / "group_tag.yaml").write_text("group: soup_tagged\ntask:\n  - soup_tag\n")
    (folder / "group_bad.yaml").write_text("group: soup_bad\ntask: [soup_nowhere]\n")
    (folder / "group_twice.yaml").write_text("group: soup_plain\ntask: [soup_one]\n")
    return folder


@pytest.mark.usefixtures("_no_other_harness_tasks")
@pytest.mark.parametrize("name", ["by_size", "alike", "tagged"])
@pytest.mark.parametrize("causal", ["gpt2"], indirect=True)
def test_a_group_of_ones_own_scores_what_the_harness_says_of_it(causal, grouped, name):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    file = grouped / ("group_tag.yaml" if name == "tagged" else f"group_{name}.yaml")
    filtered = {} if name in ("by_size", "alike") else {"filter": "flexible-extract"}
    tasks = harness_tasks([str(file)], **filtered)  # type: ignore[arg-type]
    assert isinstance(tasks, Several)
    scores = {name: score(task, causal).score for name, task in tasks.tasks.items()}
    theirs = simple_evaluate(
        HFLM(pretrained=str(causal), batch_size=1, device="cpu"),
        tasks=[f"soup_{name}"],
        task_manager=TaskManager(include_path=str(grouped)),
        bootstrap_iters=0,
    )["results"]
    for task, ours in scores.items():
        assert ours == pytest.approx(theirs[task]["exact_match,flexible-extract"])
        assert theirs[task]["exact_match,strict-match"] != theirs[task]["exact_match,flexible-extract"]
    means = [np.mean(list(scores.values())), np.average(list(scores.values()), weights=[4, 9])]
    assert abs(means[0] - means[1]) > 1e-3
    assert tasks.score(scores) == pytest.approx(means[name == "by_size"])
    if filtered == {}:
        assert tasks.score(scores) == pytest.approx(theirs[f"soup_{name}"]["exact_match,flexible-extract"])


@pytest.mark.usefixtures("_no_other_harness_tasks")
def test_the_first_filter_decides_and_is_said(grouped, caplog):
    caplog.set_level(logging.INFO)
    file = str(grouped / "one.yaml")
    first, other, written = (
        harness_tasks([file], **options)  # type: ignore[arg-type]
        for options in ({}, {"filter": "flexible-extract"}, {"metric": "exact_match,flexible-extract"})
    )
    assert [task.filter for task in (first, other, written)] == [  # type: ignore[union-attr]
        "strict-match", "flexible-extract", "flexible-extract",
    ]  # fmt: skip
    assert caplog.text.count("soup_one: the filter strict-match decides; task.filter names another") == 1
    assert first.identity() != other.identity() == written.identity()  # type: ignore[union-attr]


@pytest.mark.usefixtures("_no_other_harness_tasks")
def test_a_task_with_one_filter_stands_beside_one_that_has_several(grouped, harness):
    files = [str(grouped / "one.yaml"), str(harness / "choose.yaml")]
    tasks = harness_tasks(files, filter="flexible-extract")
    assert [task.filter for task in tasks.tasks.values()] == ["flexible-extract", "none"]  # type: ignore[union-attr]


@pytest.mark.usefixtures("_no_other_harness_tasks")
@pytest.mark.parametrize(
    ("file", "options", "complaint"),
    [
        (
            "one.yaml",
            {"filter": "flexible"},
            "task.filter=flexible: soup_one has strict-match, flexible-extract",
        ),
        ("group_by_size.yaml", {"filter": "none"}, "has strict-match, flexible-extract"),
        ("one.yaml", {"metric": "exact_match,a", "filter": "b"}, "name two filters"),
        ("group_bad.yaml", {}, "cannot load .*group_bad.yaml"),
        ("group_twice.yaml", {}, "are both called soup_plain; rename one"),
        ("shared.yml", {}, "no line 'task: NAME' or 'group: NAME'"),
    ],
)
def test_groups_and_filters_that_cannot_be_are_refused(grouped, file, options, complaint):
    with pytest.raises(ConfigError, match=complaint):
        harness_tasks([str(grouped / file)], **options)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(10**9) %}w1{% endfor %}",
        "{% for i in range(9999) %}{% for j in range(9999) %}w{% endfor %}{% endfor %}",
        "{{ range(10**10) | list | length }}",
        "{{ 'w' * 10**10 }}",
        "{{ 10 ** 10 ** 10 }}",
        "{{ [1] * 9999999 }}",
    ],
)
@pytest.mark.usefixtures("_no_other_harness_tasks")
def test_templates_that_never_end_end(harness, tmp_path, template):
    text = (harness / "write.yaml").read_text().replace('"{{question}}"', json.dumps(template))
    (tmp_path / "endless.yaml").write_text(text)
    with pytest.raises(DataError, match="does not end in time"):
        harness_tasks([str(tmp_path / "endless.yaml")])


@pytest.mark.parametrize(
    "template",
    [
        "{% for w in words %}{{ loop.index }}/{{ loop.length }}: {{ w }}{{ loop.last }}{% endfor %}",
        "{% set n = 3 * 2 ** 4 + 1 %}{{ '=' * n }}{{ 'a' + 'b' }}{{ [1] + [2] }}{{ 0 * 5 }}\n",
        "{% for i in range(3) %}{% for w in words if w != 'b' %}{{ w }}{% else %}no{% endfor %}{% endfor %}",
        "{{ words | join(' ') | regex_replace('a', 'b') }}{{ text.strip().split()[0] }}",
    ],
)
def test_templates_that_end_are_rendered_as_ever(template):
    from lm_eval import utils

    plain = utils.env.overlay() if type(utils.env) is jinja2.Environment else jinja2.Environment()
    plain.filters["regex_replace"] = utils.regex_replace
    plain.keep_trailing_newline = True
    told = {"words": ["a", "b", "c"], "text": " one two "}
    assert Bounded.like(plain).from_string(template).render(told) == plain.from_string(template).render(told)


def test_without_the_harness_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", None)
    with pytest.raises(MetricError, match=r"soupkitchen\[lm-eval\]"):
        harness_tasks(["arc_easy"])


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


def cook(task: str, words: list[str], row: dict[str, Any], make: Any, folder: Path) -> pd.DataFrame:
    """Runs the whole job over three runs of a tiny model; the leaderboard."""
    for seed in range(3):
        torch.manual_seed(seed)
        make().save_pretrained(folder / "runs" / f"run{seed}")
        tokenizer().save_pretrained(folder / "runs" / f"run{seed}")
    (folder / "data").mkdir()
    random = np.random.default_rng(0)
    varied = [
        {k: f"{v} {phrase(random)}" if isinstance(v, str) and len(v) > 1 else v for k, v in row.items()}
        for _ in range(12)
    ]
    for number, example in enumerate(varied):
        if isinstance(example.get("label"), float):
            example["label"] = number / 12
    rows(folder / "data", varied)
    words = [word.strip("'") for word in words]
    data = [] if task == "lm_eval" else [f"task.data.path={folder}/data"]
    common = ["pool.path=runs/*", "name=x", "evaluation.cache=null", "runtime.batch_size=5"]
    soupkitchen(*words, f"task={task}", *data, *common, cwd=folder)
    assert (folder / "results/x/soup/model.safetensors").exists()
    return pd.read_csv(folder / "results/x/leaderboard.csv")


def tiny_llama() -> LlamaForCausalLM:
    tokens = {"vocab_size": len(VOCABULARY) + 1, "eos_token_id": len(VOCABULARY), "bos_token_id": None}
    return LlamaForCausalLM(LlamaConfig(num_key_value_heads=1, max_position_embeddings=32, **SIZE, **tokens))


def best_is_soup(table: pd.DataFrame, lower_is_better: bool = False) -> None:
    scores = table.set_index("model")[table.columns[4]] * (-1 if lower_is_better else 1)
    assert scores["soup"] >= scores[[f"run{seed}" for seed in range(3)]].max()


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


@pytest.mark.slow
def test_a_class_of_ones_own_is_a_task(tmp_path, monkeypatch):
    page = (ROOT / "docs" / "extending.md").read_text().split("## A task")[1]
    code, yaml = (
        re.findall(rf" *```{language}\n(.*?) *```", page, re.DOTALL)[0] for language in ("python", "yaml")
    )
    (tmp_path / "my_module.py").write_text(textwrap.dedent(code))
    (tmp_path / "my_conf" / "task").mkdir(parents=True)
    (tmp_path / "my_conf" / "task" / "calibration.yaml").write_text(textwrap.dedent(yaml))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    words = ["--config-dir=my_conf"]
    make = functools.partial(lambda: BertForSequenceClassification(BertConfig(**ENCODER)))
    best_is_soup(cook("calibration", words, {"text": "w1", "label": 1}, make, tmp_path), lower_is_better=True)


@pytest.mark.slow
def test_harness_tasks_run_the_whole_job_and_the_saved_soup_scores_the_same_there(harness, tmp_path):
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    words = [
        f"task.tasks=[{harness}/choose.yaml]",
        "task.limit=9",
        "task.test_limit=5",
        "task.metric=acc_norm",
    ]
    table = cook("lm_eval", words, {}, tiny_llama, tmp_path).set_index("model")
    theirs = simple_evaluate(
        HFLM(pretrained=str(tmp_path / "results/x/soup"), batch_size=1, device="cpu"),
        tasks=["soup_choose"],
        limit=9,
        task_manager=TaskManager(include_path=str(harness), include_defaults=False),
        bootstrap_iters=0,
    )
    assert table.loc["soup", "heldout_acc_norm"] == theirs["results"]["soup_choose"]["acc_norm,none"]
    assert not np.isnan(table.loc["soup", "test_acc_norm"])


# What a task is known by


def test_a_function_is_known_by_its_source_and_by_that_of_what_it_imports(tmp_path, monkeypatch):
    (tmp_path / "parts").mkdir()
    files = {
        "judge.py": "import numpy\nfrom parts import near\nfrom parts.far import away\n"
        "def score(model, tokenizer, examples):\n    import late\n    return [1.0] * len(examples)\n",
        "late.py": "LATE = 1\n",
        "parts/__init__.py": "",
        "parts/near.py": "from . import deep\n",
        "parts/deep.py": "import math\n",
        "parts/far.py": "def away(): ...\n",
        "other.py": "",
    }
    for name, source in files.items():
        (tmp_path / name).write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    task = Function(Data("-"), "judge.score")
    known = {tuple(task.identity())}
    assert tuple(task.identity()) in known
    for name in files:
        (tmp_path / name).write_text(f"{files[name]}# changed\n")
        again = tuple(task.identity())
        assert (again in known) == (name == "other.py"), name
        known.add(again)
    del sys.modules["judge"]


DYNAMIC = {
    "import_module": "import importlib\nhelper = importlib.import_module('helper')\n",
    "of a name": "from importlib import import_module\nhelper = import_module('helper')\n",
    "__import__": "helper = __import__('helper')\n",
    "inside": "def late():\n    from importlib import import_module as find\n    import importlib\n"
    "    return importlib.import_module('helper')\n",
    "computed": "import importlib\nhelper = importlib.import_module('hel' + 'per')\n",
    "in a loop": "import importlib\nfor name in ('helper',):\n    importlib.import_module(name)\n",
    "run": "from pathlib import Path\nexec(Path(__file__).with_name('helper.py').read_text())\n",
    "by file": "from importlib import util\n"
    "util.spec_from_file_location('h', __file__.replace('judge', 'helper'))\n",
}


@pytest.mark.parametrize("how", DYNAMIC)
def test_what_a_function_imports_by_a_call_is_part_of_it(how, tmp_path, monkeypatch):
    (tmp_path / "judge.py").write_text(f"{DYNAMIC[how]}def score(model, tokenizer, examples): ...\n")
    (tmp_path / "helper.py").write_text("X = 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "judge", raising=False)
    monkeypatch.delitem(sys.modules, "helper", raising=False)
    task = Function(Data("-"), "judge.score")
    before = task.identity()
    assert task.identity() == before
    (tmp_path / "helper.py").write_text("X = 2\n")
    assert task.identity() != before
    monkeypatch.delitem(sys.modules, "judge")


def test_relative_imports_by_a_call_and_makers_of_functions_are_part_of_it(tmp_path, monkeypatch):
    files = {
        "kit/__init__.py": "",
        "kit/judge.py": "from functools import partial\nfrom importlib import import_module\n"
        "from maker import make, plain\nimport_module('.near', __package__)\nimport_module('.far', 'kit')\n"
        "score, half = make(0.5), partial(plain, 0.5)\n",
        "kit/near.py": "",
        "kit/far.py": "",
        "maker.py": "def make(x):\n    def score(*told): return x\n    return score\n"
        "def plain(x, *told): ...\n",
        "other.py": "",
    }
    for name, source in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    for function in ("kit.judge.score", "kit.judge.half"):
        task = Function(Data("-"), function)
        known = {tuple(task.identity())}
        for name in files:
            (tmp_path / name).write_text(f"{files[name]}# changed for {function}\n")
            again = tuple(task.identity())
            assert (again in known) == (name == "other.py"), name
            known.add(again)
    for name in ("kit", "kit.judge", "kit.near", "kit.far", "maker"):
        monkeypatch.delitem(sys.modules, name)


def test_a_function_without_source_is_known_by_its_name():
    assert Function(Data("-"), "math.fsum").identity() == ["math.fsum"]


def test_a_harness_task_is_known_by_its_answers_metric_and_helpers(harness, tmp_path, monkeypatch):
    manager = functools.partial(lm_eval.tasks.TaskManager, include_defaults=False)  # ten seconds sooner
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", manager)
    yaml, data = (harness / "choose.yaml").read_text(), (harness / "data.jsonl").read_text()
    (tmp_path / "helpers.py").write_text("def shown(doc):\n    return doc['question']\n")
    yaml = yaml.replace(str(harness), str(tmp_path))
    yaml = yaml.replace('doc_to_text: "{{question}}"', "doc_to_text: !function helpers.shown")

    def known(**options: Any) -> tuple[str, ...]:
        (tmp_path / "choose.yaml").write_text(yaml)
        task = harness_tasks([str(tmp_path / "choose.yaml")], **options)
        assert not isinstance(task, Several)
        return tuple(task.identity())

    (tmp_path / "data.jsonl").write_text(data)
    first = known()
    assert known() == first
    assert known(metric="acc_norm") != first
    assert known(num_fewshot=1) != first
    (tmp_path / "helpers.py").write_text("X = 1\ndef shown(doc):\n    return doc['question']\n")
    assert known() != first
    (tmp_path / "helpers.py").write_text("def shown(doc):\n    return doc['question']\n")
    assert known() == first
    (tmp_path / "data.jsonl").write_text(data.replace('"answer":1', '"answer":2', 1))
    assert known() != first
