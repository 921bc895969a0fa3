"""Graders against other parsers, fractions and tables; a grader of one's own through the real task."""

from __future__ import annotations

import json
import math
import pickle
import re
import sys
import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pydantic_core
import pytest
from causal import best_is_soup, cook, tiny_llama
from hypothesis import given
from hypothesis import strategies as st
from scoring import rows, score
from transformers import AutoModelForCausalLM, AutoTokenizer

from soupkitchen import metrics
from soupkitchen.errors import ConfigError, MetricError
from soupkitchen.evaluation import find_columns
from soupkitchen.evaluation.identity import examples as examples_identity
from soupkitchen.evaluation.identity import task as task_identity
from soupkitchen.metrics import Asked, TaskMetric
from soupkitchen.options.building import build, describe
from soupkitchen.tasks import Data, Several, TextGeneration, text_generation


def right(name: str, answer: str, reference: str = "", **options: Any) -> bool:
    """What the metric says of one answer."""
    metric = metrics.load(name, options=options)
    assert metric.binary
    assert metric.best == 1
    value = metric.per_example([answer], [reference])
    assert value is not None
    assert value[0] in (0, 1)
    return bool(value[0])


def test_the_score_is_the_share_of_right_answers():
    metric = metrics.load("contains")
    assert metric.score(["a b", "c", "d", "e"], ["b", "b", "d", "f"]) == 0.5
    assert metric.is_plain_mean


# json_valid

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON, st.sampled_from(["{}", " {}\n", "```json\n{}\n```", "```\n{}\n```", "\n```JSON {}```\n"]))
def test_written_json_is_json_also_in_a_fence(value, around):
    assert right("json_valid", around.replace("{}", json.dumps(value), 1))


@given(st.text('{}[]",:0123456789.eE+- truefalsnNaInity', max_size=12))
def test_any_text_is_json_if_another_parser_takes_it(text):
    try:
        pydantic_core.from_json(text, allow_inf_nan=False)
        expected = True
    except ValueError:
        expected = False
    assert right("json_valid", text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1" * 5000, True),
        ("[" * 100_000, False),
        ("", False),
        ("NaN", False),
        ("[1, -Infinity]", False),
        ("{'a': 1}", False),
        ('Here it is: {"a": 1}', False),
        ('```json\n{"a": 1}\n``` as asked', False),
        ("``````", False),
        ("```python\n1\n```", False),
    ],
)
def test_what_python_alone_takes_for_json_or_refuses(text, expected):
    assert right("json_valid", text) == expected


# numeric_match

DECIMALS = st.tuples(st.integers(-(10**9), 10**9), st.integers(0, 6))


def written(number: tuple[int, int], style: str) -> str:
    """The number whole / 10 ** places, in digits."""
    whole, places = number
    sign, digits = "-" if whole < 0 else "", str(abs(whole)).rjust(places + 1, "0")
    before, after = digits[: len(digits) - places], digits[len(digits) - places :]
    if style == "exponent":
        return f"{whole}e-{places}"
    grouped = f"{int(before):,}" if style == "grouped" else before
    return f"{sign}{grouped}{'.' if after else ''}{after}"


STYLES = st.sampled_from(["plain", "grouped", "exponent"])
AROUND = st.sampled_from(["{}", "The answer is {}.", "7 + 8 = {}%", "so 12 of 13, it's ${}, thanks"])


