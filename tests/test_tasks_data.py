"""Where examples come from: data as it is now, the split that was asked for, and what splits share."""

from __future__ import annotations

import io
import os
import tracemalloc
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from command import own, with_full_disk
from PIL import Image
from tiny import make_pictures
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from soupkitchen import metrics
from soupkitchen.errors import DataError
from soupkitchen.evaluation import load_splits, warn_of_splits
from soupkitchen.tasks import Data, ImageClassification, Several, TextClassification
from soupkitchen.tasks.files import count_overlap


def put_back(file: Path, content: bytes) -> None:
    """Replaces the content by one of equal size, at equal times of modification."""
    before = file.stat()
    assert len(content) == before.st_size
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("path", ["folder", "file", "mapping"])
def test_data_changed_at_equal_size_and_time_is_read_again(tmp_path, path):
    file = tmp_path / "train.csv"
    file.write_text("text,label\nold,0\n")
    os.utime(file, ns=(10**18, 10**18))
    where = {"folder": str(tmp_path), "file": str(file), "mapping": {"train": str(file)}}[path]
    assert Data(where).load("train")["text"][:] == ["old"]
    put_back(file, b"text,label\nnew,0\n")
    assert Data(where).load("train")["text"][:] == ["new"]


def test_data_that_did_not_change_is_not_read_again(tmp_path, monkeypatch):
    monkeypatch.setattr("soupkitchen.tasks.files._TICK_SECONDS", 0.0)
    (tmp_path / "train.csv").write_text("text,label\nold,0\n")
    first = Data(str(tmp_path)).load("train").cache_files[0]["filename"]
    made = Path(first).stat()
    second = Data(str(tmp_path)).load("train").cache_files[0]["filename"]
    assert second == first
    assert Path(second).stat().st_mtime_ns == made.st_mtime_ns


def pixels(seed: int) -> bytes:
    out = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 255, (8, 8, 3)).astype("uint8")).save(out, "BMP")
    return out.getvalue()


def prepared(task: ImageClassification) -> np.ndarray:
    config = ViTConfig(
        image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=2,
    )  # fmt: skip
    processor = ViTImageProcessor(size={"height": 8, "width": 8})
    split = task.data.load_splits()["heldout"]
    return np.asarray(task.prepare(split, processor, ViTForImageClassification(config))["pixel_values"])


@pytest.mark.parametrize("kind", ["paths", "folder", "saved"])
def test_images_changed_at_equal_size_and_time_are_prepared_again(tmp_path, kind):
    data = tmp_path / "data"
    for label in "01":
        (data / "validation" / label).mkdir(parents=True)
    images = [data / f"validation/{i % 2}/{i}.bmp" for i in range(4)]
    for seed, image in enumerate(images):
        image.write_bytes(pixels(seed))
    path = str(data)
    if kind != "folder":
        path = str(tmp_path / "list.csv")
        lines = [f"{image},{number % 2}" for number, image in enumerate(images)]
        Path(path).write_text("\n".join(["image,label", *lines]))
    if kind == "saved":
        datasets.load_dataset("csv", data_files=path, split="train").save_to_disk(tmp_path / "saved")
        path = str(tmp_path / "saved")
    heldout = "validation" if kind == "folder" else "train"
    task = ImageClassification(Data(path, heldout=heldout, test=None), metrics.load("accuracy"))
    files = {file for file in tmp_path.rglob("*") if file.is_file()}
    first = prepared(task)
    np.testing.assert_array_equal(prepared(task), first)
    put_back(images[1], pixels(9))
    again = prepared(task)
    assert not np.array_equal(again[[1, 2]], first[[1, 2]])
    assert sum(np.array_equal(a, b) for a, b in zip(again, first, strict=True)) == 3
    assert {file for file in tmp_path.rglob("*") if file.is_file()} == files, "something lies beside the data"


# One dataset, saved alone


def test_a_dataset_that_was_saved_alone_is_the_split_that_it_was(tmp_path):
    whole = datasets.Dataset.from_dict({"text": ["a", "b"], "label": [0, 1]}, split="validation")
    whole.save_to_disk(tmp_path / "named")
    assert Data(str(tmp_path / "named"), test=None).load_splits()["heldout"]["text"][:] == ["a", "b"]
    with pytest.raises(DataError, match=r"no split 'train'.*saved with validation"):
        Data(str(tmp_path / "named"), heldout="train", test=None).load_splits()


