"""Reading a checkpoint: whole and sharded, and what is said of broken ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import text_classifier

from soupkitchen.checkpoints import Checkpoint
from soupkitchen.errors import CheckpointError


@pytest.fixture
def run(text_runs: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(text_runs / "a", tmp_path / "a"))


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    text_classifier().save_pretrained(tmp_path / "sharded", max_shard_size="5KB")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    return tmp_path / "sharded"


def test_every_tensor_is_read_as_safetensors_itself_reads_it(run: Path) -> None:
    expected = load_file(run / "model.safetensors")
    checkpoint = Checkpoint.open(run)
    read = dict(checkpoint.tensors())
    assert read.keys() == expected.keys() == checkpoint.header.keys()
    for name, tensor in expected.items():
        assert torch.equal(read[name], tensor)
        assert torch.equal(checkpoint.tensor(name), tensor)
        assert checkpoint.header[name].shape == tuple(tensor.shape)


def test_shards_are_read_as_one_checkpoint(sharded: Path) -> None:
    expected = text_classifier().state_dict()
    read = dict(Checkpoint.open(sharded).tensors())
    assert read.keys() == expected.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in expected.items())


def _index(folder: Path) -> tuple[Path, dict]:
    file = folder / "model.safetensors.index.json"
    return file, json.loads(file.read_text())


def test_a_missing_shard_is_named(sharded: Path) -> None:
    shard = sorted(sharded.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=f"{shard.name}.*missing"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("path", ["../a/model.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ""])
def test_an_index_cannot_name_files_of_other_folders(sharded: Path, path: str) -> None:
    file, index = _index(sharded)
    index["weight_map"]["classifier.bias"] = path
    file.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="not a file of its own folder"):
        Checkpoint.open(sharded)


def test_an_index_that_does_not_fit_its_shards_is_refused(sharded: Path) -> None:
    file, index = _index(sharded)
    index["weight_map"]["no.such.tensor"] = next(iter(index["weight_map"].values()))
    file.write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"no\.such\.tensor"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("weight_map", [None, [], {"a": 1}])
def test_an_index_without_a_weight_map_is_refused(sharded: Path, weight_map: object) -> None:
    file, index = _index(sharded)
    file.write_text(json.dumps(index | {"weight_map": weight_map}))
    with pytest.raises(CheckpointError, match="weight_map"):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("length", [0, 4, 100, -1])
def test_a_truncated_file_is_named(run: Path, length: int) -> None:
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:length])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        Checkpoint.open(run)


def test_a_folder_without_config_is_no_checkpoint(run: Path) -> None:
    (run / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"not a checkpoint.*config\.json"):
        Checkpoint.open(run)


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_broken_config_is_named(run: Path, content: str) -> None:
    (run / "config.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(CheckpointError, match=r"config\.json"):
        Checkpoint.open(run)


def test_a_trainer_folder_without_a_model_says_what_to_name(run: Path) -> None:
    (run / "model.safetensors").unlink()
    (run / "checkpoint-10").mkdir()
    with pytest.raises(CheckpointError, match="checkpoint-\\*"):
        Checkpoint.open(run)


def test_a_folder_without_weights_is_refused(run: Path) -> None:
    (run / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        Checkpoint.open(run)
