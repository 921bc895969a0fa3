"""What labels of data mean: each form of them in each format, against labels that are mapped by hand.

A column is right or refused, nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
from command import soupkitchen
from tiny import LABELS, make_texts, save_tokenizer, shake, text_classifier
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig

from soupkitchen import tasks
from soupkitchen.errors import ConfigError, DataError
from soupkitchen.tasks import Data
from soupkitchen.tasks.labels import values_of

WORDS = ("apples", "boats", "clouds")
LABEL_N = ("LABEL_0", "LABEL_1", "LABEL_2")
TWO = ("LABEL_0", "LABEL_1")
DIGITS = ("1", "2", "3")
TRUTH = np.random.default_rng(0).integers(0, 3, 24).tolist()
FEW = [min(number, 1) for number in TRUTH]
WAYS = "read in two ways.*task.labels=indices.*task.labels={"
TEXT: Any = tasks.text_classification("-")
IMAGE: Any = tasks.image_classification("-")
TAGS: Any = tasks.token_classification("-")
SETS_OF: Any = tasks.multilabel_classification("-")
FORMATS = ("csv", "tsv", "jsonl", "parquet", "saved")


def model(names: Sequence[Any], **config: Any) -> Any:
    """What a task asks of a model whose labels have these names."""
    return SimpleNamespace(config=BertConfig(id2label=dict(enumerate(names)), **config))


def named(truth: Sequence[int], names: Sequence[Any]) -> list[Any]:
    return [names[number] for number in truth]


Form = tuple[list[Any], Sequence[Any], list[int] | str]
"""Labels in the data, names of the model's, and their numbers or why they are refused."""