@given(DECIMALS, DECIMALS, STYLES, STYLES, AROUND, st.sampled_from([0, 0.001, 0.1, 1, 2.5]), st.booleans())
def test_numbers_match_as_fractions_do(first, second, style, other, around, tolerance, same):
    second = (first[0] * 10, first[1] + 1) if same else second
    given_, wanted = (Fraction(whole, 10**places) for whole, places in (first, second))
    expected = abs(given_ - wanted) <= Fraction(repr(float(tolerance))) * abs(wanted)
    answer = around.replace("{}", written(first, style))
    if "$-" in answer:
        answer = answer.replace("$-", "-$")
    assert right("numeric_match", answer, written(second, other), tolerance=tolerance) == expected


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("5-3", "3", True),
        ("x = -3", "-3", True),
        ("x = −3", "-3", True),
        ("(2)-3", "3", True),
        ("1,234,567.50 dollars", "1234567.5", True),
        ("1, 2, 3", "3", True),
        ("1,2345", "2345", True),
        (".5", "0.50", True),
        ("50%", "50", True),
        ("1.5E3", "1500", True),
        ("2e", "2", True),
        ("-0", "0", True),
        ("version 3.", "3", True),
        ("no number", "3", False),
        ("0.1", "0.10000000000000000001", False),
        ("9" * 5000, "9" * 5000, True),
        ("1e999999999", "1e999999999", True),
        ("2e999999999", "1e999999999", False),
        ("1e99999999999999999999999", "1", False),
    ],
)
def test_the_last_number_counts(answer, reference, expected):
    assert right("numeric_match", answer, reference) == expected
    for tolerance in (0.0, 1e-30):
        assert right("numeric_match", answer, reference, tolerance=tolerance) == expected


@pytest.mark.parametrize(
    ("answer", "expected"), [("9", True), ("11", True), ("11.01", False), ("8.9", False)]
)
def test_the_tolerance_is_a_share_of_the_reference_with_both_ends(answer, expected):
    assert right("numeric_match", answer, "10", tolerance=0.1) == expected


# contains and regex


@given(st.text("abAB ", max_size=8), st.text("abAB", min_size=1, max_size=3), st.booleans())
def test_contains_is_a_search_at_every_place(text, reference, ignore_case):
    def alike(first: str, second: str) -> bool:
        return first.lower() == second.lower() if ignore_case else first == second

    expected = any(alike(text[at : at + len(reference)], reference) for at in range(len(text)))
    assert right("contains", text, reference, ignore_case=ignore_case) == expected


@pytest.mark.parametrize(
    ("pattern", "answer", "reference", "expected"),
    [
        (r"\d+", "a 12", "", True),
        (r"^\d+$", "a 12", "", False),
        ("(?i)yes", "YES", "", True),
        ("(?:a|b)c", "bc", "", True),
        (r"#### (-?\d+)", "#### 4 and #### -5", "-5", True),
        (r"#### (-?\d+)", "#### 4 and #### -5", "4", False),
        (r"#### (-?\d+)", "-5", "-5", False),
        ("answer:(.*)", "answer: b ", "b", True),
        ("a(b)?", "a", "b", False),
    ],
)
def test_a_pattern_is_found_and_its_group_is_the_reference(pattern, answer, reference, expected):
    assert right("regex", answer, reference, pattern=pattern) == expected
    assert metrics.load("regex", options={"pattern": pattern}).compares == (re.compile(pattern).groups > 0)


# math_verify

FORMULAS = [
    (r"The answer is $\frac{1}{2}$.", "0.5", True),
    (r"So \boxed{\frac{2}{4}}", r"\frac{1}{2}", True),
    (r"\frac{1}{2}", "1/2", True),
    (r"2\sqrt{3}", "2", False),
    ("2", r"2\sqrt{3}", False),
    (r"\sqrt{12}", r"2\sqrt{3}", True),
    ("1+x^2", "x^2+1", True),
    ("3x+2", "2", False),
    ("$(x+1)^2$", "x^2+2x+1", True),
    ("x = 5", "5", True),
    ("It is 1,234 in all", "1234", True),
    ("It is 7", "8", False),
    (r"\{2,1\}", r"\{1,2\}", True),
    ("none", "8", False),
    ("", "8", False),
]


@pytest.fixture
def verifying() -> None:
    pytest.importorskip("math_verify")


@pytest.mark.usefixtures("verifying")
@pytest.mark.parametrize(("answer", "reference", "expected"), FORMULAS)
def test_formulas_that_are_equal_are_right(answer, reference, expected):
    assert right("math_verify", answer, reference) == expected


