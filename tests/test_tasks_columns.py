"""Columns by the names of the hub's data sets: which are taken, which never, what a run makes of it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
from command import events, own, same, soupkitchen

from soupkitchen import metrics
from soupkitchen.errors import DataError
from soupkitchen.evaluation import find_columns
from soupkitchen.tasks import (
    Data,
    EmbeddingSimilarity,
    ImageClassification,
    ImageTextRetrieval,
    LanguageModeling,
    MaskedLanguageModeling,
    MultilabelClassification,
    MultipleChoice,
    Several,
    SpeechRecognition,
    TextClassification,
    TextGeneration,
    TextRegression,
    TokenClassification,
)
from soupkitchen.tasks.columns import with_columns

TEXT, WHOLE, FLOAT = (datasets.Value(kind) for kind in ("string", "int64", "float64"))
NAMED = datasets.ClassLabel(names=["no", "yes"])


def options(kind: type, columns: dict[str, Any], **named: Any) -> dict[str, Any]:
    """The options of a task that differ from what they were, once its columns are looked for."""
    metric = metrics.load("accuracy")
    task = kind(Data("-"), metric, **named)
    found = with_columns(task, lambda: datasets.Features(columns))
    names = ("text", "text_pair", "label", "image", "audio", "words", "prompt", "answer", "choices")
    return {
        name: getattr(found, name)
        for name in names
        if getattr(found, name, None) != getattr(task, name, None)
    }


PAIR = {"text": "sentence1", "text_pair": "sentence2"}
CASES = [
    (TextClassification, {"sentence": TEXT, "label": NAMED, "idx": WHOLE}, {"text": "sentence"}),
    (TextClassification, {"sentence1": TEXT, "sentence2": TEXT, "label": NAMED, "idx": WHOLE}, PAIR),
    (
        TextClassification,
        {"premise": TEXT, "hypothesis": TEXT, "label": NAMED},
        {"text": "premise", "text_pair": "hypothesis"},
    ),
    (
        TextClassification,
        {"question": TEXT, "sentence": TEXT, "label": NAMED},
        {"text": "question", "text_pair": "sentence"},
    ),
    (TextClassification, {"text": TEXT, "intent": NAMED}, {"label": "intent"}),
    (TextClassification, {"Text": TEXT, "Label": TEXT}, {"text": "Text", "label": "Label"}),
    (TextClassification, {"review_body": TEXT, "stars": WHOLE}, {"text": "review_body", "label": "stars"}),
    (TextRegression, {"sentence1": TEXT, "sentence2": TEXT, "score": FLOAT}, {**PAIR, "label": "score"}),
    (EmbeddingSimilarity, {"sentence1": TEXT, "sentence2": TEXT, "score": FLOAT}, {**PAIR, "label": "score"}),
    (
        MultilabelClassification,
        {"comment_text": TEXT, "emotions": datasets.List(NAMED), "label": WHOLE},
        {"text": "comment_text", "label": "emotions"},
    ),
    (ImageClassification, {"img": datasets.Image(), "class": NAMED}, {"image": "img", "label": "class"}),
    (
        TokenClassification,
        {"words": datasets.List(TEXT), "ner_tags": datasets.List(NAMED)},
        {"words": "words", "label": "ner_tags"},
    ),
    (ImageTextRetrieval, {"img": datasets.Image(), "caption": TEXT}, {"image": "img", "text": "caption"}),
    (SpeechRecognition, {"audio": datasets.Audio(), "sentence": TEXT, "id": WHOLE}, {"text": "sentence"}),
    (
        SpeechRecognition,
        {"speech": datasets.List(FLOAT), "transcription": TEXT, "file": WHOLE},
        {"audio": "speech", "text": "transcription"},
    ),
    (LanguageModeling, {"content": TEXT, "url": TEXT}, {"text": "content"}),
    (MaskedLanguageModeling, {"content": TEXT, "url": TEXT}, {"text": "content"}),
    (TextGeneration, {"dialogue": TEXT, "summary": TEXT}, {"prompt": "{dialogue}", "answer": "summary"}),
    (TextGeneration, {"question": TEXT, "answer": TEXT}, {"prompt": "{question}"}),
    (
        MultipleChoice,
        {"ctx": TEXT, "endings": datasets.List(TEXT), "label": TEXT},
        {"prompt": "{ctx}", "choices": "endings", "answer": "label"},
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "columns", "taken"), CASES)
def test_columns_are_found_by_the_names_that_data_sets_of_the_hub_have(kind, columns, taken):
    assert options(kind, columns) == taken


def test_the_log_says_which_columns_were_taken_and_by_which_options(caplog):
    caplog.set_level(logging.INFO)
    options(TextClassification, {"premise": TEXT, "hypothesis": TEXT, "label": NAMED})
    assert "taken are task.text=premise, task.text_pair=hypothesis; these options name others" in caplog.text


@pytest.mark.parametrize("kind", [TextClassification, TextRegression, MultipleChoice, LanguageModeling])
def test_columns_that_are_called_as_the_tasks_own_stay(kind, caplog):
    caplog.set_level(logging.INFO)
    own = {"text": TEXT, "label": WHOLE, "question": TEXT, "choices": datasets.List(TEXT), "answer": WHOLE}
    assert options(kind, {**own, "sentence1": TEXT, "sentence2": TEXT, "score": WHOLE, "options": TEXT}) == {}
    assert caplog.text == ""


def test_a_column_that_the_user_names_is_never_another():
    columns = {"premise": TEXT, "hypothesis": TEXT, "sentence": TEXT, "intent": TEXT, "topic": TEXT}
    assert options(TextClassification, columns, text="premise", label="intent") == {}
    assert options(TextClassification, columns, text="nowhere", label="intent") == {}
    assert options(TextClassification, {**columns, "label": TEXT}, text="premise") == {}
    named = options(TextClassification, columns, text_pair="hypothesis", label="topic")
    assert named == {"text": "premise"}
    assert options(TextClassification, columns, text_pair="topic", label="intent") == {}


def test_a_column_that_serves_for_something_else_is_not_taken():
    columns = {"article": TEXT, "document": TEXT}
    assert options(TextGeneration, columns, answer="article") == {"prompt": "{document}"}


AMBIGUOUS = [
    (TextClassification, {"sentence": TEXT, "premise": TEXT, "hypothesis": TEXT, "label": WHOLE},
     ["task.text=text", "task.text=premise task.text_pair=hypothesis or task.text=sentence"]),
    (TextClassification, {"text": TEXT, "coarse_label": NAMED, "fine_label": NAMED},
     ["task.label=label", "task.label=coarse_label or task.label=fine_label"]),
    (TokenClassification, {"tokens": datasets.List(TEXT), "pos_tags": datasets.List(WHOLE),
                           "ner_tags": datasets.List(WHOLE)}, ["task.label=ner_tags or task.label=pos_tags"]),
    (TextGeneration, {"instruction": TEXT, "input": TEXT, "output": TEXT},
     ["task.prompt='{input}' or task.prompt='{instruction}'"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "columns", "says"), AMBIGUOUS)
def test_where_several_columns_may_be_meant_all_are_named(kind, columns, says):
    with pytest.raises(DataError) as error:
        options(kind, columns)
    for part in says:
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("kind", "columns"),
    [
        (TextClassification, {"sentence": WHOLE, "score": FLOAT}),
        (TextClassification, {"sentence1": TEXT, "sentence2": WHOLE, "target": datasets.Value("bool")}),
        (TextRegression, {"text": TEXT, "score": TEXT}),
        (TextRegression, {"text": TEXT, "labels": NAMED}),
        (TokenClassification, {"words": TEXT, "ner_tags": WHOLE}),
        (MultilabelClassification, {"text": TEXT, "label": WHOLE}),
        (ImageClassification, {"img": WHOLE, "class": FLOAT}),
        (MultipleChoice, {"query": WHOLE, "options": TEXT, "gold": FLOAT}),
        (LanguageModeling, {"content": datasets.List(TEXT)}),
    ],
)
def test_a_column_whose_kind_does_not_fit_is_never_taken(kind, columns):
    assert options(kind, columns) == {}


def test_each_of_several_tasks_has_columns_of_its_own(tmp_path):
    (tmp_path / "one.csv").write_text("sentence,label\na,0\nb,1\n")
    (tmp_path / "other.csv").write_text("text,intent\na,0\nb,1\n")
    accuracy = metrics.load("accuracy")
    tasks = {
        name: TextClassification(Data(str(tmp_path / f"{name}.csv")), accuracy) for name in ("one", "other")
    }
    found: Any = find_columns(Several(tasks)).tasks
    assert (found["one"].text, found["one"].label) == ("sentence", "label")
    assert (found["other"].text, found["other"].label) == ("text", "intent")
    assert tasks["one"].text == "text"


def test_a_share_is_drawn_in_proportion_of_the_label_that_was_found(tmp_path, caplog):
    rows = "".join(f"w{number},{number % 10 == 0}\n" for number in range(50)).replace("True", "a")
    (tmp_path / "train.csv").write_text("text,intent\n" + rows.replace("False", "b"))
    task: Any = find_columns(
        Several.of(TextClassification(Data(str(tmp_path)), metrics.load("accuracy")))
    ).alone
    split = task.data.load_splits(task.stratify_column)["heldout"]
    assert "each intent in its proportion" in caplog.text
    assert sorted(split["intent"][:]) == ["a", *["b"] * 9]


# Whole runs


@pytest.fixture
def renamed(texts: Path, tmp_path: Path) -> Path:
    """The texts, with columns `sentence` and `intent`."""
    (tmp_path / "data").mkdir()
    for file in texts.glob("*.csv"):
        frame = pd.read_csv(file).rename(columns={"text": "sentence", "label": "intent"})
        frame.to_csv(tmp_path / "data" / file.name, index=False)
    return tmp_path / "data"


@pytest.mark.slow
def test_a_run_that_finds_its_columns_is_the_run_that_is_told_them(text_runs, renamed, tmp_path):
    words = (*own(text_runs, renamed), "pool.exclude=[c,d]")
    told = soupkitchen(*words, "task.text=sentence", "task.label=intent", "name=told", cwd=tmp_path)
    assert "taken are" not in told.stderr
    found = soupkitchen(*words, "name=found", cwd=tmp_path)
    assert "taken are task.text=sentence, task.label=intent" in found.stderr
    same(tmp_path / "results/told", tmp_path / "results/found")
    one, other = (
        [event.get("key") for event in events(tmp_path / "results" / name)] for name in ("told", "found")
    )
    assert one == other, "known by something else"
    assert len(set(one)) > 3


@pytest.mark.slow
def test_a_continued_run_takes_the_same_columns_or_none(text_runs, renamed, tmp_path):
    words = (*own(text_runs, renamed), "pool.exclude=[c,d]", "name=x")
    soupkitchen(*words, cwd=tmp_path)
    journal = tmp_path / "results/x/journal.jsonl"
    whole = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join(whole[:4]))  # as a kill leaves it
    (tmp_path / "results/x/leaderboard.csv").unlink()
    before = events(tmp_path / "results/x")
    for file in renamed.glob("*.csv"):  # another column is found now, and holds something else
        frame = pd.read_csv(file)
        frame = frame.assign(content=frame["sentence"].iloc[::-1].to_list())
        frame.drop(columns="sentence").to_csv(file, index=False)
    other = soupkitchen(*words, cwd=tmp_path, fails=True)
    assert "changed since this run began: data heldout" in other.stderr
    assert events(tmp_path / "results/x") == before
    for file in renamed.glob("*.csv"):
        frame = pd.read_csv(file)
        frame = frame.assign(sentence=frame["content"].iloc[::-1].to_list())
        frame.drop(columns="content").to_csv(file, index=False)
    continued = soupkitchen(*words, cwd=tmp_path)
    assert "continuing: " in continued.stderr
    assert len(events(tmp_path / "results/x")) == len(whole)
