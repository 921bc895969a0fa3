"""Shipped metrics against scikit-learn, scipy and others; one's own by class and by path; the hub's."""

from __future__ import annotations

import math
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import sklearn.metrics
import torch
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from soupkitchen import metrics
from soupkitchen.cli import config as conf
from soupkitchen.errors import ConfigError, MetricError
from soupkitchen.evaluation import Evaluation, Part, confidence_interval
from soupkitchen.metrics.numbers import Mean
from soupkitchen.options.building import build, describe
from soupkitchen.store.digests import source_of
from soupkitchen.tasks import Several

labels = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=60)


def columns(pairs: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
    predictions, references = np.array(pairs).T
    return predictions, references


NEEDED: dict[str, dict[str, Any]] = {"regex": {"pattern": "a"}}
"""Options without a default."""


def test_the_shipped_metrics_are_these():
    assert (
        metrics.shipped()
        == (
            "accuracy answer_exact answer_f1 average_precision best_accuracy best_f1 bits_per_byte bleu "
            "character_error_rate contains cross_entropy entity_f1 exact_match f1_macro f1_micro json_valid "
            "map_at_100 margin math_verify mean mrr_at_10 mse ndcg_at_10 numeric_match pearson perplexity "
            "recall_at_10 regex retrieval_recall rouge1 rouge2 rouge_l spearman token_accuracy "
            "word_error_rate"
        ).split()
    )


@pytest.mark.parametrize("name", metrics.shipped())
def test_each_metric_is_described_and_knows_its_best(name):
    module = metrics.load(name, options=NEEDED.get(name)).module
    assert not module.__doc__.startswith(f"{type(module).__name__}(")  # what a dataclass says of itself
    assert sum(hasattr(module, function) for function in ("per_example", "of", "statistics")) == 1
    assert name in ("margin", "mean") or module.best is not None


def test_shipped_metrics_are_found_without_what_computes_them():
    code = """
import sys
from soupkitchen import metrics
for name in metrics.shipped():
    metrics.load(name, options={"pattern": "a"} if name == "regex" else None)
metrics.load("accuracy").score([1, 0], [1, 1])
print(*{name.split(".")[0] for name in sys.modules})
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    heavy = (
        "evaluate datasets torch transformers pandas scipy sklearn rouge_score sacrebleu seqeval math_verify"
    )
    assert not set(told.split()) & set(heavy.split())


@pytest.mark.parametrize("name", metrics.shipped())
def test_a_shipped_metric_survives_pickling_and_being_written_down(name):
    metric = metrics.load(name, options=NEEDED.get(name))
    for again in (pickle.loads(pickle.dumps(metric)), build(describe(metric)), build(metric.describe())):
        assert again == metric
        assert again.describe() == metric.describe()
        assert again.identity() == metric.identity()
    assert metric != metrics.load("mse" if name == "accuracy" else "accuracy")


def composed(choice: str, *overrides: str) -> dict[str, Any]:
    """The metric of a task's YAML."""
    conf.register_resolvers()
    with initialize_config_dir(str(conf.CONF), version_base="1.3"):
        config = compose("config", [f"task={choice}", *overrides])
    return OmegaConf.to_container(config.task.metric, resolve=True)


def test_what_a_metric_says_of_itself_is_what_the_yaml_composes():
    assert metrics.load("accuracy").describe() == composed("text_classification")
    words = ["task.metric.name=mse", "task.metric.greater_is_better=true", "task.metric.inputs=labels"]
    tree = composed("text_regression", *words)
    assert metrics.load("mse", greater_is_better=True, inputs="labels").describe() == tree
    assert build(tree) == metrics.load("mse", greater_is_better=True, inputs="labels") != metrics.load("mse")


def test_a_metric_that_load_did_not_make_cannot_be_written_down():
    metric = metrics.TaskMetric("accuracy", metrics.load("accuracy").module, "accuracy")
    with pytest.raises(ConfigError, match=r"not made by soupkitchen\.metrics\.load"):
        metric.describe()


def test_a_shipped_metric_takes_no_options_and_has_one_key():
    with pytest.raises(MetricError, match=r"task\.metric\.options=.*average.*accuracy refuses them"):
        metrics.load("accuracy", options={"average": "macro"})
    with pytest.raises(MetricError, match=r"task\.metric\.key=f1: accuracy gives accuracy only"):
        metrics.load("accuracy", key="f1")


@given(labels)
def test_accuracy(pairs):
    predictions, references = columns(pairs)
    metric = metrics.load("accuracy")
    expected = sklearn.metrics.accuracy_score(references, predictions)
    assert metric.score(predictions, references) == pytest.approx(expected, abs=1e-12)
    assert metric.per_example(predictions, references).mean() == pytest.approx(expected, abs=1e-12)


@given(labels)
def test_macro_f1(pairs):
    predictions, references = columns(pairs)
    metric = metrics.load("f1_macro")
    expected = sklearn.metrics.f1_score(references, predictions, average="macro", zero_division=0)
    assert metric.score(predictions, references) == pytest.approx(expected, abs=1e-12)
    assert metric.quick(predictions, references) == pytest.approx(expected, abs=1e-12)
    assert metric.per_example(predictions, references) is None


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 2**32 - 1))
def test_cross_entropy_is_a_loss_in_nats(references, seed):
    logits = np.random.default_rng(seed).normal(scale=5, size=(len(references), 5)).astype(np.float32)
    exponentials = np.exp(logits.astype(np.float64))
    expected = sklearn.metrics.log_loss(
        references, exponentials / exponentials.sum(1, keepdims=True), labels=range(5)
    )
    metric = metrics.load("cross_entropy")
    score = metric.score(logits, np.array(references))
    assert score == pytest.approx(-expected, rel=1e-6)
    assert metric.shown(score) == pytest.approx(expected, rel=1e-6)
    assert metric.per_example(logits, np.array(references)).mean() == pytest.approx(score, rel=1e-6)