def test_a_dataset_without_a_name_is_training_data(tmp_path):
    datasets.Dataset.from_dict({"text": list("abcdefghij")}).save_to_disk(tmp_path / "saved")
    assert len(Data(str(tmp_path / "saved")).load_splits()["heldout"]) == 2
    assert len(Data(str(tmp_path / "saved"), heldout="train").load_splits()["heldout"]) == 10
    for option in ("validation", "train[:50%]"):
        with pytest.raises(DataError, match="saved with train"):
            Data(str(tmp_path / "saved"), heldout=option).load_splits()


# Names of splits


def laid(folder: Path, *names: str) -> str:
    """Files of one row each, which says in which file it is."""
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if name.endswith(".parquet"):
            pd.DataFrame({"text": [name], "label": [0]}).to_parquet(file)
        elif name.endswith(".jsonl"):
            file.write_text(f'{{"text": "{name}", "label": 0}}\n')
        else:
            file.write_text(f"text,label\n{name},0\n")
    return str(folder)


def found(path: Any, **options: Any) -> dict[str, list[str]]:
    return {role: split["text"][:] for role, split in Data(path, **options).load_splits().items()}


@pytest.mark.parametrize(
    "word", ["validation", "valid", "val", "dev", "heldout", "held_out", "held-out", "eval", "evaluation"]
)
@pytest.mark.parametrize("put", ["{}.csv", "{}.jsonl", "{}.parquet", "reviews-{}.csv", "{}/a.csv"])
def test_what_decides_is_found_by_the_names_that_people_use(tmp_path, word, put):
    heldout = put.format(word)
    ending = heldout.rpartition(".")[2]
    path = laid(tmp_path, heldout, put.format("training"), put.format("testing"), f"notes.{ending}")
    assert found(path) == {"heldout": [heldout], "test": [put.format("testing")]}
    assert Data(path).load_training()["text"][:] == [put.format("training")]
    assert found(path, heldout=word, test="testing") == found(path)


@pytest.mark.parametrize("word", ["heldout", "eval", "dev", "held_out"])
def test_splits_of_saved_data_and_of_mappings_are_found_by_them_too(tmp_path, word):
    both = {name: datasets.Dataset.from_dict({"text": [name]}) for name in ("training", word, "testing")}
    datasets.DatasetDict(both).save_to_disk(tmp_path / "saved")
    assert found(str(tmp_path / "saved")) == {"heldout": [word], "test": ["testing"]}
    laid(tmp_path, "1.csv", "2.csv", "3.csv")
    files = {
        name: str(tmp_path / f"{n}.csv")
        for n, name in enumerate(("train", word.replace("_", "-"), "test"), start=1)
    }
    assert found(files) == {"heldout": ["2.csv"], "test": ["3.csv"]}


@pytest.mark.parametrize(
    ("role", "names"),
    [("heldout", ("dev.csv", "val.csv")), ("heldout", ("eval.csv", "heldout.csv")),
     ("heldout", ("dev/a.csv", "validation.csv")), ("test", ("test.csv", "testing.csv"))],
)  # fmt: skip
def test_two_files_for_one_split_are_an_error_that_the_option_settles(tmp_path, role, names):
    others = ("train.csv",) if role == "heldout" else ("train.csv", "dev.csv")
    path = laid(tmp_path, *names, *others)
    with pytest.raises(DataError, match=f"may each be the .*task.data.{role}=") as error:
        found(path)
    one, other = (name.removesuffix("a.csv") for name in sorted(names))
    assert f"{one} and {other}" in str(error.value)
    for name in names:
        word = name.partition(".")[0].partition("/")[0]
        assert found(path, **{role: word})[role] == [name]