@pytest.mark.usefixtures("verifying")
def test_formulas_are_compared_in_threads_too():
    values = []
    answers, references, expected = zip(*FORMULAS, strict=True)

    def work() -> None:
        values.extend(metrics.load("math_verify").per_example(answers, references))  # type: ignore[arg-type]

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert values == list(expected)


@pytest.mark.usefixtures("verifying")
def test_a_formula_that_would_take_for_ever_is_wrong(monkeypatch):
    monkeypatch.setattr("soupkitchen.metrics.graders._SECONDS", 1)
    assert not right("math_verify", "$9^{9^{9^9}}$", "5")


def test_without_math_verify_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    with pytest.raises(MetricError, match=r"math_verify is needed.*soupkitchen\[metrics\]"):
        metrics.load("math_verify").score(["a"], ["b"])


# Bad options and references


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("numeric_match", {"tolerance": -1}, "tolerance=-1 should be"),
        ("numeric_match", {"tolerance": math.nan}, "tolerance=nan should be"),
        ("numeric_match", {"tolerance": "0.1"}, "tolerance=0.1 should be"),
        ("contains", {"ignore_case": "no"}, "ignore_case=no should be true or false"),
        ("regex", {}, "pattern"),
        ("regex", {"pattern": "("}, r"pattern=\( is no regular expression"),
        ("regex", {"pattern": 5}, "pattern=5 is no regular expression"),
        ("regex", {"pattern": ""}, "is empty"),
        ("regex", {"pattern": "(a)(b)"}, r"has 2 groups.*\(\?:"),
        ("json_valid", {"schema": {}}, "json_valid refuses them"),
    ],
)
def test_options_that_cannot_be_are_refused(name, options, complaint):
    with pytest.raises(MetricError, match=rf"task\.metric\.options.*{complaint}"):
        metrics.load(name, options=options)


@pytest.mark.parametrize(
    ("name", "reference", "complaint"),
    [
        ("numeric_match", "none", "reference 'none' has no number"),
        ("contains", " ", "a reference is empty"),
        ("math_verify", " ", "has no formula"),
    ],
)
def test_a_reference_that_says_nothing_is_an_error(name, reference, complaint):
    if name == "math_verify":
        pytest.importorskip("math_verify")
    with pytest.raises(MetricError, match=complaint):
        metrics.load(name).score(["a", "5"], ["5", reference])


# Graders of one's own

GRADERS = """
def short(prompt, answer, row, most=1000):
    return len(answer) <= most


def share(prompt, answer, row):
    assert prompt == "say " + row["word"]
    return sum(word in row["allowed"] for word in answer.split()) / max(1, len(answer.split()))


class Judge:
    name = "judged"
    binary = True
    made = []

    def __init__(self, value=1):
        self.value = value
        self.made.append(self)

    def __call__(self, prompt, answer, row):
        return self.value


def spoils(prompt, answer, row):
    row.clear()
    return 1.0


def strange(prompt, answer, row):
    import fractions, sys
    import numpy as np
    return {
        "raises": lambda: 1 // 0,
        "bare": lambda: [][0],
        "nan": lambda: float("nan"),
        "numpy nan": lambda: np.float32("nan"),
        "above": lambda: 1.5,
        "below": lambda: -1,
        "none": lambda: None,
        "text": lambda: "1.0",
        "array": lambda: np.ones(2),
        "exit": lambda: sys.exit(0),
    }[row["kind"]]() if row.get("kind") else True


def two(prompt, answer):
    return True
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of one's own, with graders."""
    name = f"graders_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(GRADERS)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def graded(metric: TaskMetric, answers: list[str], examples: list[dict[str, Any]]) -> list[float]:
    asked = [Asked("say", row, number) for number, row in enumerate(examples, 1)]
    values = metric.per_example(answers, asked)
    assert values is not None
    return values.tolist()


def test_a_function_of_ones_own_grades_with_its_options(own):
    metric = metrics.load(f"{own}.short", options={"most": 2})
    assert graded(metric, ["a", "abc"], [{}, {}]) == [1.0, 0.0]
    assert (metric.name, metric.best, metric.binary, metric.inputs) == ("short", 1.0, False, "texts")
    assert metric.reads_rows
    assert not metric.compares


