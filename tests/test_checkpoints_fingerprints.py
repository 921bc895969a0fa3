"""What was found in weight files is not looked for again, and never believed of other files."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from command import forked
from safetensors.torch import load_file, save_file
from tiny import adapter, llama

from soupkitchen.checkpoints import Checkpoint, find_pool, fingerprints
from soupkitchen.errors import IncompatibleError


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SOUPKITCHEN_CACHE", str(tmp_path / "cache"))
    fingerprints._warn.cache_clear()
    return tmp_path / "cache" / "fingerprints"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files need not have been left alone: what a test writes, it reads at once."""
    monkeypatch.setattr(fingerprints, "_SETTLED_SECONDS", 0)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files of which bytes were read to take digests."""
    read: list[Path] = []
    blocks = fingerprints.stored_blocks

    def counted(file: Path, *place: Any) -> Iterator[memoryview]:
        read.append(file)
        return blocks(file, *place)

    monkeypatch.setattr(fingerprints, "stored_blocks", counted)
    return read


def fingerprint(folder: Path) -> str:
    return Checkpoint.open(folder).fingerprint


def unkept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The fingerprint by reading every byte."""
    with monkeypatch.context() as without:
        without.setattr(fingerprints, "_stamps", lambda files: [])
        return fingerprint(folder)


def test_the_same_bytes_in_another_shape_dtype_or_name_are_other_weights(tmp_path):
    """Otherwise a cached evaluation could be found for another model."""
    bits = torch.arange(6, dtype=torch.int32)
    files = [
        {"a": bits.view(torch.float32).reshape(2, 3)},
        {"a": bits.view(torch.float32).reshape(3, 2)},
        {"a": bits.reshape(2, 3)},
        {"b": bits.view(torch.float32).reshape(2, 3)},
    ]
    found = set()
    for number, tensors in enumerate(files):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "config.json").write_text("{}")
        save_file(tensors, tmp_path / str(number) / "model.safetensors")
        found.add(fingerprint(tmp_path / str(number)))
    assert len(found) == len(files)


def test_a_second_start_reads_no_byte_of_the_pool(settled, read, copy_runs):
    runs = copy_runs("a", "b", "c")
    first = [run.fingerprint for run in find_pool(str(runs), base=str(runs / "a"))]
    assert {file.parent.name for file in read} == {"a", "b", "c"}
    read.clear()
    assert [run.fingerprint for run in find_pool(str(runs), base=str(runs / "a"))] == first
    assert read == []


def test_shards_and_adapters_are_not_read_again_either(settled, read, tmp_path, monkeypatch):
    llama().save_pretrained(tmp_path / "base", max_shard_size="5KB")
    assert len(list((tmp_path / "base").glob("*.safetensors"))) > 1
    for seed in (1, 2):
        adapter(tmp_path / "base", tmp_path / f"runs/{seed}", seed, r=2, target_modules=["q_proj"])
    first = [run.fingerprint for run in find_pool(str(tmp_path / "runs"))]
    read.clear()
    assert [run.fingerprint for run in find_pool(str(tmp_path / "runs"))] == first
    assert read == []
    shard = sorted((tmp_path / "base").glob("*.safetensors"))[0]
    shard.touch()
    fingerprint(tmp_path / "base")
    assert read


def test_what_is_kept_is_what_was_read(settled, text_runs, monkeypatch):
    expected = unkept(text_runs / "a", monkeypatch)
    assert [fingerprint(text_runs / "a") for _ in range(2)] == [expected] * 2