def test_of_mnlis_two_splits_one_has_to_be_named(tmp_path):
    names = ("train", "validation_matched", "validation_mismatched")
    rows = {name: datasets.Dataset.from_dict({"text": [name] * 3, "label": [0, 1, 0]}) for name in names}
    datasets.DatasetDict(rows).save_to_disk(tmp_path)
    with pytest.raises(DataError, match=r"say which is, as task.data.heldout=validation_matched"):
        Data(str(tmp_path)).load_splits()
    splits = Data(str(tmp_path), heldout="validation_mismatched", test=None).load_splits()
    assert set(splits["heldout"]["text"]) == {"validation_mismatched"}


def test_a_tsv_file_has_columns_wherever_it_is_named(tmp_path):
    file = tmp_path / "dev.tsv"
    file.write_text("text\tlabel\na, b\t0\n")
    for path, split in (
        (str(file), "train"),
        ({"validation": str(file)}, "validation"),
        (str(tmp_path), "dev"),
    ):
        assert Data(path).load(split)[0] == {"text": "a, b", "label": 0}


def test_several_files_of_one_name_are_one_split(tmp_path):
    path = laid(tmp_path, "heldout-1.csv", "heldout-2.csv", "train.csv")
    assert found(path) == {"heldout": ["heldout-1.csv", "heldout-2.csv"]}


def test_slices_of_files_by_the_names_that_people_use(tmp_path):
    (tmp_path / "held-out.csv").write_text("text,label\na,0\nb,0\n")
    laid(tmp_path, "train.csv")
    assert found(str(tmp_path), heldout="held-out[:50%]") == {"heldout": ["a"]}
    assert found(str(tmp_path), heldout="train+held-out[50%:]") == {"heldout": ["train.csv", "b"]}


def test_a_split_may_be_asked_for_by_the_usual_name_of_what_it_is_for(tmp_path):
    path = laid(tmp_path, "dev.csv", "training.csv")
    assert found(path, heldout="validation") == {"heldout": ["dev.csv"]}
    assert found(path, heldout="train") == {"heldout": ["training.csv"]}


def test_a_card_that_says_what_the_splits_are_is_believed(tmp_path):
    path = laid(tmp_path, "heldout.csv", "special.csv", "train.csv")
    card = "configs:\n- config_name: default\n  data_files:\n  - split: validation\n    path: special.csv\n"
    (tmp_path / "README.md").write_text(f"---\n{card}---\nAbout.\n")
    assert found(path) == {"heldout": ["special.csv"]}
    (tmp_path / "README.md").write_text("About.\n")
    assert found(path) == {"heldout": ["heldout.csv"]}


def test_images_in_a_folder_that_is_named_heldout(tmp_path):
    for folder in ("heldout/a", "heldout/eval", "train/a", "train/eval"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "1.bmp").write_bytes(pixels(1))
    split = Data(str(tmp_path)).load_splits()["heldout"]
    assert len(split) == 2
    assert sorted(split.features["label"].int2str(split["label"][:])) == ["a", "eval"]


# Overlap


def test_a_folder_of_images_may_be_named_from_where_the_command_runs(tmp_path, monkeypatch):
    for split in ("train", "validation"):
        for label in ("cat", "dog"):
            (tmp_path / "pictures" / split / label).mkdir(parents=True)
            Image.new("RGB", (4, 4)).save(tmp_path / "pictures" / split / label / "one.png")
    monkeypatch.chdir(tmp_path)
    assert Data("pictures").load("validation")["label"] == [0, 1]


def test_the_same_image_in_two_splits_is_found_wherever_it_lies(tmp_path, caplog):
    make_pictures(tmp_path, 6)
    for number in range(3):
        image = (tmp_path / f"train/dark/{number}.png").read_bytes()
        (tmp_path / f"validation/dark/copy-{number}.png").write_bytes(image)
    (tmp_path / "test/light/copy.png").write_bytes((tmp_path / "validation/light/1.png").read_bytes())
    tasks = Several.of(ImageClassification(Data(str(tmp_path)), metrics.load("accuracy")))
    warn_of_splits(tasks, load_splits(tasks))
    assert "3 of 15 held-out examples are training examples too" in caplog.text
    assert "1 of 13 test examples are held-out examples too" in caplog.text


