"""Reading a checkpoint: whole and sharded, and what is said of broken ones."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import xxhash
from safetensors.torch import load_file, save_file
from tiny import text_classifier

from soupkitchen.checkpoints import Checkpoint, fingerprints
from soupkitchen.checkpoints.weights import View
from soupkitchen.errors import CheckpointError


@pytest.fixture
def run(text_runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(text_runs / "a", tmp_path / "a"))


@pytest.fixture
def read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """Has every look at the content be one at the files, whatever is known of them."""
    monkeypatch.setattr(fingerprints, "findings", lambda files, read, part: read())


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    text_classifier().save_pretrained(tmp_path / "sharded", max_shard_size="5KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    return tmp_path / "sharded"


def test_every_tensor_is_read_as_safetensors_itself_reads_it(run):
    expected = load_file(run / "model.safetensors")
    checkpoint = Checkpoint.open(run)
    read = dict(checkpoint.tensors())
    assert read.keys() == expected.keys() == checkpoint.header.keys()
    for name, tensor in expected.items():
        assert torch.equal(read[name], tensor)
        assert torch.equal(checkpoint.tensor(name), tensor)
        assert checkpoint.header[name].shape == tuple(tensor.shape)


def test_shards_are_read_as_one_checkpoint(sharded):
    expected = text_classifier().state_dict()
    read = dict(Checkpoint.open(sharded).tensors())
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())


@pytest.mark.usefixtures("read_anew")
@pytest.mark.parametrize("name", ["run", "sharded"])
def test_a_fingerprint_is_the_digest_of_names_kinds_and_bytes(name, request, monkeypatch):
    folder = request.getfixturevalue(name)
    expected = xxhash.xxh3_128()
    tensors = {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}
    for key in sorted(tensors):
        x = tensors[key]
        expected.update(f"{key} F32 {tuple(x.shape)}\0".encode() + x.numpy().tobytes())
    assert Checkpoint.open(folder).fingerprint == expected.hexdigest()
    monkeypatch.setattr(fingerprints, "_BLOCK", 48)  # in many blocks, the last of them short
    assert Checkpoint.open(folder).fingerprint == expected.hexdigest()


FLOATS = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.usefixtures("read_anew")
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_values_that_are_not_finite_are_counted_whatever_their_bits(dtype, file, tmp_path, monkeypatch):
    width = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    numbers = torch.iinfo(width)
    torch.manual_seed(0)
    bits = torch.cat([torch.arange(-(1 << 7), 1 << 7), torch.randint(numbers.min, numbers.max, (5000,))])
    largest = torch.finfo(dtype).max
    edge = torch.tensor([largest, -largest, 0.0, -0.0, torch.finfo(dtype).tiny], dtype=dtype)
    tensors = {
        "any bits": bits.to(width).view(dtype),
        "finite": edge,
        "negative": edge[1:2].clone(),
        "nan": torch.cat([edge, torch.tensor([torch.nan], dtype=dtype)]),
        "none": edge[:0],
        "one": torch.tensor(torch.nan).to(dtype),
        "whole numbers": torch.full((9,), -1),
    }
    expected = {
        name: count
        for name, x in tensors.items()
        if x.is_floating_point() and (count := int((~x.double().isfinite()).sum()))
    }
    assert expected.keys() == {"any bits", "nan", "one"}
    (tmp_path / "config.json").write_text("{}")
    if file.endswith(".bin"):
        torch.save(tensors, tmp_path / file)
    else:
        save_file(tensors, tmp_path / file)
    for block in (1 << 21, 64):
        monkeypatch.setattr(fingerprints, "_BLOCK", block)
        assert Checkpoint.open(tmp_path).weights.not_finite == expected


def test_a_file_that_became_shorter_after_it_was_opened_is_named(run):
    checkpoint, file = Checkpoint.open(run), run / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors cannot be read any more \(it has become shorter"
    ):
        _ = checkpoint.fingerprint
    file.unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read any more"):
        _ = checkpoint.fingerprint


def _rewritten(file: Path, how: str) -> None:
    """Changes one bit of `file` at equal size."""
    content = file.read_bytes()
    told = file.stat()
    if how == "in place":
        with file.open("r+b") as handle:
            handle.seek(-1, os.SEEK_END)
            handle.write(bytes([content[-1] ^ 1]))
        return
    other = file.with_name("other")  # as rsync does, which puts the old time on the new file
    other.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    os.utime(other, ns=(told.st_atime_ns, told.st_mtime_ns))
    other.rename(file)


@pytest.mark.parametrize("how", ["in place", "as rsync does"])
@pytest.mark.parametrize("name", ["run", "sharded"])
def test_files_that_changed_since_they_were_opened_are_told(name, how, request):
    folder = request.getfixturevalue(name)
    checkpoint = Checkpoint.open(folder)
    weights = checkpoint.weights
    around = [weights, View(weights, dtype=torch.float64), View(weights)]
    assert checkpoint.changed_files() == []
    file = sorted(folder.glob("*.safetensors"))[-1]
    _rewritten(file, how)
    assert checkpoint.changed_files() == [file]
    assert all(outer.changed_files() == [file] for outer in around)
    assert Checkpoint.open(folder).changed_files() == []
    file.unlink()
    assert checkpoint.changed_files() == [file]


def _index(folder: Path) -> tuple[Path, dict]:
    file = folder / "model.safetensors.index.json"
    return file, json.loads(file.read_text())


def test_a_missing_shard_is_named(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name}.*missing"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("path", ["../a/model.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ""])
def test_an_index_cannot_name_files_of_other_folders(sharded, path):
    file, index = _index(sharded)
    index["weight_map"]["classifier.bias"] = path
    file.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="not a file of its own folder"):
        Checkpoint.open(sharded)


def test_an_index_that_does_not_fit_its_shards_is_refused(sharded):
    file, index = _index(sharded)
    index["weight_map"]["no.such.tensor"] = next(iter(index["weight_map"].values()))
    file.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"no\.such\.tensor"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}])
def test_an_index_without_a_weight_map_is_refused(sharded, weight_map):
    file, index = _index(sharded)
    file.write_text(json.dumps(index | {"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="weight_map"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_truncated_file_is_named(run, length):
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        Checkpoint.open(run)


def test_a_folder_without_config_is_weights_alone_and_without_these_no_checkpoint(run):
    (run / "config.json").unlink()
    bare = Checkpoint.open(run)
    assert bare.config == {}
    assert bare.header
    (run / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"not a checkpoint.*config\.json"):
        Checkpoint.open(run)


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_broken_config_is_named(run, content):
    (run / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        Checkpoint.open(run)


def test_a_trainer_folder_without_a_model_says_what_to_name(run):
    (run / "model.safetensors").unlink()
    (run / "checkpoint-10").mkdir()
    with pytest.raises(CheckpointError, match="checkpoint-\\*"):
        Checkpoint.open(run)


def test_a_folder_without_weights_is_refused(run):
    (run / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        Checkpoint.open(run)