def in_place(file: Path) -> None:
    with file.open("r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        last = handle.read(1)
        handle.seek(-1, os.SEEK_END)
        handle.write(bytes([last[0] ^ 1]))


def in_place_with_the_old_time(file: Path) -> None:
    told = file.stat()
    in_place(file)
    os.utime(file, ns=(told.st_atime_ns, told.st_mtime_ns))


def replaced(file: Path) -> None:
    other = Path(shutil.copy2(file, file.with_name("other")))
    in_place_with_the_old_time(other)
    other.rename(file)


@pytest.mark.parametrize("change", [in_place, in_place_with_the_old_time, replaced])
def test_files_that_changed_at_equal_size_are_read_again(change, settled, copy_runs, monkeypatch):
    run = copy_runs("a") / "a"
    before = fingerprint(run)
    change(run / "model.safetensors")
    after = fingerprint(run)
    assert after != before
    assert after == unkept(run, monkeypatch)


def test_touched_files_are_read_again(settled, read, copy_runs):
    run = copy_runs("a") / "a"
    before = fingerprint(run)
    read.clear()
    (run / "model.safetensors").touch()
    assert fingerprint(run) == before
    assert read


def test_nothing_is_kept_of_files_that_were_just_written(copy_runs, read, store, monkeypatch):
    run = copy_runs("a") / "a"  # their times are those of the originals, the inodes are new
    fingerprint(run)
    assert not store.exists()
    now = fingerprints.time.time_ns()
    monkeypatch.setattr(fingerprints.time, "time_ns", lambda: now + 3 * 10**9)
    fingerprint(run)
    assert len(list(store.iterdir())) == 1
    read.clear()
    fingerprint(run)
    assert read == []


def test_nothing_is_kept_of_files_that_change_while_they_are_read(settled, copy_runs, store, monkeypatch):
    run = copy_runs("a") / "a"
    blocks = fingerprints.stored_blocks

    def meanwhile(file: Path, *place: Any) -> Iterator[memoryview]:
        file.touch()
        return blocks(file, *place)

    monkeypatch.setattr(fingerprints, "stored_blocks", meanwhile)
    fingerprint(run)
    assert not store.exists()


def test_what_is_kept_of_new_files_is_not_said_of_a_run_that_was_opened_before(settled, copy_runs):
    runs = copy_runs("a")
    opened = Checkpoint.open(runs / "a")
    tensors = {f"renamed.{name}": tensor for name, tensor in load_file(runs / "a/model.safetensors").items()}
    save_file(tensors, runs / "a" / "model.safetensors", {"format": "pt"})
    fingerprint(runs / "a")
    with pytest.raises(Exception, match="cannot be read any more"):
        _ = opened.fingerprint


def test_values_that_are_not_finite_are_told_again_in_the_same_words(settled, read, copy_runs):
    runs = copy_runs("a", "b")
    weights = load_file(runs / "b" / "model.safetensors")
    weights["classifier.bias"][1:] = torch.nan
    save_file(weights, runs / "b" / "model.safetensors", {"format": "pt"})
    errors = []
    for _ in range(2):
        read.clear()
        with pytest.raises(IncompatibleError) as error:
            find_pool(str(runs))
        errors.append(str(error.value))
    assert read == []
    assert errors[0] == errors[1]
    assert "classifier.bias" in errors[1]


@pytest.mark.parametrize(
    "spoil", ["", "{", "[]", "null", "\xff", "[" * 100_000, "digit", "format", "missing"]
)
def test_a_damaged_store_is_as_good_as_none(spoil, settled, copy_runs, store, caplog):
    run = copy_runs("a") / "a"
    expected = fingerprint(run)
    (entry,) = store.iterdir()
    kept = json.loads(entry.read_text())
    if spoil == "digit":
        wrong = kept | {"fingerprint": "0" * 32}
        entry.write_text(json.dumps(wrong))
    elif spoil == "format":
        entry.write_text(json.dumps(kept | {"format": 0}))
    elif spoil == "missing":
        entry.write_text(json.dumps({"checksum": kept["checksum"]}))
    else:
        entry.write_bytes(spoil.encode("latin-1"))
    assert fingerprint(run) == expected
    assert json.loads(entry.read_text()) == kept  # mended
    assert not [record for record in caplog.records if record.levelno > logging.DEBUG]


@pytest.mark.parametrize("why", ["no folder", "read-only"])
def test_a_store_that_cannot_be_written_is_said_once_and_no_error(
    why, settled, copy_runs, store, caplog, monkeypatch
):
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    runs = copy_runs("a", "b")
    if why == "no folder":
        store.parent.write_text("a file")
    else:  # whoever is root may write to such folders
        monkeypatch.setattr("soupkitchen.store.files.tempfile.mkstemp", refuse)
    assert fingerprint(runs / "a") != fingerprint(runs / "b")
    (warning,) = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert "the next start reads them again" in warning


PROCESS = """
import sys
from pathlib import Path
from soupkitchen.checkpoints import Checkpoint, fingerprints
fingerprints._SETTLED_SECONDS = 0
for folder in sys.argv[1:]:
    print(Checkpoint.open(Path(folder)).fingerprint)
"""


@pytest.mark.slow
def test_processes_and_threads_may_share_the_store(settled, text_runs, store, monkeypatch):
    folders = [text_runs / name for name in ("a", "b", "c", "d") for _ in range(8)]
    expected = [unkept(folder, monkeypatch) for folder in folders]
    cache = str(store.parent)

    def in_a_process(folders: list[Path]) -> list[str]:
        told = forked(PROCESS, *map(str, folders), cwd=text_runs, env={"SOUPKITCHEN_CACHE": cache})
        return told.stdout.splitlines()

    with ThreadPoolExecutor(8) as threads, ThreadPoolExecutor(2) as processes:
        found = processes.map(in_a_process, [folders, folders[::-1]])
        assert list(threads.map(fingerprint, folders)) == expected
        assert list(found) == [expected, expected[::-1]]
    assert len(list(store.iterdir())) == 4  # and nothing half written


def test_pytorchs_own_files_are_kept_too(settled, copy_runs, store, monkeypatch):
    run = copy_runs("a") / "a"
    torch.save(load_file(run / "model.safetensors"), run / "pytorch_model.bin")
    (run / "model.safetensors").unlink()
    expected = fingerprint(run)
    monkeypatch.setattr("soupkitchen.checkpoints.files.WeightFiles._read", None)
    assert fingerprint(run) == expected


def test_a_run_is_known_by_whichever_path_leads_to_it(settled, copy_runs, read, monkeypatch):
    runs = copy_runs("a", "b")
    fingerprint(runs / "a")
    read.clear()
    monkeypatch.chdir(runs)
    fingerprint(Path("a"))
    assert read == []
    (runs / "link").symlink_to("a")
    link_to_a = fingerprint(runs / "link")
    (runs / "link").unlink()
    (runs / "link").symlink_to("b")
    assert fingerprint(runs / "link") != link_to_a