def test_examples_are_the_same_by_their_texts_whatever_else_their_rows_hold(tmp_path, caplog):
    for name, start in {"dev": 0, "test": 2}.items():
        rows = "".join(f"w{number},0,{name}\n" for number in range(start, start + 4))
        (tmp_path / f"{name}.csv").write_text(f"text,label,source\n{rows}")
    tasks = Several.of(TextClassification(Data(str(tmp_path)), metrics.load("accuracy")))
    warn_of_splits(tasks, load_splits(tasks))
    assert "2 of 4 test examples are held-out examples too" in caplog.text


def test_images_inside_of_tables_and_in_columns_of_paths_are_compared_too(tmp_path):
    make_pictures(tmp_path / "pictures", 4)
    files = [str(tmp_path / f"pictures/train/dark/{number}.png") for number in range(4)]
    inside = [{"bytes": Path(file).read_bytes(), "path": None} for file in files[:2]]
    one = datasets.Dataset.from_dict({"image": inside, "label": [0, 0]})
    one = one.cast_column("image", datasets.Image())
    other = datasets.Dataset.from_dict({"image": files, "label": [0] * 4})
    task = ImageClassification(Data("-"), metrics.load("accuracy"))
    assert count_overlap(task.compared(one), task.compared(other), ["image"]) == 2


def test_overlap_is_that_of_sets_of_rows_and_counts_repeated_ones():
    one = datasets.Dataset.from_dict({"a": ["x", "y", None], "b": [[1], [2], [3]]})
    other = datasets.Dataset.from_dict({"a": ["x", "x", "y", None, "z"], "b": [[1], [1], [3], [3], [1]]})
    assert count_overlap(one, other, ["a", "b"]) == 3
    assert count_overlap(one, other, ["a"]) == 4
    assert count_overlap(other, one, ["a"]) == 3


def test_overlap_holds_no_more_than_digests_of_the_smaller_side(tmp_path):
    text = "long text " * 200
    (tmp_path / "large.csv").write_text("\n".join(["text", *(f"{n} {text}" for n in range(20_000))]))
    large = Data(str(tmp_path / "large.csv")).load("train")
    small = datasets.Dataset.from_dict({"text": [f"{n} {text}" for n in range(19_990, 20_010)]})
    tracemalloc.start()
    found = count_overlap(large, small, ["text"])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found == 10
    assert peak < 12e6  # of 40e6


def test_a_full_disk_is_not_laid_to_the_data(text_runs, texts, tmp_path):
    data = tmp_path / "fresh"
    data.mkdir()
    frame = pd.read_csv(texts / "validation.csv")
    pd.concat([frame] * 9).to_csv(data / "validation.csv", index=False)  # never read before
    result = with_full_disk(*own(text_runs, data), "task.data.test=null", "name=x", size=6500, cwd=tmp_path)
    assert result.returncode == 1
    assert "cannot write its copy of" in result.stderr
    assert "make room, and the same command continues" in result.stderr


# Where data is split


def test_held_out_is_drawn_from_train_with_a_seed_and_labels_in_proportion(tmp_path, caplog):
    frame = pd.DataFrame({"text": [f"t{i}" for i in range(100)], "label": ["a"] * 80 + ["b"] * 20})
    frame.sample(frac=1, random_state=0).to_csv(tmp_path / "train.csv", index=False)
    data = Data(str(tmp_path), heldout_share=0.25)
    one, again = (data.load_splits("label") for _ in range(2))
    assert one.keys() == {"heldout"}
    drawn = one["heldout"].to_pandas()
    assert drawn["label"].value_counts().to_dict() == {"a": 20, "b": 5}
    assert drawn.equals(again["heldout"].to_pandas())
    other = Data(str(tmp_path), heldout_share=0.25, seed=1).load_splits("label")["heldout"]
    assert set(other["text"]) != set(drawn["text"])
    rest = data.load_training("label")
    assert set(rest["text"]) | set(drawn["text"]) == set(frame["text"])
    assert len(rest) == 75
    assert (
        "no validation split: 25 examples of train decide, drawn with seed 0, each label in its proportion"
        in (caplog.text)
    )


def test_a_rare_label_does_not_stop_the_draw(tmp_path):
    pd.DataFrame({"text": list("abcdefghij"), "label": list("xxxxxxxxxy")}).to_csv(
        tmp_path / "train.csv", index=False
    )
    assert len(Data(str(tmp_path)).load_splits("label")["heldout"]) == 2
