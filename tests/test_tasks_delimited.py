"""Csv and tsv: each row is read as its writer meant it, or the file is refused."""

from __future__ import annotations

import csv
import io
import logging
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest
import torch
from tiny import tokenizer
from transformers import BertConfig, BertForSequenceClassification

from soupkitchen import metrics
from soupkitchen.errors import DataError
from soupkitchen.evaluation import find_columns, load_splits
from soupkitchen.tasks import Data, Several, TextClassification


def read(file: Path, content: str | bytes) -> dict[str, list[Any]]:
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return Data(str(file)).load("train").to_dict()


# Quotes


def test_quotes_of_a_tsv_as_it_is_published_are_text(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    texts = ["plain", '"w1 w2', 'w5 w6"', 'he said "w3" twice', '"all of it"', "a, b"]
    rows = "".join(f"{text}\t{number}\n" for number, text in enumerate(texts))
    assert read(tmp_path / "dev.tsv", f"text\tlabel\n{rows}") == {"text": texts, "label": list(range(6))}
    assert "dev.tsv: quotes in it are text" in caplog.text


def test_an_unclosed_quote_of_a_tsv_swallows_no_row_even_where_a_later_one_closes_it(tmp_path):
    content = 'text\tlabel\n"w1 w2\t1\nw3\t2\nw5 w6"\t3\n'
    assert read(tmp_path / "dev.tsv", content)["text"] == ['"w1 w2', "w3", 'w5 w6"']


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize(
    "odd", ["a\tb", "a\nb", 'say "a"', "a\r\n\r\nb", '"a" and\t"b"', "a, b; c|d", '""', "\u2028x\x0b\x85"]
)
def test_what_pandas_quoted_is_what_it_was(tmp_path, suffix, odd, quoting):
    frame = pd.DataFrame({"text": ["w1", odd, "w2"], "label": [0, 1, 2]})
    out = io.StringIO()
    frame.to_csv(out, sep="\t" if suffix == "tsv" else ",", index=False, quoting=quoting)
    found = read(tmp_path / f"dev.{suffix}", out.getvalue())
    assert found == frame.to_dict("list")


def test_cells_that_excel_quotes_for_their_commas_lose_the_quotes(tmp_path):
    content = 'text\tlabel\n"w1, w2"\t1\nw3\t2\n"w4, ""w5"""\t3\n'
    assert read(tmp_path / "one.tsv", content)["text"] == ["w1, w2", "w3", 'w4, "w5"']
    assert read(tmp_path / "two.tsv", content.replace('""', ""))["text"] == ["w1, w2", "w3", "w4, w5"]


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.csv", 'text,label\nw,0\n"w1 w2,1\nw3,2\nw4,3\n', 3),
        ("a.csv", 'text,label\n"two\nlines",0\n"w1" w2,1\n', 4),
        ("a.csv", 'text,label\r"w1 \\"w2\\"",1\r', 2),
        ("a.csv", 'text,label\nw1,"', 2),
        ("a.tsv", 'text\tlabel\n"say ""w1"""\t0\n"w2\t1\n', 3),
        ("a.tsv", '"text"\t"label"\n"w1"\t0\n"w2\t1\n', 3),
        ("a.tsv", 'text\tlabel\n"say ""w1"""\t0\n5" of w2\t1\n', 3),
        ("a.tsv", 'text\n"two\nlines"\n', 2),
    ],
)
def test_quotes_that_do_not_balance_are_refused_with_their_line(tmp_path, name, content, line):
    with pytest.raises(DataError, match=rf"{name}: the quotes of line {line} do not balance"):
        read(tmp_path / name, content)


# Rows


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("last", [True, False])
def test_line_ends_empty_lines_and_nul_bytes_lose_nothing(tmp_path, end, last):
    lines = ["", "text,label", "", "w1\0w2,1", "", "", "w3,2", "w4,"]
    content = end.join(lines) + end * last
    assert read(tmp_path / "a.csv", content) == {"text": ["w1\0w2", "w3", "w4"], "label": [1, 2, None]}