def test_cross_entropy_of_extreme_logits_is_finite():
    metric = metrics.load("cross_entropy")
    assert metric.score(np.array([[1e4, 0.0]]), np.array([1])) == pytest.approx(-1e4)


@pytest.mark.parametrize("predictions", [["a", "b c", ""], [1, 2, 3]])
def test_exact_match(predictions):
    references = [predictions[0], predictions[2], predictions[2]]
    metric = metrics.load("exact_match")
    assert metric.score(np.array(predictions), np.array(references)) == pytest.approx(2 / 3)


@given(st.integers(1, 20), st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_multi_label_metrics_are_scikit_learns(examples, width, seed):
    predictions, references = np.random.default_rng(seed).integers(0, 2, (2, examples, width))
    for average in ("micro", "macro"):
        expected = sklearn.metrics.f1_score(references, predictions, average=average, zero_division=0)
        if width == 1:  # scikit-learn takes one column for two labels
            continue
        assert metrics.load(f"f1_{average}").score(predictions, references) == pytest.approx(expected)
    expected = sklearn.metrics.accuracy_score(references, predictions)
    assert metrics.load("accuracy").score(predictions, references) == pytest.approx(expected)


@given(st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_metrics_of_numbers(examples, seed):
    random = np.random.default_rng(seed)
    references = random.normal(size=examples)
    predictions = references + random.normal(size=examples)
    assert metrics.load("pearson").score(predictions, references) == pytest.approx(
        np.corrcoef(predictions, references)[0, 1]
    )
    ranks = [np.argsort(np.argsort(x)) for x in (predictions, references)]
    assert metrics.load("spearman").score(predictions, references) == pytest.approx(np.corrcoef(*ranks)[0, 1])
    expected = sklearn.metrics.mean_squared_error(references, predictions)
    mse = metrics.load("mse")
    assert mse.shown(mse.score(predictions, references)) == pytest.approx(expected)
    assert metrics.load("pearson").score(np.ones(examples), references) == 0


TAGS = st.lists(st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"]), min_size=1, max_size=12)


@given(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=8))
def test_entity_f1_is_seqevals_and_counts_whole_entities(pairs):
    seqeval = pytest.importorskip("seqeval.metrics")
    predictions, references = zip(*((p[: min(map(len, (p, r)))], r[: len(p)]) for p, r in pairs), strict=True)
    expected = seqeval.f1_score(list(references), list(predictions), zero_division=0)
    assert metrics.load("entity_f1").score(predictions, references) == pytest.approx(expected)
    flat = [np.concatenate(tags) for tags in (references, predictions)]
    accuracy = metrics.load("token_accuracy").score(predictions, references)
    assert accuracy == pytest.approx(sklearn.metrics.accuracy_score(*flat))


def test_an_entity_counts_only_whole():
    pytest.importorskip("seqeval")
    right, half = ["B-PER", "I-PER", "O", "B-LOC"], ["B-PER", "O", "O", "B-LOC"]
    assert metrics.load("entity_f1").score([half], [right]) == pytest.approx(0.5)


def test_tags_that_are_not_one_a_word_are_refused():
    pytest.importorskip("seqeval")
    for name in ("entity_f1", "token_accuracy"):
        with pytest.raises(MetricError, match=f"{name}.*could not be computed"):
            metrics.load(name).score([["B-PER"]], [["B-PER", "O"]])


WRITTEN = ["the cat sat on the mat", "a dog barked", "nothing alike here", ""]
RIGHT = ["the cat was sitting on the mat", "the dogs bark loudly", "some other words", "x"]


@pytest.mark.parametrize(("name", "key"), [("rouge1", "rouge1"), ("rouge2", "rouge2"), ("rouge_l", "rougeL")])
def test_rouge_is_rouge_scores(name, key):
    scorer = pytest.importorskip("rouge_score.rouge_scorer").RougeScorer([key], use_stemmer=True)
    expected = [
        scorer.score(right, written)[key].fmeasure for right, written in zip(RIGHT, WRITTEN, strict=True)
    ]
    assert metrics.load(name).score(WRITTEN, RIGHT) == pytest.approx(np.mean(expected))
    assert 0 < np.mean(expected) < 1


def test_bleu_is_sacrebleus():
    sacrebleu = pytest.importorskip("sacrebleu")
    written = [*WRITTEN, "a longer sentence that is the same in both"]
    right = [*RIGHT, "a longer sentence that is the same in both"]
    assert metrics.load("bleu").score(written, right) == pytest.approx(
        sacrebleu.corpus_bleu(written, [right]).score
    )


def test_perplexity_weighs_texts_by_their_tokens_and_bits_per_byte_by_their_bytes():
    nats, sizes = np.array([10.0, 2.0]), np.array([[5, 30], [4, 10]])
    perplexity, bits = metrics.load("perplexity"), metrics.load("bits_per_byte")
    assert perplexity.shown(perplexity.score(nats, sizes)) == pytest.approx(np.exp(12 / 9))
    assert bits.shown(bits.score(nats, sizes)) == pytest.approx(12 / np.log(2) / 40)


def test_without_an_answer_an_example_has_no_value_and_the_whole_no_score():
    values = metrics.load("exact_match").per_example(["a", np.nan, "b"], ["a", "nan", "c"])
    np.testing.assert_array_equal(values, [1, np.nan, 0])
    for name in ("bleu", "f1_macro"):
        assert np.isnan(metrics.load(name).score([np.nan, "a"], ["a", "a"]))


def test_a_mean_has_a_best_only_where_it_is_told():
    assert metrics.load("mean").best == np.inf
    assert metrics.load("mean", options={"best": 2.0}).best == 2.0


def test_an_absent_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(MetricError, match=r"soupkitchen\[metrics\]"):
        metrics.load("bleu").score(["a"], ["b"])


SCRIPT = """
import datasets
import evaluate


class Closeness(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="", citation="",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references, scale=1.0):
        distance = sum(abs(p - r) for p, r in zip(predictions, references)) / len(predictions)
        return {"closeness": -scale * distance, "distance": distance}
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    (tmp_path / "closeness").mkdir()
    (tmp_path / "closeness" / "closeness.py").write_text(SCRIPT)
    return str(tmp_path / "closeness")


def test_a_metric_of_ones_own_is_found_by_path(script):
    predictions, references = np.array([1, 2, 3]), np.array([1, 3, 5])
    assert metrics.load(script).score(predictions, references) == -1.0
    scaled = metrics.load(script, options={"scale": 2.0})
    assert scaled.score(predictions, references) == -2.0
    loss = metrics.load(script, key="distance", greater_is_better=False)
    assert loss.score(predictions, references) == -1.0
    assert loss.shown(loss.score(predictions, references)) == 1.0
    assert loss.per_example(predictions, references) is None
    assert loss.quick(predictions, references) is None


def test_a_script_is_written_down_as_it_was_named(script):
    given = {"key": "distance", "greater_is_better": False, "inputs": None, "options": {"scale": 2.0}}
    tree = {"_target_": "soupkitchen.metrics.load", "name": script, **given}
    assert metrics.load(script, **given).describe() == tree
    assert build(tree).identity() == metrics.load(script, **given).identity()


CLASSES = """
class Nearness:
    name = "nearness"
    inputs = "values"

    def __init__(self, scale=1.0):
        self.scale = scale

    def of(self, predictions, references):
        return -self.scale * abs(predictions - references).max()


class Unnamed:
    greater_is_better = False
    best = 0.0

    def per_example(self, predictions, references):
        return abs(predictions - references)


class Counts:
    best = 1.0

    def per_example(self, predictions, references):
        return predictions * 0 + 1.0

    def compute(self, predictions, references, first=0):
        return {"examples": len(predictions) + first}


NUMBER = 0.0


class NoMetric:
    pass
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of one's own, whose classes are metrics."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(CLASSES)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_a_metric_of_ones_own_is_a_class_by_its_dotted_name(module):
    predictions, references = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 6.0])
    nearness = metrics.load(f"{module}.Nearness", options={"scale": 2.0})
    assert (nearness.name, nearness.key, nearness.inputs) == ("nearness", "nearness", "values")
    assert nearness.score(predictions, references) == nearness.quick(predictions, references) == -4.0
    unnamed = metrics.load(f"{module}.Unnamed")
    assert (unnamed.name, unnamed.best) == ("Unnamed", 0.0)
    assert unnamed.score(predictions, references) == pytest.approx(-1.0)
    assert unnamed.shown(unnamed.score(predictions, references)) == pytest.approx(1.0)