def test_a_class_of_ones_own_is_made_once_and_may_be_binary(own):
    metric = metrics.load(f"{own}.Judge", options={"value": True})
    assert graded(metric, ["a"] * 3, [{}] * 3) == [1.0] * 3
    assert (metric.name, metric.binary) == ("judged", True)
    assert len(sys.modules[own].Judge.made) == 1
    with pytest.raises(MetricError, match=rf"{own}\.Judge: row 1 .*0\.5.*binary = True gives 0 or 1"):
        graded(metrics.load(f"{own}.Judge", options={"value": 0.5}), ["a"], [{}])


def test_a_grader_cannot_change_the_rows_of_the_next_model(own):
    row = {"word": "w1"}
    assert graded(metrics.load(f"{own}.spoils"), ["a"], [row]) == [1.0]
    assert row == {"word": "w1"}


def test_lower_may_be_better(own):
    metric = metrics.load(f"{own}.short", greater_is_better=False, options={"most": 1})
    asked = [Asked("", {}, 1), Asked("", {}, 2)]
    score = metric.score(["a", "abc"], asked)
    assert (score, metric.shown(score), metric.best) == (-0.5, 0.5, 0.0)


def test_answers_of_a_model_that_failed_are_not_graded(own):
    values = metrics.load(f"{own}.strange").per_example(
        [math.nan, "a"], [Asked("", {"kind": "raises"}, 1), Asked("", {}, 2)]
    )
    np.testing.assert_array_equal(values, [math.nan, 1.0])


def test_a_grader_is_pickled_and_written_down(own):
    for metric in (metrics.load(f"{own}.short", options={"most": 3}), metrics.load(f"{own}.Judge")):
        for again in (pickle.loads(pickle.dumps(metric)), build(describe(metric))):
            assert again == metric
            assert again.identity() == metric.identity()


def test_what_a_grader_gives_depends_on_its_options_and_source(own, tmp_path):
    metric = metrics.load(f"{own}.short")
    before = metric.identity()
    others = [metrics.load(f"{own}.short", options={"most": 3}), metrics.load(f"{own}.share")]
    others += [metrics.load(f"{own}.short", greater_is_better=False)]
    assert all(other.identity() != before for other in others)
    task = TextGeneration(Data("-"), metric)
    predictions = task_identity(task)
    file = tmp_path / f"{own}.py"
    file.write_text(file.read_text() + "# changed\n")
    assert metric.identity() != before
    assert task_identity(task) == predictions  # texts do not depend on it, and are not generated again
    options = [{}, {"tolerance": 0.1}]
    first, second = (metrics.load("numeric_match", options=each).identity() for each in options)
    assert first != second


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        ("raises", r"cannot be graded: ZeroDivisionError: .*by zero \(.*\.py, line \d+\)"),
        ("bare", "cannot be graded: IndexError: list index"),
        ("nan", "is graded nan; a grade is"),
        ("numpy nan", "is graded nan"),
        ("above", "is graded 1.5"),
        ("below", "is graded -1"),
        ("none", "is graded None"),
        ("text", r"is graded '1\.0'"),
        ("array", "cannot be graded: ValueError"),
        ("exit", r"ends the process by sys\.exit\(0\)"),
    ],
)
def test_a_grader_that_fails_is_one_error_that_names_grader_and_row(own, kind, complaint):
    metric = metrics.load(f"{own}.strange")
    with pytest.raises(
        (MetricError, ConfigError),
        match=rf"task\.metric\.name={own}\.strange: row 2 of the data.*{complaint}",
    ):
        graded(metric, ["a"] * 3, [{}, {"kind": kind}, {"kind": kind}])


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("two", {}, r"two cannot be called as a grader, by \(prompt, answer, row\): too many"),
        ("short", {"least": 1}, r"short cannot be called.*row, least=1\): got an unexpected"),
        ("Judge", {"least": 1}, r"options=\{'least': 1\}: .*Judge refuses them"),
        ("nothing", {}, "nothing cannot be imported"),
    ],
)
def test_a_grader_that_cannot_be_called_is_refused_at_once(own, name, options, complaint):
    with pytest.raises(MetricError, match=complaint):
        metrics.load(f"{own}.{name}", options=options)