@pytest.mark.parametrize(
    ("row", "says"),
    [("w1,1,2", "line 3 has 3 cells"), ("w1", "line 3 has 1 cell,"), ("  ", "line 3 has 1 cell,")],
)
def test_a_row_with_more_or_fewer_cells_is_refused_with_its_line(tmp_path, row, says):
    with pytest.raises(DataError, match=rf"a\.csv: {says}.*the header 2"):
        read(tmp_path / "a.csv", f"text,label\nw,0\n{row}\nw,0\n")


def test_two_columns_of_one_name_are_refused(tmp_path):
    with pytest.raises(DataError, match="two columns called 'text'"):
        read(tmp_path / "a.csv", "text,text\nw1,w2\n")


def test_a_column_has_one_type_however_far_down_what_decides_it_stands(tmp_path):
    many = "".join(f"{number},{number / 2}\n" for number in range(150_000))
    found = read(tmp_path / "a.csv", f"label,value\n{many}three,\n")
    assert set(map(type, found["label"])) == {str}
    assert found["value"][-2:] == [149_999 / 2, None]


# Cells


def test_only_an_empty_cell_is_missing(tmp_path):
    names = ["None", "NA", "null", "nan", "N/A", "#N/A", "NULL", "", "-"]
    rows = "".join(f"{name},{name}\n" for name in names)
    found = read(tmp_path / "a.csv", f"text,label\n{rows}")
    assert found["text"] == found["label"] == [name or None for name in names]


@pytest.mark.parametrize(
    ("cells", "values"),
    [
        (["1", "", "-3"], [1, None, -3]),
        (["1", " 2", "0.5", "1e-3", ""], [1.0, 2.0, 0.5, 0.001, None]),
        (["True", "false", ""], [True, False, None]),
        (["1", "2", "nan"], ["1", "2", "nan"]),
        (["0.5", "NA"], ["0.5", "NA"]),
        (["007", "010"], ["007", "010"]),
        (["12345678901234567890", "1"], ["12345678901234567890", "1"]),
        (["2020-01-02", "2020-01-03"], ["2020-01-02", "2020-01-03"]),
        (["12:00", "13:00"], ["12:00", "13:00"]),
        (["0,5", "1,5"], ["0,5", "1,5"]),
        (["true", "1"], ["true", "1"]),
    ],
)
def test_texts_become_numbers_only_if_nothing_is_lost(tmp_path, cells, values):
    found = read(tmp_path / "a.tsv", "text\tlabel\n" + "".join(f"w\t{cell}\n" for cell in cells))["label"]
    assert found == values
    assert list(map(type, found)) == list(map(type, values))


# Delimiters and encodings


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1"]
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_what_spreadsheets_save_is_read_and_said(tmp_path, caplog, encoding, delimiter, suffix):
    caplog.set_level(logging.INFO)
    frame = pd.DataFrame({"text": ["Grüße", "naïve; w1, w2\tw3"], "label": ["façade", "x"]})
    file = tmp_path / f"dev.{suffix}"
    frame.to_csv(file, sep=delimiter, index=False, encoding=encoding)
    assert Data(str(file)).load("train").to_dict() == frame.to_dict("list")
    usual = {"csv": ",", "tsv": "\t"}[suffix]
    assert ("are separated by" in caplog.text) == (delimiter != usual)
    assert ("read as" in caplog.text) == (not encoding.startswith("utf-8"))


def test_what_was_found_is_said_by_the_next_command_too(tmp_path, caplog):
    from soupkitchen.tasks import files

    caplog.set_level(logging.INFO)
    for _ in range(2):
        files._say_once.cache_clear()
        caplog.clear()
        read(tmp_path / "a.csv", "text;label\nw;1\n")
        assert caplog.text.count("its cells are separated by ';'") == 1


# Splits that competitions and the hub publish


def labelled(tmp_path: Path, **files: pd.DataFrame) -> Several:
    for name, frame in files.items():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    return find_columns(Several.of(TextClassification(Data(str(tmp_path)), metrics.load("accuracy"))))