def test_what_a_metric_says_of_itself_is_not_true_of_its_compute_with_options(module):
    predictions, references = np.array([1.0, 2.0, 4.0]), np.array([1.0, 3.0, 6.0])
    plain = metrics.load(f"{module}.Counts")
    assert plain.is_plain_mean
    assert plain.score(predictions, references) == plain.best == 1.0
    counts = metrics.load(f"{module}.Counts", key="examples", options={"first": 10})
    assert counts.score(predictions, references) == 13
    assert counts.best == np.inf
    assert not counts.can_be_resampled


def test_a_metric_of_ones_own_is_identified_by_its_source_and_options(module, tmp_path):
    metric = metrics.load(f"{module}.Nearness")
    before = metric.identity()
    assert before[2:] == source_of(type(metric.module))
    assert metrics.load(f"{module}.Nearness", options={"scale": 2.0}).identity() != before
    file = tmp_path / f"{module}.py"
    file.write_text(file.read_text() + "# changed\n")
    assert metric.identity() != before


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module.Recall", "cannot be imported.*no_such_module"),
        ("{module}.Recall", "cannot be imported.*Recall"),
        ("{module}.NUMBER", "is no metric: it should be a class"),
        ("{module}.NoMetric", r"is no metric.*per_example.*or a grader.*\(prompt, answer, row\)"),
    ],
)
def test_a_class_that_there_is_not_or_that_is_no_metric_is_said_so(name, message, module):
    name = name.format(module=module)
    with pytest.raises(MetricError, match=rf"task\.metric\.name={re.escape(name)} {message}"):
        metrics.load(name)


