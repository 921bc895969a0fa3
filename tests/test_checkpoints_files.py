"""Weight files: read as their own libraries read them, whole, sharded and pickled; or refused."""

from __future__ import annotations

import json
import os
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import transformers
import xxhash
from command import own, soupkitchen
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save, save_file
from tiny import average, gpt2, llama, shake, text_classifier
from tokenizers import Tokenizer, models, pre_tokenizers

from soupkitchen.checkpoints import Checkpoint, find_pool, fingerprints
from soupkitchen.checkpoints.files import WeightFiles
from soupkitchen.checkpoints.weights import View
from soupkitchen.errors import CheckpointError, IncompatibleError
from soupkitchen.evaluation import LiveModel
from soupkitchen.merging import Linear
from soupkitchen.soup import Soup


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


# Files that are none, and files that may not be read


def test_a_file_that_may_not_be_read_is_told_from_one_that_is_not_there(text_runs):
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        file = folder / "model.safetensors"
        shutil.copy(text_runs / "a" / "model.safetensors", file)
        file.chmod(0)
        told = as_nobody(lambda: str(WeightFiles.open(folder).header))
    assert f"{file} cannot be read: you are not allowed to (permission denied)" in told
    assert "copy the run again" not in told


def as_nobody(what: Callable[[], str]) -> str:
    """What `what` gives, or the error that it raises, for a user who is not root."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if os.geteuid() == 0:
                os.seteuid(65534)
            told = what()
        except CheckpointError as error:
            told = str(error)
        finally:
            os.write(there, told.encode())
            os._exit(0)
    os.close(there)
    os.waitpid(child, 0)
    with os.fdopen(here) as handle:
        return handle.read()


def test_tied_tensors_of_a_pickle_may_be_the_same_bytes(copy_runs):
    runs = copy_runs("a")
    (runs / "a" / "model.safetensors").unlink()
    shared = torch.randn(5, 3)
    names = ["shared.weight", "encoder.embed.weight", "decoder.embed.weight", "lm_head.weight"]
    held = {**dict.fromkeys(names, shared), "row": shared[1], "p": torch.nn.Parameter(torch.ones(2))}
    torch.save(held, runs / "a" / "pytorch_model.bin")
    weights = WeightFiles.open(runs / "a")
    assert all(torch.equal(weights.tensor(name), x) for name, x in held.items())
    assert not any(weights.tensor(name).requires_grad for name in held)


# Fuzzing


def header_and_data() -> tuple[dict[str, Any], bytes, bytes]:
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.arange(4, dtype=torch.int64)}
    content = save(tensors)
    (size,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + size]), content[8 + size :], content


HEADER, DATA, WHOLE = header_and_data()
values = st.one_of(
    st.integers(-(2**40), 2**70), st.none(), st.text(max_size=5), st.lists(st.integers(-3, 2**65), max_size=4)
)


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A safetensors file with something wrong in its header, or in its bytes."""
    if draw(st.booleans()):
        content = bytearray(WHOLE)
        for _ in range(draw(st.integers(1, 4))):
            content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
        return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)
    header = json.loads(json.dumps(HEADER))
    for _ in range(draw(st.integers(1, 3))):
        name = draw(st.sampled_from(["a", "b", "c", "__metadata__"]))
        entry = header.setdefault(name, {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]})
        if draw(st.integers(0, 4)) == 0 or not isinstance(entry, dict):
            header[name] = draw(values)
        else:
            entry[draw(st.sampled_from(["dtype", "shape", "data_offsets"]))] = draw(
                st.one_of(values, st.sampled_from(["F32", "I64", "BF16", "F8_E4M3", "BOOL", "F4"]))
            )
    text = json.dumps(header).encode()
    size = draw(st.one_of(st.just(len(text)), st.integers(0, 2**64 - 1)))
    return struct.pack("<Q", size) + text + DATA


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mutated())
@example(WHOLE)
def test_a_mutated_file_is_refused_or_read_right(tmp_path, content):
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    try:
        weights = WeightFiles.open(tmp_path)
        read = {name: weights.tensor(name) for name in weights.header}
    except CheckpointError:
        return
    (size,) = struct.unpack("<Q", content[:8])
    header, data = json.loads(content[8 : 8 + size]), content[8 + size :]
    assert read.keys() == header.keys() - {"__metadata__"}
    for name, tensor in read.items():
        begin, end = header[name]["data_offsets"]
        assert list(tensor.shape) == header[name]["shape"] == list(weights.header[name].shape)
        assert tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes() == data[begin:end]