FRAME = pd.DataFrame({"text": ["w1", "w2", "w3"] * 4, "label": [0, 1, 2] * 4})


@pytest.mark.parametrize(
    ("test", "says"),
    [
        (FRAME[["text"]].assign(id=1), "it has no column label"),
        (FRAME.assign(label=-1), "its label is empty or -1"),
        (FRAME.assign(label=None), "its label is empty or -1"),
        (FRAME.rename(columns={"text": "words"}), "it has no column text"),
    ],
)
def test_a_test_split_without_labels_is_left_out_and_said(tmp_path, caplog, test, says):
    submission = pd.DataFrame({"id": [1], "label": ["w"]})
    tasks = labelled(tmp_path, train=FRAME, dev=FRAME, test=test, sample_submission=submission)
    assert set(load_splits(tasks)) == {"heldout"}
    assert "is left out" in caplog.text
    assert says in caplog.text
    assert "task.data.test=null" in caplog.text


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "saved"])
def test_so_it_is_in_every_format(tmp_path, suffix):
    frames = {"train": FRAME, "validation": FRAME, "test": FRAME.assign(label=-1)}
    if suffix == "saved":
        datasets.DatasetDict(
            {name: datasets.Dataset.from_pandas(frame) for name, frame in frames.items()}
        ).save_to_disk(tmp_path)
    else:
        frames["test"] = FRAME[["text"]].assign(number=1)
        for name, frame in frames.items():
            file = tmp_path / f"{name}.{suffix}"
            frame.to_parquet(file) if suffix == "parquet" else frame.to_json(
                file, orient="records", lines=True
            )
    tasks = labelled(tmp_path)
    assert set(load_splits(tasks)) == {"heldout"}


def test_a_test_split_that_the_user_names_is_never_left_out(tmp_path):
    for name, frame in {"dev": FRAME, "test": FRAME[["text"]]}.items():
        frame.to_csv(tmp_path / f"{name}.csv", index=False)
    data = Data(str(tmp_path), test="test")
    tasks = find_columns(Several.of(TextClassification(data, metrics.load("accuracy"))))
    assert set(load_splits(tasks)) == {"heldout", "test"}


def test_without_a_test_split_its_file_is_not_read(tmp_path):
    FRAME.to_csv(tmp_path / "dev.csv", index=False)
    (tmp_path / "test.csv").write_bytes(b'id;"\xff\0')
    assert set(Data(str(tmp_path), test=None).load_splits()) == {"heldout"}
    with pytest.raises(DataError, match=r"test\.csv"):
        Data(str(tmp_path)).load_splits()


def test_a_table_beside_a_folder_of_images_is_what_is_read(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "1.png").write_bytes(b"")
    FRAME.to_csv(tmp_path / "train.csv", index=False)
    assert len(Data(str(tmp_path), heldout="train").load_splits()["heldout"]) == len(FRAME)


def test_splits_may_be_of_several_formats(tmp_path):
    FRAME.to_csv(tmp_path / "dev.tsv", index=False, sep="\t")
    FRAME.to_json(tmp_path / "test.jsonl", orient="records", lines=True)
    splits = Data(str(tmp_path)).load_splits()
    assert splits["heldout"].to_dict() == splits["test"].to_dict() == FRAME.to_dict("list")


def test_a_class_called_none_is_scored_as_what_it_is(tmp_path):
    names = ["apples", "None", "NA"]
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=99, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        id2label=dict(enumerate(names)), label2id={name: number for number, name in enumerate(names)},
    )  # fmt: skip
    frame = pd.DataFrame({"text": ["w1", "NA", "null"], "label": names})
    frame.to_csv(tmp_path / "dev.csv", index=False)
    task = TextClassification(Data(str(tmp_path)), metrics.load("accuracy"))
    model: Any = BertForSequenceClassification(config)
    prepared = task.prepare(task.data.load("dev"), tokenizer(), model)
    assert prepared["labels"][:] == [0, 1, 2]
