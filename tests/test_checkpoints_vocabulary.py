"""What tokenizers say is read once where it is the same, and compared by what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny import llama, text_classifier

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.checkpoints.folders import vocabulary_difference, vocabulary_of
from soupkitchen.checkpoints.names import architecture, parameter_names, rows_of_labels
from soupkitchen.errors import CheckpointError


def write(folder: Path, vocabulary: Any, **more: Any) -> Path:
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}, **more}))
    return folder


def test_files_that_are_alike_are_read_into_one(tmp_path):
    one, other = (vocabulary_of(write(tmp_path / name, {"a": 0, "b": 1})) for name in "xy")
    assert one is other
    assert one == {"a": 0, "b": 1}


def test_what_is_written_otherwise_and_says_the_same_is_no_difference(tmp_path):
    added = [{"content": "c", "id": 2}]
    one = vocabulary_of(write(tmp_path / "x", {"a": 0, "b": 1, "c": 2}))
    other = vocabulary_of(write(tmp_path / "y", [["a", -1.0], ["b", -2.0]], added_tokens=added))
    assert one is not None
    assert other is not None
    assert one is not other
    assert one.frozen == other.frozen
    assert vocabulary_difference(one, other) is None
    third = vocabulary_of(write(tmp_path / "z", {"a": 0, "b": 2}))
    assert (
        vocabulary_difference(third, one) == "its tokenizer gives other numbers to 2 tokens: 'b' is 2, not 1"
    )


def test_tokenizers_of_different_kinds_cannot_be_told_apart(tmp_path):
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "spiece.model").write_bytes(b"pieces")
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "vocab.txt").write_text("a\nb\n")
    files, plain = vocabulary_of(tmp_path / "x"), vocabulary_of(tmp_path / "y")
    assert plain == {"a": 0, "b": 1}
    assert vocabulary_difference(files, plain) is None
    assert vocabulary_difference(files, vocabulary_of(tmp_path)) is None


def test_what_is_no_tokenizer_is_named(tmp_path):
    folder = write(tmp_path / "x", {"a": "one"})
    with pytest.raises(CheckpointError, match=r"tokenizer\.json gives 'a' the number 'one'"):
        vocabulary_of(folder)


def test_another_tokenizer_in_the_same_folder_is_read_anew(tmp_path):
    folder = write(tmp_path / "x", {"a": 0, "b": 1})
    first = vocabulary_of(folder)
    assert vocabulary_of(folder) is first
    (tmp_path / "new").write_text(json.dumps({"model": {"vocab": {"b": 0, "a": 1}}}))
    (tmp_path / "new").replace(folder / "tokenizer.json")
    assert vocabulary_of(folder) == {"b": 0, "a": 1}


def test_another_model_in_the_same_folder_is_another_architecture(tmp_path):
    text_classifier().save_pretrained(tmp_path)
    first, heads = architecture(tmp_path), rows_of_labels(tmp_path, 3)
    assert architecture(tmp_path) is first
    assert heads == {"classifier.weight", "classifier.bias"}
    header = Checkpoint.open(tmp_path).header
    names = parameter_names(tmp_path, header)
    llama().save_pretrained(tmp_path)
    assert type(architecture(tmp_path)).__name__ == "LlamaForCausalLM"
    assert rows_of_labels(tmp_path, 3) == frozenset()
    assert parameter_names(tmp_path, header) != names