def test_a_grader_of_texts_is_refused_for_labels():
    with pytest.raises(MetricError, match=r"'contains' could not be computed"):
        metrics.load("contains").score(np.array([0, 1]), np.array([0, 1]))


def test_a_grader_is_refused_where_there_are_no_prompts(own):
    with pytest.raises(MetricError, match=r"only task=text_generation has"):
        metrics.load(f"{own}.short").score(["a"], ["b"])


# Through the task


def test_a_grader_sees_prompt_answer_and_row_of_the_same_example(causal, tmp_path, own):
    allowed = [["w1", "w2"], [], ["w3"], None, ["w4"]]
    examples = [
        {"word": f"w{n} " * n, "allowed": words or [], "level": n, "note": None if n == 2 else {"by": "me"}}
        for n, words in enumerate(allowed, 1)
    ]
    data = rows(tmp_path, examples)
    part = score(
        text_generation(data=data, prompt="say {word}", metric=f"{own}.share", max_new_tokens=4), causal
    )
    answers = [str(answer).split() for answer in part.predictions]
    expected = [
        sum(word in row["allowed"] for word in words) / max(1, len(words))
        for words, row in zip(answers, examples, strict=True)
    ]
    assert part.values is not None
    assert part.values.tolist() == pytest.approx(expected)


def test_the_row_in_an_error_is_that_of_the_file_also_in_a_drawn_share(causal, tmp_path, own):
    rows(tmp_path, [{"prompt": "w1", "kind": "raises", "row": number} for number in range(1, 31)])
    (tmp_path / "validation.jsonl").rename(tmp_path / "train.jsonl")
    data = Data(str(tmp_path), test=None)
    first, *_ = data.load_splits()["heldout"]["row"][:]
    assert first > 1
    task = text_generation(data=data, metric=f"{own}.strange", max_new_tokens=2)
    with pytest.raises(MetricError, match=f"row {first} of the data"):
        score(task, causal)


def test_columns_are_in_the_key_of_predictions_only_if_a_grader_sees_them(causal, tmp_path, own):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(causal), AutoTokenizer.from_pretrained(causal)

    def key(metric: str, level: int) -> str:
        folder = tmp_path / f"{metric}{level}"
        folder.mkdir()
        data = rows(folder, [{"prompt": "w1", "answer": "w2", "level": level}])
        task = text_generation(data=data, metric=metric, max_new_tokens=2)
        return examples_identity([task.prepare(data.load_splits()["heldout"], tokenizer, model)])

    assert key("exact_match", 1) == key("exact_match", 2)
    assert key(f"{own}.short", 1) != key(f"{own}.short", 2)


@pytest.mark.parametrize("name", ["json_valid", "regex"])
def test_metrics_that_compare_with_nothing_need_no_answers(causal, tmp_path, name):
    examples = [
        {"prompt": "w1", "target": "w1", "summary": "w2"},
        {"prompt": "w2 w3", "target": "", "summary": ""},
    ]
    options = {"pattern": "w"} if name == "regex" else None
    task = text_generation(
        data=rows(tmp_path, examples), metric={"name": name, "options": options}, max_new_tokens=3
    )
    assert task.content_columns == ("prompt",)
    assert find_columns(Several.of(task)).tasks[""] == task  # no matter which column holds answers
    part = score(task, causal)
    assert part.values is not None
    expected = ["w" in str(text) if name == "regex" else False for text in part.predictions]
    assert part.values.tolist() == expected


@pytest.mark.slow
def test_a_grader_of_ones_own_runs_the_whole_job(own, tmp_path):
    words = [f"task.metric.name={own}.short", "+task.metric.options.most=12", "task.max_new_tokens=3"]
    best_is_soup(cook("text_generation", words, {"prompt": "w1"}, tiny_llama, tmp_path))