PLAIN: Mapping[str, Form] = {
    "names": (named(TRUTH, WORDS), WORDS, TRUTH),
    "names, another case and space": (named(TRUTH, ("Apples ", "BOATS", "clouds")), WORDS, TRUTH),
    "names, two of which are one": (
        named(TRUTH, ("apples", "Apples", "clouds")), WORDS, r"'Apples' .* would both be 'apples'",
    ),
    "names, one less": (named(FEW, WORDS), WORDS, FEW),
    "names, one more": (
        [*named(TRUTH, WORDS), "pears", "pears"], WORDS, r"no label 'pears' \(2 rows, the first is row 25\)",
    ),
    "names for a model without": (named(TRUTH, WORDS), LABEL_N, "no label '(apples|boats|clouds)'"),
    "names that are the default": (named(TRUTH, LABEL_N), LABEL_N, TRUTH),
    "digits as names": (named(TRUTH, (1, 2, 3)), DIGITS, TRUTH),
    "digits as names, in another order": (named(TRUTH, (3, 1, 2)), ("3", "1", "2"), TRUTH),
    "digits as names, one less": (named(FEW, (1, 2)), DIGITS, f"{WAYS}"),
    "digits as names, one more": (named(TRUTH, (1, 2, 4)), DIGITS, r"4 is no label .*\d row"),
    "digits as names, counted from 0": (TRUTH, DIGITS, "0 is no label .*task.labels=indices takes labels"),
    "digits as names that are their numbers": (TRUTH, ("0", "1", "2"), TRUTH),
    "digits as names that are swapped numbers": (FEW, ("1", "0"), WAYS),
    "digits below 0 as names": (named(TRUTH, (-1, 0, 1)), ("-1", "0", "1"), TRUTH),
    "digits below 0 as names, one less": (FEW, ("-1", "0", "1"), WAYS),
    "digits with a fraction as names": (named(TRUTH, (1, 2, 3)), ("1.0", "2.0", "3.0"), TRUTH),
    "digits in names": (named(TRUTH, (1, 2, 3)), ("1 star", "2 stars", "3 stars"), "3 is no label"),
    "digits in names, one less": (named(FEW, (1, 2)), ("1 star", "2 stars", "3 stars"), WAYS),
    "digits in names that are their numbers": (
        named(FEW, (1, 2)), ("grade 0", "1st grade", "grade 2"), named(FEW, (1, 2)),
    ),
    "names beside digits": (
        named(TRUTH, ("1", "unknown", "2")), ("1", "2", "unknown"), named(TRUTH, (0, 2, 1)),
    ),
    "indices": (TRUTH, WORDS, TRUTH),
    "indices as fractions": ([float(number) for number in TRUTH], WORDS, TRUTH),
    "indices, one less": (FEW, WORDS, FEW),
    "indices, none 0": (named(FEW, (1, 2)), WORDS, r"counted from 1 \(no row has 0\) it is 'apples'.*boats"),
    "indices, none 0, for a model without names": (named(FEW, (1, 2)), LABEL_N, named(FEW, (1, 2))),
    "indices, one more": ([*TRUTH, 3, 3], WORDS, r"3 is no label .*2 rows, the first is row 25"),
    "indices below 0": ([*TRUTH, -1], WORDS, "-1 is no label"),
    "indices of swapped default names": (FEW, ("LABEL_1", "LABEL_0"), WAYS),
    "fractions": ([*TRUTH, 0.5], WORDS, "0.5 is no label"),
    "booleans": (named(FEW, (False, True)), ("False", "True"), FEW),
    "booleans, in another order and case": (named(FEW, (True, False)), ("true", "false"), FEW),
    "booleans for yes and no": (named(FEW, (False, True)), ("no", "yes"), FEW),
    "booleans for yes and no, in another order": (named(FEW, (False, True)), ("yes", "no"), WAYS),
    "booleans for a word and its contrary": (named(FEW, (False, True)), ("toxic", "non-toxic"), WAYS),
    "booleans for two words": (named(FEW, (False, True)), ("ham", "spam"), FEW),
    "booleans for a model without names": (named(FEW, (False, True)), TWO, FEW),
    "booleans for three labels": (named(FEW, (False, True)), WORDS, "(True|False) is no label"),
    "one name twice": (named(TRUTH, WORDS), ("apples", "apples", "clouds"), "no label .*'apples'.*one name"),
}  # fmt: skip
FEATURES: Mapping[str, tuple[list[str], list[int], Sequence[str], list[int] | str]] = {
    "class labels": (list(WORDS), TRUTH, WORDS, TRUTH),
    "class labels, in another order": (["clouds", "apples", "boats"], TRUTH, WORDS, named(TRUTH, (2, 0, 1))),
    "class labels, in another case": (["CLOUDS", "Apples", "boats"], TRUTH, WORDS, named(TRUTH, (2, 0, 1))),
    "class labels, one less": (["boats", "clouds"], FEW, WORDS, named(FEW, (1, 2))),
    "class labels, one more": (["a", *WORDS], [0, *TRUTH], WORDS, r"no label 'a' \("),
    "class labels, one more that is in no row": (["boats", "clouds", "a"], FEW, WORDS, named(FEW, (1, 2))),
    "class labels with other names": (["a", "b", "c"], TRUTH, WORDS, "no label .*task.labels=indices"),
    "class labels for a model without names": (["a", "b", "c"], TRUTH, LABEL_N, TRUTH),
    "class labels, one less, for a model without names": (["b", "c"], FEW, LABEL_N, "numbers may differ"),
    "class labels that are digits as names": (["3", "1", "2"], TRUTH, DIGITS, named(TRUTH, (2, 0, 1))),
    "class labels that are their numbers": (["0", "1", "2"], TRUTH, WORDS, TRUTH),
    "class labels that are digits of other numbers": (["1", "2", "3"], FEW, LABEL_N, WAYS),
    "class labels that are sorted digits": (["0", "10", "2"], TRUTH, LABEL_N, "(10|2) is no|two ways"),
    "class labels of which one is missing": (list(WORDS), [*TRUTH, -1], WORDS, r"row 25 has no label \(-1\)"),
}


def written(folder: Path, name: str, how: str, columns: Mapping[str, Any]) -> datasets.Dataset:
    """A table that was written to a file of one format, and read again."""
    table, file = datasets.Dataset.from_dict(columns), folder / f"{name}.{how}"
    if how == "saved":
        table.save_to_disk(str(file))
    elif how == "parquet":
        table.to_parquet(str(file))
    elif how == "jsonl":
        table.to_json(str(file))
    else:
        pd.DataFrame(dict(columns)).to_csv(file, index=False, sep="\t" if how == "tsv" else ",")
    return Data(str(file)).load("train")


def check(task: Any, split: datasets.Dataset, of: Any, wanted: Any) -> None:
    """Labels are the wanted ones, or refused in words that have `wanted` in them."""
    if isinstance(wanted, str):
        with pytest.raises(DataError, match=wanted):
            task.with_labels({"heldout": split}, of)
    else:
        read = task.with_labels({"heldout": split}, of)
        encode = getattr(read, "encode_labels", read.encoded)
        assert (encode(split, of)) == wanted