def test_a_file_at_a_relative_path_is_no_dotted_name(script, monkeypatch):
    monkeypatch.chdir(script)
    assert metrics.load("closeness.py").score(np.array([1, 2, 3]), np.array([1, 3, 5])) == -1.0


def test_a_wrong_key_lists_the_right_ones(script):
    with pytest.raises(MetricError, match="gives closeness, distance, not 'f1'"):
        metrics.load(script, key="f1").score(np.array([1]), np.array([1]))


@pytest.mark.parametrize("name", ["rouge", "hub:accuracy", "no/such/metric"])
def test_out_of_reach_of_the_hub_the_error_lists_what_works_offline(name):
    with pytest.raises(
        MetricError, match=r"hub could not be reached.*accuracy, answer_exact, .*bits_per_byte"
    ):
        metrics.load(name)


def test_input_that_a_metric_refuses_is_an_error_in_plain_words():
    with pytest.raises(MetricError, match="accuracy"):
        metrics.load("accuracy").score(np.array(["a"]), np.array([1]))


def corpora(number: int) -> tuple[list[str], list[str]]:
    """Texts and references that are alike in part, some of them empty or without a common word."""
    random = np.random.default_rng(0)
    words = [f"word{i}" for i in range(30)] + ["don't", "3.5", "(so)"]
    right = [" ".join(random.choice(words, random.integers(0, 15))) for _ in range(number)]
    written = [
        " ".join(word if random.random() < 0.7 else random.choice(words) for word in text.split())
        for text in right
    ]
    return written, right