names = st.one_of(
    st.sampled_from(["model-1.safetensors", "model-2.safetensors", "../x", "/etc/passwd", "", ".", "x/y"]),
    st.text(max_size=8), st.integers(), st.none(), st.lists(st.text(max_size=2), max_size=2),
)  # fmt: skip
indices = st.one_of(
    st.binary(max_size=30),
    st.dictionaries(st.sampled_from(["weight_map", "metadata"]), st.one_of(st.none(), st.dictionaries(
        st.sampled_from(["a", "b", "c"]), names, max_size=3))).map(lambda index: json.dumps(index).encode()),
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=1500, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(indices)
@example(json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}).encode())
def test_a_mutated_index_is_refused_or_read_right(tmp_path, content):
    save_file({"a": torch.ones(2)}, tmp_path / "model-1.safetensors")
    save_file({"b": torch.zeros(3)}, tmp_path / "model-2.safetensors")
    (tmp_path / "model.safetensors.index.json").write_bytes(content)
    try:
        weights = WeightFiles.open(tmp_path)
    except CheckpointError:
        return
    assert {file.name for file in weights.files} <= {"model-1.safetensors", "model-2.safetensors"}
    for name in weights.header:
        assert torch.equal(weights.tensor(name), torch.ones(2) if name == "a" else torch.zeros(3))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=200) | mutated())
def test_any_bytes_as_a_pickle_are_refused(tmp_path, content):
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        WeightFiles.open(tmp_path)


CPU = torch.device("cpu")

# Formats