def tables(folder: Path, forms: Mapping[str, Any], how: str) -> list[tuple[str, datasets.Dataset]]:
    """Each form with a table that has it as a column."""
    made = []
    for size in {len(form[0]) for form in forms.values()}:
        columns = {form: values for form, (values, *_) in forms.items() if len(values) == size}
        split = written(folder, str(size), how, columns)
        made += [(form, split) for form in columns]
    return made


@pytest.mark.parametrize("how", FORMATS)
def test_labels_of_texts_and_images_are_right_or_refused(how, tmp_path):
    for form, split in tables(tmp_path, PLAIN, how):
        _, names, wanted = PLAIN[form]
        check(replace(TEXT, label=form), split, model(names), wanted)
        check(replace(IMAGE, label=form), split, model(names), wanted)


@pytest.mark.parametrize("form", FEATURES)
def test_class_labels_are_matched_by_name(form, tmp_path):
    names, values, of, wanted = FEATURES[form]
    split = datasets.Dataset.from_dict({"label": values}).cast_column(
        "label", datasets.ClassLabel(names=names)
    )
    split.to_parquet(str(tmp_path / "a.parquet"))
    for told in (split, Data(str(tmp_path / "a.parquet")).load("train")):
        check(TEXT, told, model(of), wanted)
        check(IMAGE, told, model(of), wanted)


# Lists


@pytest.mark.parametrize("how", FORMATS)
def test_tags_are_right_or_refused(how, tmp_path):
    lists = {form: ([[value, value] for value in values], *rest) for form, (values, *rest) in PLAIN.items()}
    for form, split in tables(tmp_path, lists, how):
        _, names, wanted = PLAIN[form]
        task: Any = replace(TAGS, label=form)
        if isinstance(wanted, str):
            check(task, split, model(names), wanted)
        else:
            reading = task.with_labels({"heldout": split}, model(names)).read_as(split, None)
            assert [reading[tags[1]] for tags in values_of(split, form, "tags")] == wanted, form


def hot(*rows: Sequence[int], size: int = 3) -> list[list[int]]:
    return [[int(number in row) for number in range(size)] for row in rows]


SETS: Mapping[str, tuple[list[Any], Sequence[str], list[list[int]] | str]] = {
    "names": ([["boats"], ["apples", "clouds"], []], WORDS, hot([1], [0, 2], [])),
    "names, another case": ([["Boats"], ["APPLES", "clouds"]], WORDS, hot([1], [0, 2])),
    "names, one more": ([["boats", "pears"], ["pears"]], WORDS, r"no label 'pears' \(2 rows"),
    "indices": ([[1], [0, 2], []], WORDS, hot([1], [0, 2], [])),
    "indices, none 0": ([[1], [1, 2]], WORDS, "counted from 1"),
    "indices, one more": ([[1], [0, 3]], WORDS, "3 is no label"),
    "digits as names": ([[2], [1, 3]], DIGITS, hot([1], [0, 2])),
    "digits as names, one less": ([[2], [1, 2]], DIGITS, WAYS),
    "vectors": ([[0, 1, 0], [1, 0, 1], [0, 0, 0]], WORDS, [[0, 1, 0], [1, 0, 1], [0, 0, 0]]),
    "vectors of fractions": ([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0]], WORDS, [[0, 1, 0], [1, 0, 1]]),
    "vectors of booleans": ([[False, True, False], [True, False, True]], WORDS, [[0, 1, 0], [1, 0, 1]]),
    "vectors for digits": ([[0, 1, 0], [1, 0, 1]], ("0", "1", "2"), [[0, 1, 0], [1, 0, 1]]),
    "vectors for two labels": ([[0, 1], [1, 1]], WORDS[:2], [[0, 1], [1, 1]]),
    "vectors that may be numbers": ([[0, 1], [1, 0]], WORDS[:2], r"two ways.*task.labels=vectors"),
    "vectors, one less": ([[0, 1], [1, 1]], WORDS, "one for each of the model's 3 labels"),
    "vectors, one more": ([[0, 1, 0, 0], [1, 0, 1, 1]], WORDS, "one for each of the model's 3 labels"),
    "booleans, one less": ([[False, True], [True, False]], WORDS, "one for each of the model's 3 labels"),
    "probabilities": ([[0.0, 0.5, 0.0], [1.0, 0.0, 1.0]], WORDS, "0.5 is no label"),
}