@pytest.mark.parametrize("size", [1, 3, 60])
def test_bleu_of_a_resample_follows_from_its_examples_statistics(size):
    sacrebleu = pytest.importorskip("sacrebleu")
    written, right = corpora(60)
    metric = metrics.load("bleu")
    statistics = metric.statistics(written, right)
    random = np.random.default_rng(1)
    for _ in range(30):
        drawn = random.integers(0, 60, size)
        expected = sacrebleu.corpus_bleu([written[i] for i in drawn], [[right[i] for i in drawn]]).score
        assert metric.of_statistics(statistics[drawn].sum(0)) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(TAGS, TAGS), min_size=1, max_size=8), st.integers(0, 2**32 - 1))
def test_entity_f1_of_a_resample_follows_from_its_examples_statistics(pairs, seed):
    seqeval = pytest.importorskip("seqeval.metrics")
    pairs = [(p[: min(len(p), len(r))], r[: len(p)]) for p, r in pairs]
    metric = metrics.load("entity_f1")
    statistics = metric.statistics([p for p, _ in pairs], [r for _, r in pairs])
    drawn = np.random.default_rng(seed).integers(0, len(pairs), len(pairs))
    chosen = [pairs[i] for i in drawn]
    expected = seqeval.f1_score([r for _, r in chosen], [p for p, _ in chosen], zero_division=0)
    assert metric.of_statistics(statistics[drawn].sum(0)) == pytest.approx(expected, abs=1e-12)


def bleu(written: list, right: list) -> float:
    return pytest.importorskip("sacrebleu").corpus_bleu(written, [right]).score


def entity_f1(written: list, right: list) -> float:
    return pytest.importorskip("seqeval.metrics").f1_score(right, written, zero_division=0)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "whole"), [("bleu", bleu), ("entity_f1", entity_f1)])
def test_the_bootstrap_of_corpus_scores_is_quick_and_that_of_the_whole_computation(name, whole):
    if name == "bleu":
        written, right = corpora(2000)
    else:
        random = np.random.default_rng(0)
        written, right = (
            [list(random.choice(["O", "B-X", "I-X"], 20)) for _ in range(2000)] for _ in range(2)
        )
    metric = metrics.load(name)
    parts = {"": Part(metric.score(written, right), None, written, len(right), len(right))}
    evaluation = Evaluation("heldout", parts[""].score, parts)
    tasks = Several.of(cast("Any", SimpleNamespace(metric=metric, model_class=object)))
    started = time.process_time()
    interval = confidence_interval(evaluation, tasks, {"": right})
    assert interval is not None
    assert time.process_time() - started < 5
    random, resampled = np.random.default_rng(5), []
    for _ in range(20):
        drawn = random.integers(0, 2000, 2000)
        resampled.append(whole([written[i] for i in drawn], [right[i] for i in drawn]))
    spread = np.std(resampled)
    assert interval[1] - interval[0] == pytest.approx(2 * 1.96 * spread, rel=0.5)
    assert interval[0] < parts[""].score < interval[1]