def as_bin(run: Path, legacy: bool = False) -> None:
    tensors = load_file(run / "model.safetensors")
    torch.save(tensors, run / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    (run / "model.safetensors").unlink()


@pytest.mark.parametrize("legacy", [False, True])
def test_pytorch_files_are_read(legacy, text_runs, copy_runs):
    runs = copy_runs("a", "b")
    as_bin(runs / "b", legacy)
    merged = dict(Soup(Linear()).blend(find_pool(str(runs)).runs))
    for name, tensor in average(text_runs, ["a", "b"]).items():
        torch.testing.assert_close(merged[name], tensor, rtol=1e-6, atol=1e-7)


def test_sharded_pytorch_files_are_read(text_runs, copy_runs):
    runs = copy_runs("a", "b")
    tensors = load_file(runs / "b" / "model.safetensors")
    (runs / "b" / "model.safetensors").unlink()
    shards: dict[str, dict] = {"pytorch_model-1.bin": {}, "pytorch_model-2.bin": {}}
    weight_map = {name: list(shards)[number % 2] for number, name in enumerate(tensors)}
    for name, file in weight_map.items():
        shards[file][name] = tensors[name]
    for file, content in shards.items():
        torch.save(content, runs / "b" / file)
    (runs / "b" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    read = dict(find_pool(str(runs))["b"].tensors())
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read.items())
    assert read.keys() == tensors.keys()


@pytest.mark.parametrize("first", ["safetensors", "bin"])
def test_tied_weights_are_one_tensor_by_either_name(first, tmp_path):
    for number, kind in enumerate(("both", "neither", "head")):
        model = gpt2()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(number / 10)
        folder = tmp_path / "runs" / f"{number if first == 'safetensors' else 9 - number}-{kind}"
        model.save_pretrained(folder)
        tensors = load_file(folder / "model.safetensors")
        if kind == "both":  # as PyTorch's own files have it
            (folder / "model.safetensors").unlink()
            torch.save(dict(model.state_dict()), folder / "pytorch_model.bin")
        elif kind == "head":
            tensors["lm_head.weight"] = tensors.pop("transformer.wte.weight")
            save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    pool = find_pool(str(tmp_path / "runs"))
    assert len({tuple(run.header) for run in pool}) == 1
    assert "lm_head.weight" not in pool.runs[0].header or "transformer.wte.weight" not in pool.runs[0].header
    live = LiveModel(pool.reference, transformers.AutoModelForCausalLM, CPU)
    live.fill(Soup(Linear()).blend(pool.runs))
    torch.testing.assert_close(live.model.lm_head.weight, gpt2().lm_head.weight + 0.1)


def test_runs_of_mixed_dtypes_are_taken_as_the_widest(text_runs, copy_runs, texts, tmp_path):
    runs = copy_runs("a", "b", "c")
    for name, dtype in (("a", torch.float16), ("b", torch.bfloat16)):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(runs / name, dtype=dtype)
        model.save_pretrained(runs / name)
    pool = find_pool(str(runs))
    assert pool.dtype == torch.float32
    soupkitchen(*own(runs, texts), "search=uniform", "name=x", cwd=tmp_path)
    saved = load_file(tmp_path / "results/x/soup/model.safetensors")
    for name, tensor in average(runs, ["a", "b", "c"]).items():
        torch.testing.assert_close(saved[name], tensor, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_soup_is_scored_and_saved_in_the_dtype_asked_for(dtype, text_runs, texts, tmp_path):
    words = (*own(text_runs, texts), "search=uniform", f"output.dtype={dtype}", "name=x")
    soupkitchen(*words, cwd=tmp_path)
    saved = load_file(tmp_path / "results/x/soup/model.safetensors")
    for name, tensor in average(text_runs, ["a", "b", "c", "d", "wild"]).items():
        assert saved[name].dtype == getattr(torch, dtype)
        torch.testing.assert_close(saved[name], tensor.to(saved[name].dtype), rtol=1e-2, atol=1e-6)


def test_a_causal_models_generation_settings_and_chat_template_are_saved(tmp_path):
    words = ["[PAD]", "[UNK]", *(f"w{number}" for number in range(48))]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", eos_token="[PAD]"
    )
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    for number in range(3):
        model = llama()
        torch.manual_seed(number)
        shake(model, 0.01)
        model.generation_config.update(max_new_tokens=7, repetition_penalty=1.3)
        model.save_pretrained(tmp_path / "runs" / f"run{number}")
        tokenizer.save_pretrained(tmp_path / "runs" / f"run{number}")
    texts = pd.DataFrame({"text": [f"w{i} w{i + 1} w{i + 2} w{i + 3}" for i in range(12)]})
    texts.to_csv(tmp_path / "texts.csv", index=False)
    soupkitchen(
        f"pool.path={tmp_path}/runs", "task=language_modeling", f"task.data.path={tmp_path}/texts.csv",
        "evaluation.cache=null", "search=uniform", "output.max_shard_size=20KB", "name=x", cwd=tmp_path,
    )  # fmt: skip
    soup = tmp_path / "results" / "x" / "soup"
    assert transformers.GenerationConfig.from_pretrained(soup).max_new_tokens == 7
    assert transformers.GenerationConfig.from_pretrained(soup).repetition_penalty == 1.3
    assert transformers.AutoTokenizer.from_pretrained(soup).chat_template == tokenizer.chat_template
    assert len(list(soup.glob("model-*.safetensors"))) > 1
    tensors = transformers.AutoModelForCausalLM.from_pretrained(soup).state_dict()
    for name, tensor in average(tmp_path / "runs", ["run0", "run1", "run2"]).items():
        torch.testing.assert_close(tensors[name], tensor, rtol=1e-6, atol=1e-7)


def test_a_bare_encoder_among_models_with_a_prefix(text_runs, tmp_path):
    from transformers import AutoModel

    for name in ("a", "b"):
        model = transformers.AutoModelForSequenceClassification.from_pretrained(text_runs / name)
        (model.bert if name == "b" else model).save_pretrained(tmp_path / "runs" / name)
    with pytest.raises(IncompatibleError, match=r"lacks 2 tensors: classifier"):
        find_pool(str(tmp_path / "runs"))
    tensors = load_file(tmp_path / "runs" / "a" / "model.safetensors")
    bare = {name: tensor for name, tensor in tensors.items() if name.startswith("bert.")}
    save_file(bare, tmp_path / "runs" / "a" / "model.safetensors", {"format": "pt"})
    pool = find_pool(str(tmp_path / "runs"))
    merged = dict(Soup(Linear()).blend(pool.runs))
    live = LiveModel(pool.reference, AutoModel, CPU)
    live.fill(merged.items())
    expected = average(text_runs, ["a", "b"])
    for name, tensor in live.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[f"bert.{name}"], rtol=1e-6, atol=1e-7)


def test_a_base_without_the_runs_prefix_is_their_base(text_runs, tmp_path):
    text_classifier().bert.save_pretrained(tmp_path / "base")
    base = find_pool(str(text_runs), base=str(tmp_path / "base")).base
    assert all(name.startswith("bert.") for name in base.header)
    assert len(base.header) > 10


def test_files_of_several_dtypes_are_scored_and_saved_in_the_widest(copy_runs, texts, tmp_path):
    runs = copy_runs("a", "b", "c")
    for run in runs.iterdir():
        tensors = load_file(run / "model.safetensors")
        narrow = {n: t if n.startswith("classifier") else t.bfloat16() for n, t in tensors.items()}
        save_file(narrow, run / "model.safetensors", {"format": "pt"})
        config = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    soupkitchen(*own(runs, texts), "search=uniform", "name=x", cwd=tmp_path)
    saved = load_file(tmp_path / "results/x/soup/model.safetensors")
    assert {tensor.dtype for tensor in saved.values()} == {torch.float32}
    for name, tensor in average(runs, ["a", "b", "c"]).items():
        torch.testing.assert_close(saved[name], tensor, rtol=1e-6, atol=1e-7)