@pytest.mark.parametrize("how", FORMATS)
def test_sets_of_labels_are_right_or_refused(how, tmp_path):
    for form, split in tables(tmp_path, SETS, how):
        _, names, wanted = SETS[form]
        check(replace(SETS_OF, label=form), split, model(names), wanted)


def test_lists_of_class_labels_are_matched_by_name():
    feature = datasets.List(datasets.ClassLabel(names=["clouds", "Apples", "boats"]))
    split = datasets.Dataset.from_dict({"labels": [[0], [1, 2]]}, datasets.Features(labels=feature))
    check(SETS_OF, split, model(WORDS), hot([2], [0, 1]))
    check(SETS_OF, split, model(LABEL_N), hot([0], [1, 2]))
    check(SETS_OF, split, model(("a", "b", "c")), "no label .*task.labels=indices")


def test_text_that_is_no_list_is_refused():
    split = datasets.Dataset.from_dict({"labels": ["toxic,obscene"]})
    check(SETS_OF, split, model(WORDS), r"should be a list .*columns of 0 and 1")


COLUMNS = {"clouds": [0, 1, 1], "Apples": [1.0, 0.0, 1.0], "boats": [True, False, True], "id": [7, 8, 9]}


@pytest.mark.parametrize("how", FORMATS)
def test_columns_of_0_and_1_are_labels(how, tmp_path):
    split = written(tmp_path, "a", how, COLUMNS)
    rows = [[1, 1, 0], [0, 0, 1], [1, 1, 1]]
    columns = ["clouds", "Apples", "boats"]
    task = tasks.multilabel_classification("-", labels=columns)
    check(task, split, model(WORDS), rows)
    check(task, split, model(LABEL_N), [[row[2], row[0], row[1]] for row in rows])
    for wrong, says in {
        ("clouds", "boats"): "'apples' has no column",
        ("clouds", "boats", "Apples", "id"): "'id' is none",
    }.items():
        with pytest.raises(ConfigError, match=says):
            tasks.multilabel_classification("-", labels=list(wrong)).with_labels({"": split}, model(WORDS))
    other = tasks.multilabel_classification("-", labels=["clouds", "id", "boats"])
    with pytest.raises(DataError, match="row 1 of the column id holds 7"):
        other.encode_labels(split, model(LABEL_N))


# Pairs and choices


@pytest.mark.parametrize(
    ("names", "values", "wanted"),
    [
        (["not_equivalent", "equivalent"], FEW, FEW),
        (["entailment", "not_entailment"], FEW, named(FEW, (1, 0))),
        (["1", "0"], FEW, named(FEW, (1, 0))),
        (["other", "same"], FEW, "row 1 holds .* which should be 0 or 1.*task.labels"),
        (None, FEW, FEW),
        (None, named(FEW, ("0", "1")), FEW),
        (None, named(FEW, ("no", "yes")), FEW),
        (None, named(FEW, (False, True)), FEW),
        (None, named(FEW, ("other", "same")), "which should be 0 or 1"),
        (None, TRUTH, "row . holds 2, which should be 0 or 1"),
    ],
)
def test_labels_of_pairs_say_what_belongs_together(names, values, wanted):
    split = datasets.Dataset.from_dict({"label": values})
    if names is not None:
        split = split.cast_column("label", datasets.ClassLabel(names=names))
    task: Any = tasks.pair_classification("-")
    if isinstance(wanted, str):
        with pytest.raises(DataError, match=wanted):
            task.encode_labels(split)
    else:
        assert task.with_labels({"": split}, None).encode_labels(split) == wanted
    if names == ["other", "same"]:
        by_hand = tasks.pair_classification("-", labels={"same": 1, "other": 0})
        assert by_hand.encode_labels(split) == FEW