@pytest.mark.parametrize("greater", [True, False])
def test_a_value_better_than_the_best_is_an_error_that_names_the_option(greater):
    metric = metrics.TaskMetric("score", Mean(0.5), "mean", greater, "values")
    better, worse = (0.6, 0.4) if greater else (0.4, 0.6)
    assert metric.score(np.array([worse, 0.5, 0.5 + 1e-13]), np.zeros(3)) < (1 if greater else 0)
    with pytest.raises(MetricError, match=rf"task\.best=0\.5.*{better}"):
        metric.score(np.array([worse, better, np.nan]), np.zeros(3))


def test_a_shipped_metrics_best_is_checked_too(monkeypatch):
    metric = metrics.load("f1_micro")
    monkeypatch.setattr(type(metric.module), "best", 0.5)
    with pytest.raises(MetricError, match=r"f1_micro.*its `best` is wrong"):
        metric.score(np.ones((2, 2), int), np.ones((2, 2), int))


KINDS_OF_NUMBERS: dict[str, Callable[[list[float]], Any]] = {
    "ints": lambda values: [int(value) for value in values],
    "bools": lambda values: [bool(value) for value in values],
    "float16": lambda values: np.array(values, np.float16),
    "0-dimensional": lambda values: [np.array(value) for value in values],
    "a tensor": lambda values: torch.tensor(values, dtype=torch.bfloat16),
    "tensors": lambda values: [torch.tensor(value, requires_grad=True) for value in values],
}


@pytest.mark.parametrize("kind", KINDS_OF_NUMBERS)
@pytest.mark.parametrize("best", [1, np.float32(1)])
def test_numbers_of_any_kind_are_values_and_best_ones_in_float64(kind, best):
    given = KINDS_OF_NUMBERS[kind]
    module = SimpleNamespace(best=best, per_example=lambda predictions, references: given(list(predictions)))
    metric = metrics.TaskMetric("score", module, "score")
    values = metric.per_example(np.array([1.0, 0.0, 1.0]), np.zeros(3))
    assert values is not None
    assert (values.dtype, values.tolist()) == (np.float64, [1.0, 0.0, 1.0])
    assert type(metric.best) is float
    assert type(metric.score(np.array([1.0, 0.0]), np.zeros(2))) is float


@pytest.mark.parametrize("best", [1, 1.0, np.float32(1)])
def test_a_whole_number_as_best_cuts_no_values(best):
    metric = metrics.TaskMetric("score", Mean(best), "mean", True, "values")
    part = Part.of_first(metric, [0.9143, math.nan], np.zeros(4), np.array([2, 0, 1, 3]))
    assert part.values is not None
    np.testing.assert_array_equal(part.values, [math.nan, 1.0, 0.9143, 1.0])
    assert math.isnan(part.score)
    with pytest.raises(AssertionError):
        Part(0.0, np.full(2, 1), (), 2, 2)


@pytest.mark.parametrize("given", [0.5, [0.5], [[0.5], [0.5]], [0.5] * 3], ids=str)
def test_a_metric_that_gives_another_number_of_values_is_refused(given):
    module = SimpleNamespace(per_example=lambda predictions, references: given)
    with pytest.raises(MetricError, match="could not be computed"):
        metrics.TaskMetric("score", module, "score").score(np.zeros(2), np.zeros(2))


@pytest.mark.parametrize("name", ["accuracy", "f1_macro", "mse", "exact_match"])
def test_one_prediction_that_is_nan_makes_a_score_nan(name):
    metric = metrics.load(name)
    predictions: Any = np.array([1.0, float("nan"), 0.0])
    references: Any = np.array([1, 0, 0])
    if name == "exact_match":
        predictions, references = ["a", float("nan"), "b"], ["a", "b", "b"]
    assert np.isnan(metric.score(predictions, references))
    values = metric.per_example(predictions, references)
    if values is not None:
        assert np.isnan(values).tolist() == [False, True, False]