@pytest.mark.parametrize(
    ("answers", "choices", "wanted"),
    [
        ([1, 0], ["a", "b"], [1, 0]),
        (["B", "a"], ["x", "y"], [1, 0]),
        (["y", "x"], ["x", "y"], [1, 0]),
        (["B", "A"], ["A", "B"], [1, 0]),
        (["B", "A"], ["B", "A"], r"by its text choice 0, and by number choice 1.*task.labels"),
        ([1, 2], ["1", "2", "3"], r"by its text choice 0, and by number choice 1"),
        ([2, 3], ["1", "2", "3"], [1, 2]),
        ([0, 1], ["0", "1"], [0, 1]),
        ([1, 1], ["x", "y", "z"], r"counted from 1 \(no answer is 0\) choice 0, and by number choice 1"),
        (["A", "3"], ["x", "y", "z", "w"], "counted from 1"),  # as ARC mixes them
        ([1, 2], ["x", "y"], "2 is none of the choices"),
        (["A", "y"], ["x", "y"], "'y' is none of the choices"),
    ],
)
def test_answers_are_read_in_one_way(answers, choices, wanted):
    split = datasets.Dataset.from_dict({"choices": [choices] * len(answers), "answer": answers})
    task: Any = tasks.multiple_choice("-")
    if isinstance(wanted, str):
        with pytest.raises(DataError, match=wanted):
            task.reading({"": split}, None)
    else:
        reading = task.reading({"": split}, None)
        assert [task._right(answer, choices, reading) for answer in answers] == wanted
    by_hand: Any = tasks.multiple_choice("-", labels={"1": 0, "2": 1, "y": "y"})
    assert by_hand._right(1, ["x", "y"], by_hand.labels) == 0
    assert by_hand._right("y", ["x", "y"], by_hand.labels) == 1


@pytest.mark.parametrize(
    ("names", "wanted"), [(["1", "2"], [1.0, 2.0, 1.0]), (["a", "b"], "'a' .* no number")]
)
def test_class_labels_are_numbers_only_by_their_names(names, wanted):
    split = datasets.Dataset.from_dict({"label": [0, 1, 0]})
    split = split.cast_column("label", datasets.ClassLabel(names=names))
    task: Any = tasks.text_regression("-")
    if isinstance(wanted, str):
        with pytest.raises(DataError, match=wanted):
            task.encode_labels(split, model(["LABEL_0"]))
    else:
        assert task.encode_labels(split, model(["LABEL_0"])) == wanted


# What decides


def split_of(*values: Any) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"label": list(values)})


@pytest.mark.parametrize(
    ("labels", "values", "wanted"),
    [
        ("names", [1, 2], [0, 1]),
        ("indices", [1, 2], [1, 2]),
        ({1: "3", 2: "1"}, [1, 2], [2, 0]),
        ({"1": "3"}, [1, 2], [2, 1]),
        ({"one": "1", "Two": "2"}, ["one", "two"], [0, 1]),
        ({"two": "2"}, ["one", "two"], "no label 'one'"),
        ({True: "3", False: "1"}, [True, False], [2, 0]),
        ("indices", ["one", "two"], "no label 'one'"),
        ("names", [0, 1], "0 is no label"),
    ],
)
def test_the_option_decides(labels, values, wanted):
    check(tasks.text_classification("-", labels=labels), split_of(*values), model(DIGITS), wanted)


@pytest.mark.parametrize(
    ("labels", "says"), [({"a": "4"}, "no label '4'"), ({"a": 2}, "in quotes"), ({"a": 9}, "9")]
)
def test_an_option_that_names_no_label_is_refused(labels, says):
    with pytest.raises(ConfigError, match=says):
        tasks.text_classification("-", labels=labels).with_labels({"": split_of("a")}, model(DIGITS))


@pytest.mark.parametrize("labels", ["name", ["a"], {}, {"a": None}, 3])
def test_an_option_of_another_kind_is_refused(labels):
    with pytest.raises(ConfigError, match=r"task\.labels"):
        tasks.text_classification("-", labels=labels)


def test_all_splits_are_read_alike():
    task: Any = TEXT
    whole, few = split_of(1, 2, 3), split_of(1, 2)
    read = task.with_labels({"heldout": whole, "test": few}, model(DIGITS))
    assert read.encode_labels(few, model(DIGITS)) == [0, 1]
    for other, says in {
        split_of(0): "0 is no label of the model .*row 1 of test",
        split_of("a"): "mixed",
        split_of(True): "mixed",
    }.items():
        with pytest.raises(DataError, match=says):
            task.with_labels({"heldout": split_of(3), "test": other}, model(DIGITS))
    feature = [datasets.ClassLabel(names=names) for names in (["boats", "apples"], ["apples", "boats"])]
    one, other = (split_of(0, 1).cast_column("label", kind) for kind in feature)
    read = task.with_labels({"heldout": one, "test": other}, model(WORDS))
    assert (read.encode_labels(one, None), read.encode_labels(other, None)) == ([1, 0], [0, 1])
    with pytest.raises(DataError, match="no label"):
        task.with_labels({"heldout": one, "test": other}, model(TWO))


@pytest.mark.parametrize(
    ("config", "values", "wanted"),
    [
        ({"label2id": {"apples": 1, "boats": 0, "clouds": 2}}, ["boats"], "number 'apples' differently"),
        ({"label2id": {"apples": 1, "boats": 0, "clouds": 2}}, [0, 1], [0, 1]),
        ({"label2id": {name: n for n, name in enumerate(LABEL_N)}}, ["boats"], [1]),
    ],
)
def test_names_are_those_of_id2label(config, values, wanted):
    check(TEXT, split_of(*values), model(WORDS, **config), wanted)


def test_the_log_says_how_labels_are_read(caplog):
    caplog.set_level(logging.INFO)
    task = TEXT
    task.with_labels({"": split_of("Boats")}, model(WORDS))
    task.with_labels({"": split_of(0, 1)}, model(WORDS))
    assert "'Boats' is 'boats' (label 1)" in caplog.text
    assert "taken as numbers of the model's: 0 is 'apples' (label 0), 1 is 'boats' (label 1)" in caplog.text
    caplog.clear()
    task.with_labels({"": split_of("boats")}, model(WORDS))
    task.with_labels({"": split_of(0, 1)}, model(LABEL_N))
    assert caplog.text == ""


# Whole runs, against plain transformers and scikit-learn


def pool(folder: Path, names: Sequence[str]) -> Path:
    for seed, run in enumerate("ab"):
        made = text_classifier(tuple(names))
        torch.manual_seed(seed)
        shake(made, 0.5)
        made.save_pretrained(folder / "runs" / run)
        save_tokenizer(folder / "runs" / run)
    return folder


def told(folder: Path, *words: str, fails: bool = False) -> Any:
    common = ("pool.path=runs", "task.data.path=dev.csv", "task.data.heldout=train", "evaluation.cache=null")
    done = soupkitchen(*common, "report.write=false", "name=x", *words, cwd=folder, fails=fails)
    if fails:
        return done.stderr
    return pd.read_csv(folder / "results/x/leaderboard.csv").set_index("model").iloc[:, 3].loc["a"]


def logits(folder: Path, texts: Sequence[str]) -> np.ndarray:
    made = AutoModelForSequenceClassification.from_pretrained(folder / "runs/a").eval()
    encode = AutoTokenizer.from_pretrained(folder / "runs/a")
    with torch.inference_mode():
        return torch.cat([made(**encode(text, return_tensors="pt")).logits for text in texts]).numpy()


@pytest.mark.slow
def test_stars_are_scored_as_scikit_learn_scores_them(tmp_path):
    table = make_texts(40, 1)
    table.loc[0, "text"] = "w1"
    stars = [3, *(1 + (label == LABELS[0]) for label in table["label"][1:])]
    table.assign(label=stars).to_csv(pool(tmp_path, DIGITS) / "dev.csv", index=False)
    found = logits(tmp_path, table["text"]).argmax(-1)
    expected = sklearn.metrics.f1_score(stars, 1 + found, average="macro")
    words = ("task=text_classification", "task.metric.name=f1_macro")
    # the batch that the saved soup is checked with has no 3, and is read as all examples are
    assert told(tmp_path, *words, "runtime.batch_size=8") == pytest.approx(expected)
    swapped = {1: 1, 2: 0, 3: 2}
    expected = sklearn.metrics.f1_score([swapped[star] for star in stars], found, average="macro")
    words = (*words, "overwrite=true", "task.labels={1: '2', 2: '1'}")
    assert told(tmp_path, *words) == pytest.approx(expected)


@pytest.mark.slow
def test_columns_of_0_and_1_are_scored_as_scikit_learn_scores_them(tmp_path):
    names, random = ("toxic", "obscene", "threat"), np.random.default_rng(0)
    flags = pd.DataFrame(random.integers(0, 2, (40, 3)), columns=names)
    table = make_texts(40, 1).drop(columns="label")
    pd.concat([table, flags], axis=1).to_csv(pool(tmp_path, names) / "dev.csv", index=False)
    expected = sklearn.metrics.f1_score(flags, logits(tmp_path, table["text"]) >= 0, average="micro")
    columns = "task.labels=[threat,toxic,obscene]"
    assert told(tmp_path, "task=multilabel_classification", columns) == pytest.approx(expected)
    error = told(
        tmp_path, "task=multilabel_classification", "task.labels=[toxic]", "overwrite=true", fails=True
    )
    assert "'obscene' has no column" in error
